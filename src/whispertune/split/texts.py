"""Which rows have the same text, or nearly the same: found among a million in seconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cpdist

from whispertune.check.sketches import NUM_HASHES, SHINGLE, Hashes, spoken_texts, text_sketches
from whispertune.data.utterances import Utterances
from whispertune.split.sets import DisjointSets

CHUNK_ROWS = 4_000
SKETCHED = 500
"""Texts that are sketched together: their characters fit in a CPU's cache."""
NEAR = 0.18
"""Share of the spoken characters in which two texts may differ and still be nearly the same. `check` reports texts that
differ in 15 %, spaces included."""
AGREEING = 4
"""Of 12 equal hashes, from which two texts themselves are compared. Of texts that differ in a word of ten, 7 agree."""
NEIGHBOURS = 4
"""Each text is compared with this many others that share a part of its sketch."""
Numbers = npt.NDArray[np.int64]


def similar_texts(sources: Sequence[Utterances]) -> tuple[Numbers, Numbers]:
    """(n,) a number for each row's text, equal for texts that are (nearly) the same, and (n,) its spoken characters.

    Texts are nearly the same if they differ in at most 18 % of their letters and digits; case, punctuation and spaces
    do not count. Near ones are searched by MinHash, which misses a few; equal ones are always found. A chain of similar
    texts is one group. -1: nothing is spoken. The groups do not depend on the order of the rows.
    """
    known: dict[str, int] = {"": -1}
    of: list[int] = []
    for rows in sources:
        for begin in range(0, len(rows), CHUNK_ROWS):
            for text in spoken_texts(rows.strings(range(begin, min(begin + CHUNK_ROWS, len(rows))))[2]):
                of.append(known.setdefault(text, len(known) - 1))
    del known[""]
    texts = list(known)
    groups = DisjointSets(len(texts))
    for one, other in _near_pairs(texts):
        groups.join(one, other)
    roots = np.array([*map(groups.find, range(len(texts))), -1], np.int64)
    letters = np.array([*map(len, texts), 0], np.int64)
    numbers = np.array(of, np.int64)
    return roots[numbers], letters[numbers]


def _near_pairs(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Pairs of different texts that are nearly the same; where many are, a chain of them."""
    chunks = (texts[begin : begin + SKETCHED] for begin in range(0, len(texts), SKETCHED))
    sketches = np.concatenate([np.zeros((0, NUM_HASHES), np.uint64), *map(text_sketches, chunks)])
    # In the order of the texts, so that that of the rows does not matter.
    long = sorted((number for number, text in enumerate(texts) if len(text) >= SHINGLE), key=texts.__getitem__)
    for pairs in _candidates(sketches, np.array(long, np.int64)):
        for begin in range(0, len(pairs), 1 << 16):
            part = pairs[begin : begin + (1 << 16)]
            ours, theirs = ([texts[number] for number in column] for column in part.T.tolist())
            apart = cpdist(ours, theirs, scorer=Levenshtein.normalized_distance, score_cutoff=NEAR)
            yield from map(tuple, part[apart <= NEAR].tolist())


def _candidates(sketches: Hashes, order: Numbers) -> Iterator[Numbers]:
    """(m, 2) pairs whose sketches share two consecutive hashes and agree in several. order: of the texts."""
    for column in range(NUM_HASHES):
        keys = sketches[order, column - 1] ^ (sketches[order, column] << np.uint64(1))
        sorting = np.argsort(keys, kind="stable")
        ranked, keys = order[sorting], keys[sorting]
        for nth in range(1, NEIGHBOURS + 1):
            at = np.flatnonzero(keys[:-nth] == keys[nth:])
            pairs = np.stack([ranked[at], ranked[at + nth]], axis=1)
            agreeing = np.zeros(len(pairs), np.int64)
            for number in range(NUM_HASHES):
                agreeing += sketches[pairs[:, 0], number] == sketches[pairs[:, 1], number]
            yield pairs[agreeing >= AGREEING]
