"""Encoder states computed at each use (`stored.py` stores those that do not change)."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from whispertune.features.frames import convolved_index, count_frames, select_frames
from whispertune.features.log_mel import log_mel_speech
from whispertune.features.options import FrameOptions
from whispertune.model.attention import PADDING_LOG_WEIGHT
from whispertune.model.whisper import Encoder
from whispertune.system.lazy import Lazy
from whispertune.system.precision import send

BATCH_FRAMES = 2048
"""Most kept frames (padding included) per encoding batch, unless a single window has more."""
LOOK_AHEAD = 2
"""Number of batches whose features are prepared while the model computes."""


@dataclass(frozen=True, slots=True)
class EncoderStates:
    """Encoder states of a batch, for cross-attention.

    states: (B, K, D). log_weights: (B, K) float32, the logarithm of the number of frames that each represents,
    `PADDING_LOG_WEIGHT` in the padding; None if every frame represents only itself.
    """

    states: Tensor
    log_weights: Tensor | None
    num_frames: tuple[int, ...] | None = None
    """Frames of each row without its padding; None if no row is padded."""
    unreadable: tuple[int, ...] = ()
    """Rows whose audio could not be decoded; they hold silence and must not be used."""

    def to(self, device: torch.device, dtype: torch.dtype) -> EncoderStates:
        """A copy on a device, with states in `dtype`."""
        weights = None if self.log_weights is None else send(self.log_weights, device)
        return EncoderStates(send(self.states, device).to(dtype), weights, self.num_frames, self.unreadable)

    def pinned(self) -> EncoderStates:
        """The same in page-locked memory, from which copies to an NVIDIA GPU don't wait."""
        return replace(self, states=self.states.pin_memory())

    def select(self, rows: Sequence[int]) -> EncoderStates:
        """Only these rows."""
        chosen = list(rows)
        weights = None if self.log_weights is None else self.log_weights[chosen]
        num_frames = None if self.num_frames is None else tuple(self.num_frames[row] for row in chosen)
        unreadable = tuple(place for place, row in enumerate(chosen) if row in self.unreadable)
        return EncoderStates(self.states[chosen], weights, num_frames, unreadable)


@dataclass(frozen=True, slots=True)
class WindowFeatures:
    """The encoder's input for one window: log_mel (n_mels, M); positions, counts, index (K,) of the kept frames.

    readable: whether its audio could be decoded; otherwise these are the features of silence of the same length.
    """

    log_mel: Tensor
    positions: np.ndarray
    counts: np.ndarray
    index: np.ndarray
    readable: bool = True


def window_features(
    waveform: np.ndarray,
    n_mels: int,
    frames: FrameOptions,
    mask: Callable[[np.ndarray], np.ndarray] | None = None,
    *,
    readable: bool = True,
) -> WindowFeatures:
    """Features of a waveform (num_samples,). mask: applied to the log-mel (SpecAugment). readable: as above."""
    log_mel = log_mel_speech(waveform, n_mels)
    if mask is not None:
        log_mel = torch.from_numpy(mask(log_mel.numpy()))
    selection = select_frames(len(waveform), frames)
    index = convolved_index(selection.positions, log_mel.shape[1])
    return WindowFeatures(log_mel, selection.positions, selection.counts, index, readable)


def padded_log_weights(counts: Sequence[np.ndarray]) -> Tensor | None:
    """(B, K) logarithms of the counts of each row, padded; None if all rows have one length and every count is 1."""
    num_frames = max(map(len, counts))
    if all(len(row) == num_frames and (row == 1).all() for row in counts):
        return None
    weights = torch.full((len(counts), num_frames), PADDING_LOG_WEIGHT)
    for row, values in enumerate(counts):
        weights[row, : len(values)] = torch.from_numpy(np.log(values)).float()
    return weights


def encode(encoder: Encoder, features: Sequence[WindowFeatures]) -> EncoderStates:
    """Encoder states of a batch of windows, on the encoder's device, in its type and the current gradient mode."""
    weight = encoder.conv1.weight
    num_frames = tuple(len(row.positions) for row in features)
    log_mel = torch.zeros(len(features), features[0].log_mel.shape[0], max(f.log_mel.shape[1] for f in features))
    index = torch.zeros(len(features), max(num_frames), dtype=torch.long)
    positions = torch.zeros_like(index)
    for row, window in enumerate(features):
        log_mel[row, :, : window.log_mel.shape[1]] = window.log_mel
        index[row, : len(window.index)] = torch.tensor(window.index)
        positions[row, : len(window.positions)] = torch.tensor(window.positions)
    log_weights = padded_log_weights([window.counts for window in features])
    if log_weights is not None:
        log_weights = send(log_weights, weight.device)
    inputs = (send(log_mel, weight.device).to(weight.dtype), send(index, weight.device), send(positions, weight.device))
    unreadable = tuple(row for row, window in enumerate(features) if not window.readable)
    return EncoderStates(encoder(*inputs, log_weights, num_frames), log_weights, num_frames, unreadable)


@torch.no_grad()
def encode_frozen(encoder: Encoder, features: Sequence[WindowFeatures]) -> EncoderStates:
    """As `encode`, without gradients; half of the windows at a time if a GPU's memory runs out."""
    try:
        return encode(encoder, features)
    except torch.OutOfMemoryError:
        if len(features) == 1:
            raise
    # Only here, as the exception holds the memory of what failed.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    half = len(features) // 2
    return one_behind_the_other([encode_frozen(encoder, part) for part in (features[:half], features[half:])])


