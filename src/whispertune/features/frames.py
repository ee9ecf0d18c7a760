"""Select the encoder frames of a window to compute, and the number of frames that each represents.

Whisper's encoder processes 1500 frames (30 s, 20 ms each) whatever the utterance's length. `thinned` keeps every
frame of the speech, a margin after it and the window's last frames. The silence between them is cut into blocks, and
one frame of each block is kept to represent it. A block is at most `stride` frames long, and no longer than its
distance from the frames that are all kept. `dense` keeps all frames, like the original Whisper.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from whispertune.features.options import WINDOW_FRAMES, FrameOptions

FRAME_SAMPLES = 320
"""20 ms."""


@dataclass(frozen=True, slots=True)
class FrameSelection:
    """Kept frames, ascending, and the number of frames that each represents; the counts sum to 1500.

    positions, counts: (K,) int64.
    """

    positions: np.ndarray
    counts: np.ndarray


def select_frames(num_samples: int, options: FrameOptions) -> FrameSelection:
    """The kept frames of a window whose first `num_samples` samples (16 kHz) hold the speech."""
    return _selection(-(-num_samples // FRAME_SAMPLES), options)


@functools.lru_cache(maxsize=2 * WINDOW_FRAMES)
def _selection(speech: int, options: FrameOptions) -> FrameSelection:
    if options.selection == "dense":
        positions, counts = np.arange(WINDOW_FRAMES), np.ones(WINDOW_FRAMES, np.int64)
    else:
        kept_until = min(WINDOW_FRAMES, speech + options.margin)
        edge_from = max(kept_until, WINDOW_FRAMES - options.edge)
        sizes = np.array(_silent_blocks(edge_from - kept_until, options.stride), np.int64)
        starts = kept_until + np.cumsum(sizes) - sizes
        positions = np.concatenate([np.arange(kept_until), starts + sizes // 2, np.arange(edge_from, WINDOW_FRAMES)])
        ones = np.ones(kept_until, np.int64), np.ones(WINDOW_FRAMES - edge_from, np.int64)
        counts = np.concatenate([ones[0], sizes, ones[1]])
    for array in (positions, counts):
        array.setflags(write=False)  # the cache shares them
    return FrameSelection(positions, counts)


def _silent_blocks(num_frames: int, stride: int) -> list[int]:
    """Sizes of the blocks that a silence is cut into: small at both ends, at most `stride`."""
    sizes: list[int] = []
    done = 0
    while done < num_frames:
        left = num_frames - done
        sizes.append(min(stride, left, max(2, done), max(2, left // 2)))
        done += sizes[-1]
    return sizes


def count_frames(num_samples: npt.ArrayLike, options: FrameOptions) -> npt.NDArray[np.int32]:
    """(n,) frames that `select_frames` keeps of each window; fast for a million windows, as there are few lengths."""
    speech = (-(-np.asarray(num_samples, np.int64) // FRAME_SAMPLES)).astype(np.int32)
    count = np.bincount(speech)
    kept = np.zeros(len(count), np.int32)
    for length in np.flatnonzero(count).tolist():
        kept[length] = len(select_frames(length * FRAME_SAMPLES, options).positions)
    return kept[speech]


def convolved_index(positions: np.ndarray, num_mel_frames: int) -> np.ndarray:
    """Index (K,) of each kept frame among the `num_mel_frames` / 2 frames that were convolved.

    The last convolved frame is the window's right edge; the last but one represents all silence before it.
    """
    num_convolved = num_mel_frames // 2
    index: np.ndarray = np.minimum(positions, num_convolved - 2)
    index[positions == WINDOW_FRAMES - 1] = num_convolved - 1
    return index
