"""Find recordings that may be the same by their first 0.25 s, so that the others need not be decoded in full."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from whispertune.data.audio.waveforms import SAMPLE_RATE, content_key, load_utterance, load_waveform
from whispertune.data.utterances import Utterance
from whispertune.errors import AudioError

DECODED_SECONDS = 0.5
COMPARED_SAMPLES = SAMPLE_RATE // 4
"""Half of what is decoded, as resampling changes the end of a span."""
NUM_SUMS = 4
TOLERANCE = 3e-4
"""Largest difference between the sums of equal audio; rounding samples to 16 bits changes them by 1e-5."""
CHUNK_ROWS = 1024
Fingerprints = npt.NDArray[np.float64]
"""(n, NUM_SUMS): randomly weighted sums of each recording's first samples; NaN where they can't be decoded. Unlike a
hash they are robust to rounding: copies in other sample rates or formats differ in their last bits."""

Sized = tuple[int, Utterance]
"""Number of samples at 16 kHz, and the utterance."""


def _weights() -> Fingerprints:
    generator = np.random.Generator(np.random.PCG64(0))
    weights: Fingerprints = generator.standard_normal((COMPARED_SAMPLES, NUM_SUMS)) / np.sqrt(COMPARED_SAMPLES)
    return weights


def fingerprints(rows: Sequence[Sized], workers: int, advance: Callable[[int], None] = lambda _: None) -> Fingerprints:
    """Fingerprints of these rows. advance: called with the number of rows done."""
    weights = _weights()

    def sums(row: Sized) -> Fingerprints:
        num_samples, utterance = row
        try:
            if num_samples <= DECODED_SECONDS * SAMPLE_RATE:
                waveform = load_utterance(utterance)
            else:
                waveform = load_waveform(
                    utterance.audio, utterance.start, utterance.start + DECODED_SECONDS,
                    channel=utterance.channel, within=utterance.within,
                )  # fmt: skip
        except AudioError:  # its headers were fine; it is excluded when it is used
            return np.full(NUM_SUMS, np.nan)
        waveform = waveform[:COMPARED_SAMPLES]
        found: Fingerprints = (waveform[:, None] * weights[: len(waveform)]).sum(axis=0)
        return found

    found = np.empty((len(rows), NUM_SUMS))
    with ThreadPoolExecutor(workers, "audio") as pool:
        for begin in range(0, len(rows), CHUNK_ROWS):
            chunk = rows[begin : begin + CHUNK_ROWS]
            found[begin : begin + len(chunk)] = list(pool.map(sums, chunk))
            advance(len(chunk))
    return found


def likely_pairs(
    lengths: npt.NDArray[np.int64], sums: Fingerprints, other_lengths: npt.NDArray[np.int64], other_sums: Fingerprints
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Indices of rows with the length and fingerprint of one of the others, and of these; all other pairs differ."""
    likely, others_likely = np.zeros(len(lengths), np.bool_), np.zeros(len(other_lengths), np.bool_)
    order = np.lexsort((other_sums[:, 0], other_lengths))
    ordered, ordered_lengths = other_sums[order], other_lengths[order]
    for length in np.unique(lengths).tolist():
        begin, end = np.searchsorted(ordered_lengths, [length, length + 1]).tolist()
        rows, others = np.flatnonzero(lengths == length), ordered[begin:end]
        first = others[: int((~np.isnan(others[:, 0])).sum()), 0]  # NaNs are sorted to the end
        lows, highs = (np.searchsorted(first, sums[rows, 0] + shift) for shift in (-TOLERANCE, TOLERANCE))
        for row, low, high in zip(rows.tolist(), lows.tolist(), highs.tolist(), strict=True):
            near = np.flatnonzero((np.abs(others[low:high] - sums[row]) < TOLERANCE).all(axis=1))
            likely[row] |= len(near) > 0
            others_likely[order[begin + low + near]] = True
    return np.flatnonzero(likely), np.flatnonzero(others_likely)


def content_keys(rows: Sequence[Utterance], workers: int, stop: Callable[[], None] = lambda: None) -> list[str]:
    """`content_key` of each whole waveform; "" if it can't be decoded. stop: called regularly; may raise."""

    def key(utterance: Utterance) -> str:
        try:
            return content_key(load_utterance(utterance))
        except AudioError:
            return ""

    with ThreadPoolExecutor(workers, "audio") as pool:
        keys: list[str] = []
        for begin in range(0, len(rows), CHUNK_ROWS):
            keys += pool.map(key, rows[begin : begin + CHUNK_ROWS])
            stop()
        return keys