def one_behind_the_other(parts: Sequence[EncoderStates]) -> EncoderStates:
    """Concatenate the rows of all parts, padded to one number of frames, in the type of the last; on the GPU if any is
    there."""
    cpu, dtype = torch.device("cpu"), parts[-1].states.dtype
    device = next((part.states.device for part in parts if part.states.device != cpu), cpu)
    longest = max(part.states.shape[1] for part in parts)
    begins = accumulate((part.states.shape[0] for part in parts), initial=0)
    unreadable = tuple(begin + row for begin, part in zip(begins, parts, strict=False) for row in part.unreadable)
    num_frames = tuple(chain.from_iterable(part.num_frames or _all_frames(part) for part in parts))
    if all(part.log_weights is None and part.states.shape[1] == longest for part in parts):
        rows = torch.cat([send(part.states, device).to(dtype) for part in parts])
        return EncoderStates(rows, None, num_frames, unreadable)
    states, log_weights = [], []
    for part in parts:
        behind = (0, longest - part.states.shape[1])
        weights = torch.zeros(part.states.shape[:2]) if part.log_weights is None else part.log_weights
        states.append(torch.nn.functional.pad(send(part.states, device).to(dtype), (0, 0, *behind)))
        log_weights.append(torch.nn.functional.pad(send(weights, device), behind, value=PADDING_LOG_WEIGHT))
    return EncoderStates(torch.cat(states), torch.cat(log_weights), num_frames, unreadable)


def _all_frames(part: EncoderStates) -> tuple[int, ...]:
    num_rows, longest = part.states.shape[:2]
    return (longest,) * num_rows


def encoding_batches(num_samples: Sequence[int], frames: FrameOptions) -> Sequence[list[int]]:
    """Group windows for encoding, longest first; depends only on their lengths (samples) and the options."""
    num_frames = count_frames(num_samples, frames)
    order = np.argsort(-num_frames, kind="stable").astype(np.int32)
    longest_first, begins = num_frames[order], array("q", [0])
    while begins[-1] < len(order):
        begins.append(min(begins[-1] + max(1, BATCH_FRAMES // int(longest_first[begins[-1]])), len(order)))
    return Lazy(len(begins) - 1, lambda number: order[begins[number] : begins[number + 1]].tolist())


class StateSource(Protocol):
    """A source of encoder states; `view` is the number of the augmented copy (the epoch)."""

    def prepare(self, batches: Iterable[Sequence[int]], view: int) -> None:
        """Announce the next batches of windows, in this order, so that work can start early; changes no result.

        batches: may be gone through several times, and are only as far as work has begun.
        """

    def fetch(self, indices: Sequence[int], view: int) -> EncoderStates:
        """States of these windows."""


Batch = tuple[tuple[int, ...], int]
"""Windows, and the view."""


class LookAhead:
    """Work on batches that are announced, begun before they are asked for; it changes no result.

    begin(batch): starts the work on a batch in other threads.
    """

    def __init__(self, begin: Callable[[Batch], Sequence[Future[Any]]]) -> None:
        self._begin = begin
        self._upcoming: Iterator[Batch] = iter(())
        self._begun: deque[tuple[Batch, Sequence[Future[Any]]]] = deque()

    def announce(self, batches: Iterable[Batch]) -> None:
        """Begin with the first of these batches, in place of those that were announced before."""
        for _, futures in self._begun:
            for future in futures:
                future.cancel()
        self._begun.clear()
        self._upcoming = iter(batches)
        self._look_ahead()

    def _look_ahead(self) -> None:
        while len(self._begun) < LOOK_AHEAD and (batch := next(self._upcoming, None)) is not None:
            self._begun.append((batch, self._begin(batch)))

    def take(self, batch: Batch) -> Sequence[Future[Any]]:
        """The work on this batch; another one is begun in its place."""
        futures = self._begun.popleft()[1] if self._begun and self._begun[0][0] == batch else self._begin(batch)
        self._look_ahead()
        return futures


class ComputedStates:
    """States encoded at each use: for fresh augmentation, a trained encoder, or splits that are used once.

    features(index, view) returns the copies of one window (clean, augmented); `workers` threads compute them, in
    advance for batches that `prepare` has announced. Gradients reach the encoder only if `trained`.
    """

    def __init__(
        self,
        encoder: Encoder,
        features: Callable[[int, int], Sequence[WindowFeatures]],
        *,
        workers: int,
        trained: bool = False,
    ) -> None:
        self._encoder = encoder
        self._features = features
        self._pool = ThreadPoolExecutor(workers, "features")
        self._trained = trained
        self._ahead = LookAhead(self._begin)

    def prepare(self, batches: Iterable[Sequence[int]], view: int = 0) -> None:
        """Start computing features of the first of these batches; each `fetch` starts one more."""
        self._ahead.announce((tuple(batch), view) for batch in batches)

    def _begin(self, batch: Batch) -> list[Future[Sequence[WindowFeatures]]]:
        indices, view = batch
        return [self._pool.submit(self._features, index, view) for index in indices]

    def fetch(self, indices: Sequence[int], view: int = 0) -> EncoderStates:
        """States of these windows: all first copies, then all second ones."""
        rows = [future.result() for future in self._ahead.take((tuple(indices), view))]
        features = [copy for copies in zip(*rows, strict=True) for copy in copies]
        if self._trained:
            return encode(self._encoder, features)
        return encode_frozen(self._encoder, features)
