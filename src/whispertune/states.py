"""Windows -> encoder states: computed once and kept while the encoder is frozen, else computed at each use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from whispertune.features import log_mel_speech
from whispertune.frames import FrameOptions, convolved_index, select_frames
from whispertune.model.whisper import PADDING_LOG_WEIGHT, Encoder

BATCH_FRAMES = 4096
"""Kept frames (padding included) encoded at once, unless one window alone holds more."""


@dataclass(frozen=True, kw_only=True)
class StateOptions:
    """Keeping encoder states."""

    store: Literal["auto", "memory", "off"] = "auto"
    """`memory` encodes fixed waveforms once and keeps their states, `off` encodes them at each use; `auto` keeps
    them wherever they stay the same: frozen encoder, no augmentation."""


@dataclass(frozen=True, slots=True)
class EncoderStates:
    """What the decoder attends to.

    states: (B, K, D). log_weights: (B, K) float32, the logarithm of the number of frames each stands for,
    `PADDING_LOG_WEIGHT` where a row has ended; None if every frame stands for itself alone.
    """

    states: Tensor
    log_weights: Tensor | None

    def to(self, device: torch.device, dtype: torch.dtype) -> EncoderStates:
        """The same on a device, states in `dtype`."""
        weights = None if self.log_weights is None else self.log_weights.to(device)
        return EncoderStates(self.states.to(device, dtype), weights)

    def select(self, rows: Sequence[int]) -> EncoderStates:
        """These rows alone."""
        chosen = list(rows)
        return EncoderStates(self.states[chosen], None if self.log_weights is None else self.log_weights[chosen])


@dataclass(frozen=True, slots=True)
class WindowFeatures:
    """One window on its way to the encoder: log_mel (n_mels, M); positions, counts, index (K,) of the kept frames."""

    log_mel: Tensor
    positions: np.ndarray
    counts: np.ndarray
    index: np.ndarray


def window_features(
    waveform: np.ndarray,
    n_mels: int,
    frames: FrameOptions,
    mask: Callable[[np.ndarray], np.ndarray] | None = None,
) -> WindowFeatures:
    """Features of a waveform (num_samples,); `mask` alters its log-mel (SpecAugment)."""
    log_mel = log_mel_speech(waveform, n_mels)
    if mask is not None:
        log_mel = torch.from_numpy(mask(log_mel.numpy()))
    selection = select_frames(len(waveform), frames)
    index = convolved_index(selection.positions, log_mel.shape[1])
    return WindowFeatures(log_mel, selection.positions, selection.counts, index)


def _log_weights(counts: Sequence[np.ndarray]) -> Tensor | None:
    """Padded log counts (B, K), or None if all rows are equally long and every count is 1."""
    num_frames = max(map(len, counts))
    if all(len(row) == num_frames and (row == 1).all() for row in counts):
        return None
    weights = torch.full((len(counts), num_frames), PADDING_LOG_WEIGHT)
    for row, values in enumerate(counts):
        weights[row, : len(values)] = torch.from_numpy(np.log(values)).float()
    return weights


def encode(encoder: Encoder, features: Sequence[WindowFeatures]) -> EncoderStates:
    """Encoder states of a batch of windows, on the encoder's device and in its type.

    Runs under whatever gradient mode is on.
    """
    weight = encoder.conv1.weight
    num_frames = max(len(row.positions) for row in features)
    log_mel = torch.zeros(len(features), features[0].log_mel.shape[0], max(f.log_mel.shape[1] for f in features))
    index = torch.zeros(len(features), num_frames, dtype=torch.long)
    positions = torch.zeros_like(index)
    for row, window in enumerate(features):
        log_mel[row, :, : window.log_mel.shape[1]] = window.log_mel
        index[row, : len(window.index)] = torch.from_numpy(window.index)
        positions[row, : len(window.positions)] = torch.from_numpy(window.positions)
    log_weights = _log_weights([window.counts for window in features])
    if log_weights is not None:
        log_weights = log_weights.to(weight.device)
    inputs = (log_mel.to(weight.device, weight.dtype), index.to(weight.device), positions.to(weight.device))
    return EncoderStates(encoder(*inputs, log_weights), log_weights)


def encoding_batches(num_samples: Sequence[int], frames: FrameOptions) -> list[list[int]]:
    """Windows grouped for encoding, longest first: a function of the lengths (samples) and options alone."""
    num_frames = [len(select_frames(samples, frames).positions) for samples in num_samples]
    batches: list[list[int]] = []
    for index in sorted(range(len(num_frames)), key=lambda i: (-num_frames[i], i)):
        if batches and num_frames[batches[-1][0]] * (len(batches[-1]) + 1) <= BATCH_FRAMES:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


class StateSource(Protocol):
    """Where the decoder's batches come from."""

    def fetch(self, indices: Sequence[int], view: int) -> EncoderStates:
        """States of these windows; `view` numbers the augmented copy (the epoch)."""


class ComputedStates:
    """States encoded at each use: for augmented waveforms, a trained encoder, or splits seen once.

    features(index, view) yields the copies of one window (clean, augmented); they are prepared by `workers`
    threads, whose number changes no result. Only with `trained` do gradients reach the encoder.
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

    def fetch(self, indices: Sequence[int], view: int = 0) -> EncoderStates:
        """States of these windows: all first copies, then all second ones."""
        rows = list(self._pool.map(lambda index: self._features(index, view), indices))
        features = [copy for copies in zip(*rows, strict=True) for copy in copies]
        if self._trained:
            return encode(self._encoder, features)
        with torch.no_grad():
            return encode(self._encoder, features)


class StoredStates:
    """States of fixed windows, encoded once and kept in memory.

    states: (total kept frames, D); window i owns the rows offsets[i] to offsets[i + 1].
    """

    def __init__(self, num_samples: Sequence[int], frames: FrameOptions, d_model: int, dtype: torch.dtype) -> None:
        self._selections = [select_frames(samples, frames) for samples in num_samples]
        sizes = [len(selection.positions) for selection in self._selections]
        self._offsets = np.concatenate([[0], np.cumsum(sizes)])
        self._states = torch.empty(int(self._offsets[-1]), d_model, dtype=dtype)
        self.batches = encoding_batches(num_samples, frames)

    def fill(self, encoder: Encoder, features: Callable[[int], WindowFeatures], *, workers: int) -> Iterator[int]:
        """Encode everything; yields the number of windows done after each batch."""
        with ThreadPoolExecutor(max(1, workers), "features") as pool, torch.inference_mode():
            pending = [pool.submit(features, index) for index in self.batches[0]]
            for number, batch in enumerate(self.batches):
                ready = [future.result() for future in pending]
                upcoming = self.batches[number + 1] if number + 1 < len(self.batches) else []
                pending = [pool.submit(features, index) for index in upcoming]
                encoded = encode(encoder, ready).states.to("cpu")
                for row, index in enumerate(batch):
                    begin, end = self._offsets[index], self._offsets[index + 1]
                    self._states[begin:end] = encoded[row, : end - begin]
                yield len(batch)

    def fetch(self, indices: Sequence[int], view: int = 0) -> EncoderStates:
        parts = [self._states[self._offsets[i] : self._offsets[i + 1]] for i in indices]
        states = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
        return EncoderStates(states, _log_weights([self._selections[i].counts for i in indices]))
