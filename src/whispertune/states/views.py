"""State sources for the trainer: stored augmented views, layers that learn above them, several copies of a window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from whispertune.model.whisper import Encoder
from whispertune.states.computed import EncoderStates, StateSource, one_behind_the_other
from whispertune.states.stored import StoredStates


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
