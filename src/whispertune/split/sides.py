"""Choose the side of each group, so that the sides hold what is asked for, in each stratum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from whispertune.split.groups import UNKNOWN, Sides
from whispertune.split.texts import Numbers
from whispertune.split.wishes import TEST, TRAIN, VALID, Wish

Sizes = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sized:
    """m groups. rows, seconds: (m,) what each holds. strata: (m,) the one of most of its rows. draws: (m,) its place in
    the order in which groups are taken. sides: (m,) of an earlier split, or -1."""

    rows: Sizes
    seconds: Sizes
    strata: Numbers
    draws: npt.NDArray[np.uint64]
    sides: Sides

    def sizes(self, wish: Wish) -> Sizes:
        """What a wish counts."""
        return self.rows if wish.seconds is None else self.seconds

    def target(self, wish: Wish) -> float:
        """What a side is to hold, in the wish's own measure."""
        return wish.share * float(self.rows.sum()) if wish.seconds is None else wish.seconds


def choose_sides(groups: Sized, wishes: Mapping[int, Wish]) -> Sides:
    """(m,) the side of each group; groups with an earlier side keep it.

    In the order of their draws, groups are taken for test, then for valid, wherever that brings the side closer to what
    is asked for; what one stratum misses or exceeds is made up for in the next. So a side is within half the size of a
    group of its wish, where smaller groups are left. A wished side is never empty if another has two groups.
    """
    sides = groups.sides.copy()
    order = np.lexsort((groups.draws, groups.strata))
    wished = [side for side in (TEST, VALID) if side in wishes]
    for side in wished:
        _take(groups, side, wishes[side], order, sides)
    sides[sides == UNKNOWN] = TRAIN
    for side in (*wished, TRAIN):
        if not (sides == side).any():
            _give_one(groups, side, sides)
    return sides


def _take(groups: Sized, side: int, wish: Wish, order: Numbers, sides: Sides) -> None:
    sizes, target = groups.sizes(wish), groups.target(wish)
    total = float(sizes.sum()) or 1.0
    missing = 0.0
    strata = groups.strata[order]
    for stratum in np.split(order, np.flatnonzero(np.diff(strata)) + 1):
        held = float(sizes[stratum][sides[stratum] == side].sum())
        missing += target * float(sizes[stratum].sum()) / total - held
        missing = _take_from(stratum, missing, sizes, side, sides)
    # Strata of large groups may have left more undone than smaller groups elsewhere could do.
    by_draw = order[np.argsort(groups.draws[order], kind="stable")]
    _take_from(by_draw, missing, sizes, side, sides)


def _take_from(places: Numbers, missing: float, sizes: Sizes, side: int, sides: Sides) -> float:
    """Take groups while that comes closer to what is missing; returns what still is."""
    free = places[sides[places] == UNKNOWN]
    for group, size in zip(free.tolist(), sizes[free].tolist(), strict=True):
        if missing <= 0:
            break
        if size <= 2 * missing:
            sides[group] = side
            missing -= size
    return missing


def _give_one(groups: Sized, side: int, sides: Sides) -> None:
    """Move the smallest group that may be moved to a side without any."""
    counts = np.bincount(sides, minlength=3)
    movable = np.flatnonzero((groups.sides == UNKNOWN) & (counts[sides] > 1))
    if len(movable):
        sides[movable[np.lexsort((groups.draws[movable], groups.rows[movable]))[0]]] = side
