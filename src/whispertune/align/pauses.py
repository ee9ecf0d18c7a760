"""Where a recording pauses: pieces begin and end there, not in the middle of a sound."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from whispertune.features.log_mel import SAMPLE_RATE

FRAMES_PER_SECOND = 100
FRAME_SAMPLES = SAMPLE_RATE // FRAMES_PER_SECOND
BLOCK_FRAMES = 30 * FRAMES_PER_SECOND
"""Loudness is judged within blocks of half a minute."""
BELOW_SPEECH = 35.0
ABOVE_NOISE = 6.0
"""dB: a frame is silent if it is this far below its block's loud ones, or no further than this above its quiet ones."""
SHORTEST_PAUSE = 0.2
"""Seconds; the closure of a plosive is shorter."""
INTO = 0.005
"""Seconds: half a frame."""
KEPT_PAUSE = 0.1
"""Seconds of a pause that stay with the speech beside it, at most half of the pause."""


def frame_levels(blocks: Iterable[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """The level in dB of each 10 ms of a waveform that comes in blocks (16 kHz)."""
    rest = np.zeros(0, np.float32)
    levels = [np.zeros(0, np.float32)]
    for block in blocks:
        rest = np.concatenate([rest, block])
        whole = rest[: len(rest) // FRAME_SAMPLES * FRAME_SAMPLES]
        power = np.square(whole.reshape(-1, FRAME_SAMPLES)).mean(axis=1)
        levels.append(10 * np.log10(power + 1e-10))
        rest = rest[len(whole) :]
    return np.concatenate(levels)


@dataclass(frozen=True, slots=True)
class Pauses:
    """The pauses of a recording of at least 0.2 s.

    starts, ends: (P,) seconds, ascending; one that lasts to the end of the recording ends at infinity. duration: of the
    recording, seconds.
    """

    starts: npt.NDArray[np.float64]
    ends: npt.NDArray[np.float64]
    duration: float

    def sound_in(self, start: float, end: float) -> float:
        """A time at which there is sound in a span (seconds): in the middle of its longest stretch without a pause, or,
        if all of it is one, in the nearest sound."""
        begins = np.concatenate([[0.0], self.ends])
        finishes = np.concatenate([self.starts, [np.inf]])
        real = finishes > begins
        begins, finishes = begins[real], finishes[real]
        inside = np.minimum(finishes, end) - np.maximum(begins, start)
        place = int(np.argmax(inside))
        low, high = max(float(begins[place]), start), min(float(finishes[place]), end)
        if low > high:  # the sound begins after the span, or ends before it
            return float(begins[place]) + INTO if begins[place] >= end else float(finishes[place]) - INTO
        return (low + high) / 2

    def begin_of(self, time: float, earliest: float) -> float | None:
        """Where the speech that goes on at `time` begins: in the last pause before; None if it is before `earliest`."""
        place = int(np.searchsorted(self.starts, time)) - 1
        if place < 0 or self.ends[place] < earliest:
            return None
        return max(earliest, float(self.ends[place]) - self._kept(place))

    def end_of(self, time: float, latest: float) -> float | None:
        """Where the speech that goes on at `time` ends: in the next pause; None if that is after `latest`."""
        place = int(np.searchsorted(self.ends, time, side="right"))
        if place >= len(self.ends) or self.starts[place] > latest:
            return None
        return min(latest, float(self.starts[place]) + self._kept(place))

    def _kept(self, place: int) -> float:
        start, end = float(self.starts[place]), float(self.ends[place])
        # Of the last pause all may be kept, as no speech follows that it could be divided with.
        return min(KEPT_PAUSE, self.duration - start if end == np.inf else (end - start) / 2)


def find_pauses(levels: npt.NDArray[np.float32]) -> Pauses:
    """The pauses of a recording from its levels. Silence of any length at its beginning or end is one; the last never
    ends."""
    silent = np.zeros(len(levels), bool)
    for first in range(0, len(levels), BLOCK_FRAMES):
        block = levels[first : first + BLOCK_FRAMES]
        quiet, loud = np.percentile(block, [10, 95])
        silent[first : first + BLOCK_FRAMES] = block < max(loud - BELOW_SPEECH, min(quiet + ABOVE_NOISE, loud - 15))
    edges = np.flatnonzero(np.diff(np.concatenate([[False], silent, [False]]).astype(np.int8)))
    starts, ends = edges[::2], edges[1::2]
    long = (ends - starts >= SHORTEST_PAUSE * FRAMES_PER_SECOND) | (starts == 0) | (ends == len(levels))
    seconds = np.where(ends == len(levels), np.inf, ends / FRAMES_PER_SECOND)
    return Pauses(starts[long] / FRAMES_PER_SECOND, seconds[long], len(levels) / FRAMES_PER_SECOND)
