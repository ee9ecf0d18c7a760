"""Decoding steps that a GPU records once and repeats as a whole (CUDA graphs).

A step of one token per row is hundreds of small kernels, and launching them takes longer than computing them. A
recorded step is one launch, but always of the same kernels on the same memory. So recorded steps work in memory of
their own, which a search's cache is moved into; when rows leave the search or it needs room for more tokens, it gets
new tensors as ever, and the next recorded step moves these in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from whispertune.model.cache import CACHE_TOKENS, DecoderCache
from whispertune.model.packed_lengths import few_lengths
from whispertune.system.console import console

Step = Callable[[Tensor, Tensor, DecoderCache, int], Tensor]
"""`Decoder.step_at`."""
Record = Callable[[Callable[[], Tensor]], tuple[Tensor, Callable[[], None]]]
"""Records what a function does; returns its output, and what repeats it on the same memory."""

FEWEST_STEPS = 8
"""Steps of the same shapes before they are recorded, which takes as long as several of them."""
TOLERANCE = 0.02
"""Of the largest value, by which a repeated step may differ from the plain one; they should not differ at all."""


@dataclass(frozen=True, slots=True)
class _Recorded:
    """A recorded step, the inputs that it reads, (B, 1) and (1,), and the hidden states (B, D) that it writes."""

    input_ids: Tensor
    place: Tensor
    hidden: Tensor
    repeat: Callable[[], None]

    def __call__(self, input_ids: Tensor, place: int) -> Tensor:
        self.input_ids.copy_(input_ids)
        self.place.fill_(place)
        self.repeat()
        return self.hidden.clone()


class StepGraphs:
    """The recorded steps of one decoder, by their shapes, and the memory that they work on.

    One search at a time: a cache cannot be used any more once another one has been moved in. A copy starts empty.
    """

    def __init__(self, record: Record) -> None:
        self._record: Record | None = record
        self._recorded: dict[tuple[Any, ...], _Recorded] = {}
        self._met: Counter[tuple[Any, ...]] = Counter()
        self._memory: dict[str, Tensor] = {}
        self._lease: object | None = None

    def __deepcopy__(self, memo: object) -> StepGraphs | None:
        return None if self._record is None else StepGraphs(self._record)

    @property
    def num_bytes(self) -> int:
        """Bytes of the memory that recorded steps work on."""
        return sum(tensor.nbytes for tensor in self._memory.values())

    def step(self, step: Step, input_ids: Tensor, cache: DecoderCache) -> Tensor:
        """The decoder's `step` with one token per row (B, 1), recorded or not.

        Raises:
            RuntimeError: if another search has taken the cache's memory meanwhile.
        """
        if cache.lease is not None and cache.lease is not self._lease:
            raise RuntimeError("a search went on after another one of the same decoder had begun")
        place = cache.num_tokens
        cache.reserve(place + 1)
        _, rows, _, capacity, _ = cache.self_keys.shape
        visible = min(few_lengths(place + 1, CACHE_TOKENS), capacity)
        shapes = (
            rows, capacity, visible, tuple(cache.cross_keys[0].shape), cache.cross_bias is None, cache.padding is None
        )  # fmt: skip
        self._met[shapes] += 1
        hidden = None
        if self._record is not None and self._met[shapes] > FEWEST_STEPS:
            self._move_in(cache)
            if shapes in self._recorded:
                hidden = self._recorded[shapes](input_ids, place)
            else:
                found = self._try_to_record(step, input_ids, place, cache, visible)
                if found is not None:
                    self._recorded[shapes], hidden = found
        if hidden is None:
            hidden = step(input_ids, _at(place, input_ids), cache, visible)
        cache.num_tokens = place + 1
        return hidden

    def _move_in(self, cache: DecoderCache) -> None:
        """Have the cache's tensors in the memory of recorded steps, each at its beginning."""
        if cache.lease is None:
            cache.lease = self._lease = object()
        for name, tensor in cache.tensors().items():
            kept = self._memory.get(name)
            if kept is None or kept.numel() < tensor.numel():
                self._recorded.clear()  # they work on what is now replaced
                kept = self._memory[name] = torch.empty(tensor.numel(), dtype=tensor.dtype, device=tensor.device)
            moved = kept[: tensor.numel()].view(tensor.shape)
            if moved.data_ptr() != tensor.data_ptr():
                cache.replace(name, moved.copy_(tensor))

    def _try_to_record(
        self, step: Step, input_ids: Tensor, place: int, cache: DecoderCache, visible: int
    ) -> tuple[_Recorded, Tensor] | None:
        """A recorded step, and what it has computed; None, and never again, if that fails.

        Repeated at once, it must come to what the plain step did.
        """
        record = self._record
        assert record is not None
        ids, at = input_ids.clone(), _at(place, input_ids)
        # The cache may get other tensors later, what is recorded may not.
        fixed = replace(cache, cross_keys=list(cache.cross_keys), cross_values=list(cache.cross_values))
        expected = step(ids, at, fixed, visible)
        try:
            hidden, repeat = record(lambda: step(ids, at, fixed, visible))
            repeat()
            apart = float((hidden - expected).abs().max())
            most = TOLERANCE * float(expected.abs().max())
            problem = f"a repeated step differs by {apart:.2g}, more than {most:.2g}" if apart > most else None
        except RuntimeError as error:
            problem = str(error).strip().partition("\n")[0]
        if problem is not None:
            self._record = None
            self._recorded.clear()
            console.print(
                f"decoding  steps are not recorded as CUDA graphs, which takes longer: {problem:.200}", style="yellow"
            )
            return None
        return _Recorded(ids, at, hidden, repeat), expected


def _at(place: int, like: Tensor) -> Tensor:
    """(1,) the place in the cache, on the device of `like`."""
    return torch.full((1,), place, device=like.device)


def gpu_recorder() -> Record:
    """Records CUDA graphs (HIP graphs on AMD's GPUs), which share the memory of their intermediate results."""
    pool = None

    def record(run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        nonlocal pool
        graph = torch.cuda.CUDAGraph()
        # Other threads may copy to the GPU meanwhile.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            hidden = run()
        pool = graph.pool()
        return hidden, graph.replay

    return record


def python_recorder() -> Record:
    """Records nothing but calls the function again: for tests, on devices that have no graphs."""

    def record(run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        hidden = run()

        def repeat() -> None:
            hidden.copy_(run())

        return hidden, repeat

    return record


RECORDERS: dict[str, Callable[[], Record]] = {"cuda": gpu_recorder}
"""By type of device; on others steps are not recorded."""
