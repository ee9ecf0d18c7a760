"""Join rows that must not be on two sides into groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from whispertune.split.sets import DisjointSets
from whispertune.split.texts import Numbers
from whispertune.split.wishes import SIDES

Sides = npt.NDArray[np.int8]
UNKNOWN = -1


@dataclass(frozen=True, slots=True)
class Groups:
    """Groups of n rows.

    of: (n,) index of each row's group; -1 for a row that would join two sides of an earlier split. sides: (m,) side of
    each group in the earlier split, or -1. reasons: of the rows of no group.
    """

    of: Numbers
    sides: Sides
    reasons: dict[int, str]


def group_rows(ties: dict[str, Numbers], earlier: Sides, draws: npt.NDArray[np.uint64]) -> Groups:
    """Group rows that share anything.

    ties: what rows may share (recording, speaker, text), each (n,) of numbers, -1 for nothing; every row has the first.
    earlier: (n,) side of each row in an earlier split, -1 if it is new. A row that shares something with two sides is
    left out: new ones rather than earlier ones, those of train rather than of valid, of valid rather than of test.
    """
    names, columns = list(ties), []
    size = 0
    for numbers in ties.values():
        columns.append(np.where(numbers < 0, -1, numbers + size))
        size += int(numbers.max(initial=-1)) + 1
    sets = DisjointSets(size)
    reasons: dict[int, str] = {}
    if (earlier >= 0).any():
        # Test first, new rows last, in an order that does not depend on the manifest's.
        order = np.lexsort((draws, -earlier)).tolist()
        known = earlier.tolist()
        rows = list(zip(*(column.tolist() for column in columns), strict=True))
        for row in order:
            keys = [key for key in rows[row] if key >= 0]
            labels = sets.labels(keys) | ({known[row]} - {UNKNOWN})
            if len(labels) > 1:
                shared = {name: sets.labels([key]) for name, key in zip(names, rows[row], strict=True) if key >= 0}
                ties_to = [f"its {name} is in {SIDES[label]}" for name, found in shared.items() for label in found]
                ties_to += [] if known[row] == UNKNOWN else [f"it was in {SIDES[known[row]]} itself"]
                reasons[row] = " and ".join(ties_to)
                continue
            root = sets.join(*keys)
            if labels:
                sets.label(root, labels.pop())
    else:
        for other in columns[1:]:
            both = np.unique((columns[0] * size + other)[other >= 0])
            recurs = np.bincount(both % size, minlength=1) > 1  # what is in one place only joins nothing
            both = both[recurs[both % size]]
            for one, another in zip((both // size).tolist(), (both % size).tolist(), strict=True):
                sets.join(one, another)
    roots = np.fromiter(map(sets.find, columns[0].tolist()), np.int64, len(earlier))
    roots[list(reasons)] = -1
    present, of = np.unique(roots, return_inverse=True)
    first = int(len(present) > 0 and present[0] < 0)
    labelled = [sets.labels([root]) for root in present[first:].tolist()]
    sides = np.array([label.pop() if label else UNKNOWN for label in labelled], np.int8)
    return Groups(of.reshape(-1) - first, sides, reasons)
