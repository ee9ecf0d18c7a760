"""State sources for the trainer: stored augmented views, layers that learn above them, several copies of a window."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import torch

from whispertune.model.whisper import Encoder
from whispertune.states.computed import Batch, EncoderStates, LookAhead, StateSource, one_behind_the_other
from whispertune.states.stored import StoredStates
from whispertune.system.console import console
from whispertune.system.environment import spare_memory_on
from whispertune.system.precision import LIMITED

HELD_SHARE = 0.25
"""Of the memory that a GPU has to spare, the most that a store of states may take there."""


class StoredViews:
    """K stored views, each encoded on first use; view v is store v modulo K.

    device: of the model. For a GPU a thread reads the batches that `prepare` has announced ahead of their use; on a CPU
    it would take time from the products. A store that is read for the second time is copied to the GPU if it takes
    little of what was free there even when most was taken.
    """

    def __init__(self, num_views: int, open_view: Callable[[int], StoredStates], device: torch.device) -> None:
        self._num_views = num_views
        self._open_view = open_view
        self._stores: dict[int, StoredStates] = {}
        self._used: set[int] = set()
        self._device = device
        self._pool = None if device.type == "cpu" else ThreadPoolExecutor(1, "states")
        self._ahead = LookAhead(self._begin)

    def _store(self, view: int) -> StoredStates:
        number = view % self._num_views
        if number not in self._stores:
            self._stores[number] = self._open_view(number)
        return self._stores[number]

    def prepare(self, batches: Iterable[Sequence[int]], view: int = 0) -> None:
        """Encode this view now, unless it is already stored."""
        store = self._store(view)
        if self._pool is None:
            return
        if view % self._num_views in self._used:
            self._hold(store)
        self._ahead.announce(() if store.held else ((tuple(batch), view) for batch in batches))

    def _hold(self, store: StoredStates) -> None:
        """Copy a store to the GPU if there is room; not to one that has the CPU's memory (Apple's)."""
        size = store.layout.num_bytes
        if not store.held and self._device.type not in LIMITED and size <= HELD_SHARE * spare_memory_on(self._device):
            try:
                store.hold_on(self._device)
            except torch.OutOfMemoryError:
                return
            console.print(f"states    {size / 1e6:.0f} MB of them are on the GPU from here on")

    def _begin(self, batch: Batch) -> list[Future[EncoderStates]]:
        assert self._pool is not None
        return [self._pool.submit(self._read, self._store(batch[1]), batch[0])]

    def _read(self, store: StoredStates, indices: Sequence[int]) -> EncoderStates:
        fetched = store.fetch(indices)
        return fetched.pinned() if self._device.type == "cuda" else fetched

    def fetch(self, indices: Sequence[int], view: int = 0) -> EncoderStates:
        store = self._store(view)
        if self._pool is None or store.held:
            return store.fetch(indices)
        self._used.add(view % self._num_views)
        (future,) = self._ahead.take((tuple(indices), view))
        found: EncoderStates = future.result()
        return found


class UpperLayers:
    """States of a source that holds what comes out of the encoder's first `num_layers`, taken through the others.

    Gradients reach those layers.
    """

    def __init__(self, source: StateSource, encoder: Encoder, num_layers: int) -> None:
        self._source = source
        self._encoder = encoder
        self._num_layers = num_layers

    def prepare(self, batches: Iterable[Sequence[int]], view: int = 0) -> None:
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

    def prepare(self, batches: Iterable[Sequence[int]], view: int = 0) -> None:
        for source in self._sources:
            source.prepare(batches, view)

    def fetch(self, indices: Sequence[int], view: int = 0) -> EncoderStates:
        return one_behind_the_other([source.fetch(indices, view) for source in self._sources])
