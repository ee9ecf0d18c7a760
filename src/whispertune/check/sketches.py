"""Texts reduced to what is spoken, and hashes of them: equal for the same words, or similar for similar ones."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from whispertune.check.scripts import ANY, DIGIT, LAST, OTHER, classes, lower

NUM_HASHES = 12
SHINGLE = 5
"""Length in letters; texts that share most of their shingles are nearly the same."""
Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]


def spoken_texts(texts: Sequence[str]) -> list[str]:
    """The spoken characters of each text, in lower case: equal for texts that differ in punctuation and spaces only."""
    composed = [text if text.isascii() else unicodedata.normalize("NFKC", text) for text in texts]
    lengths = np.fromiter(map(len, composed), np.int64, len(composed))
    codes = np.frombuffer("".join(composed).encode("utf-32-le", "surrogatepass"), np.uint32)
    codes = np.minimum(codes, LAST - 1)
    spoken = is_spoken(classes()[codes])
    kept = lower()[codes[spoken]].astype(np.uint32).tobytes().decode("utf-32-le", "surrogatepass")
    bounds = np.searchsorted(np.flatnonzero(spoken), np.concatenate([[0], np.cumsum(lengths)])).tolist()
    return [kept[begin:end] for begin, end in pairwise(bounds)]


def text_sketches(spoken: Sequence[str]) -> Hashes:
    """(n, 12) sketches of texts that `spoken_texts` returned."""
    counts = np.fromiter(map(len, spoken), np.int64, len(spoken))
    codes = np.frombuffer("".join(spoken).encode("utf-32-le", "surrogatepass"), np.uint32)
    return sketches_of(codes.astype(np.uint64), counts)


def is_spoken(kinds: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Whether characters of these classes are spoken: letters, marks, digits."""
    spoken: npt.NDArray[np.bool_] = ((kinds > 0) & (kinds <= OTHER)) | (kinds == ANY) | (kinds == DIGIT)
    return spoken


def row_hashes(codes: Hashes, counts: Ints) -> Hashes:
    """A polynomial hash of each row's characters, modulo 2^64; 0 for an empty row."""
    starts = np.concatenate([[0], np.cumsum(counts)])
    place = np.arange(len(codes)) - np.repeat(starts[:-1], counts)
    powers = np.full(int(counts.max(initial=0)) + 1, 0x9E3779B97F4A7C15, np.uint64)
    powers[0] = 1
    powers = np.cumprod(powers)
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(_stirred_characters()[codes] * powers[place])])
    hashes: Hashes = sums[starts[1:]] - sums[starts[:-1]]
    return hashes


@cache
def _stirred_characters() -> Hashes:
    return mixed(np.arange(LAST, dtype=np.uint64))


def mixed(values: Hashes) -> Hashes:
    """Mix bits: the finaliser of SplitMix64 (Steele et al. 2014)."""
    values = values ^ (values >> np.uint64(30))
    values *= np.uint64(0xBF58476D1CE4E5B9)  # from here on in place, which takes two thirds of the time
    values += np.uint64(0x9E3779B97F4A7C15)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def sketches_of(codes: Hashes, counts: Ints) -> Hashes:
    """MinHash (Broder 1997) of each row's shingles of 5 characters; all ones for a row without any."""
    sketches = np.full((len(counts), NUM_HASHES), np.iinfo(np.uint64).max, np.uint64)
    if len(codes) < SHINGLE:
        return sketches
    size = len(codes) - SHINGLE + 1
    runs = np.zeros(size, np.uint64)
    for offset in range(SHINGLE):
        runs = runs * np.uint64(0x100000001B3) + codes[offset : offset + size]
    starts = np.concatenate([[0], np.cumsum(counts)])[:-1]
    whole = counts >= SHINGLE
    # Exclude shingles that extend into the next row: the last 4 of each row.
    edges = np.stack([starts[whole], np.minimum(starts[whole] + counts[whole] - SHINGLE + 1, size)], axis=1).ravel()
    padded = np.append(runs, np.uint64(0))
    for number in range(NUM_HASHES):
        hashed = mixed(padded ^ np.uint64((number + 1) * 0x2545F4914F6CDD1D % (1 << 64)))
        sketches[whole, number] = np.minimum.reduceat(hashed, edges)[::2]
    return sketches
