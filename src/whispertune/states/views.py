"""State sources for the trainer: stored augmented views, layers that learn above them, several copies of a window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate, chain

import torch

from whispertune.model.attention import PADDING_LOG_WEIGHT
from whispertune.model.whisper import Encoder
from whispertune.states.computed import EncoderStates, StateSource
from whispertune.states.stored import StoredStates
from whispertune.system.precision import send


class StoredViews:
    """K stored views, each encoded on first use; view v is store v modulo K."""

    def __init__(self, num_views: int, open_view: Callable[[int], StoredStates]) -> None:
        self._num_views = num_views
        self._open_view = open_view
        self._stores: dict[int, StoredStates] = {}

    def _store(self, view: int) -> StoredStates:
        number = view % self._num_views
        if number not in self._stores:
            self._stores[number] = self._open_view(number)
        return self._stores[number]

    def prepare(self, batches: Sequence[Sequence[int]], view: int = 0) -> None:
        """Encode this view now, unless it is already stored."""
        self._store(view)

    def fetch(self, indices: Sequence[int], view: int = 0) -> EncoderStates:
        return self._store(view).fetch(indices)


class UpperLayers:
    """States of a source that holds what comes out of the encoder's first `num_layers`, taken through the others.

    Gradients reach those layers.
    """

    def __init__(self, source: StateSource, encoder: Encoder, num_layers: int) -> None:
        self._source = source
        self._encoder = encoder
        self._num_layers = num_layers

    def prepare(self, batches: Sequence[Sequence[int]], view: int = 0) -> None:
        self._source.prepare(batches, view)

    def fetch(self, indices: Sequence[int], view: int = 0) -> EncoderStates:
        weight = self._encoder.conv1.weight
        lower = self._source.fetch(indices, view).to(weight.device, weight.dtype)
        states = self._encoder.upper(self._num_layers, lower.states, lower.log_weights, lower.num_frames)
        return replace(lower, states=states)


class SideBySide:
    """Copies of each window from several sources: all rows of the first, then all of the second."""

    def __init__(self, sources: Sequence[StateSource]) -> None:
        self._sources = sources

    def prepare(self, batches: Sequence[Sequence[int]], view: int = 0) -> None:
        for source in self._sources:
            source.prepare(batches, view)

    def fetch(self, indices: Sequence[int], view: int = 0) -> EncoderStates:
        return one_behind_the_other([source.fetch(indices, view) for source in self._sources])


def one_behind_the_other(parts: Sequence[EncoderStates]) -> EncoderStates:
    """Concatenate the rows of all parts, padded to one number of frames, on the device and in the type of the last."""
    device, dtype = parts[-1].states.device, parts[-1].states.dtype
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
