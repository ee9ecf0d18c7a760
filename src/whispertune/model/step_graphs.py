"""Decoding steps that a GPU captures once and replays as a whole (CUDA graphs).

A step of one token per row is hundreds of small kernels, and launching them takes longer than computing them. A graph
is one launch, but always of the same kernels on the same memory. So captured steps work on static buffers, which a
search's cache is copied into; when rows leave the search or it needs room for more tokens, the cache gets new tensors
as ever, and the next captured step copies these into the buffers.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from whispertune.model.cache import CACHE_TOKENS, DecoderCache
from whispertune.model.packed_lengths import few_lengths
from whispertune.system.console import console

Step = Callable[[Tensor, Tensor, DecoderCache, int], Tensor]
"""`Decoder.step_at`."""
Capture = Callable[[Callable[[], Tensor]], tuple[Tensor, Callable[[], None]]]
"""Captures what a function computes; returns its output, and what replays it on the same memory."""

FEWEST_STEPS = 8
"""Steps of the same shapes before they are captured, which takes as long as several of them."""
TOLERANCE = 0.02
"""Of the largest value, by which a replayed step may differ from the plain one; they should not differ at all."""


@dataclass(frozen=True, slots=True)
class _Captured:
    """A captured step, the inputs that it reads, (B, 1) and (1,), and the hidden states (B, D) that it writes."""

    input_ids: Tensor
    place: Tensor
    hidden: Tensor
    replay: Callable[[], None]

    def __call__(self, input_ids: Tensor, place: int) -> Tensor:
        self.input_ids.copy_(input_ids)
        self.place.fill_(place)
        self.replay()
        return self.hidden.clone()


class StepGraphs:
    """The captured steps of one decoder, by their shapes, and the buffers that they work on.

    One search at a time: a cache can't be used any more once another one owns the buffers. A copy starts empty.
    """

    def __init__(self, capture: Capture) -> None:
        self._capture: Capture | None = capture
        self._captured: dict[tuple[Any, ...], _Captured] = {}
        self._met: Counter[tuple[Any, ...]] = Counter()
        self._buffers: dict[str, Tensor] = {}
        self._owner: object | None = None
        self._lock = threading.Lock()

    def __deepcopy__(self, memo: object) -> StepGraphs | None:
        return None if self._capture is None else StepGraphs(self._capture)

    @property
    def num_bytes(self) -> int:
        """Bytes of the buffers."""
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def step(self, step: Step, input_ids: Tensor, cache: DecoderCache) -> Tensor:
        """The decoder's `step` with one token per row (B, 1), captured or not.

        Raises:
            RuntimeError: if another search has taken the buffers meanwhile.
        """
        with self._lock:
            return self._step(step, input_ids, cache)

    def _step(self, step: Step, input_ids: Tensor, cache: DecoderCache) -> Tensor:
        if cache.owner is not None and cache.owner is not self._owner:
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
        if self._capture is not None and self._met[shapes] > FEWEST_STEPS:
            self._move_in(cache)
            if shapes in self._captured:
                hidden = self._captured[shapes](input_ids, place)
            else:
                found = self._try_to_capture(self._capture, step, input_ids, place, cache, visible)
                if found is not None:
                    self._captured[shapes], hidden = found
        if hidden is None:
            hidden = step(input_ids, _at(place, input_ids), cache, visible)
        cache.num_tokens = place + 1
        return hidden

    def _move_in(self, cache: DecoderCache) -> None:
        """Have the cache's tensors in the buffers, each at the beginning of its own."""
        if cache.owner is None:
            cache.owner = self._owner = object()
        for name, tensor in cache.tensors().items():
            buffer = self._buffers.get(name)
            if buffer is None or buffer.numel() < tensor.numel():
                self._captured.clear()  # they work on what is now replaced
                spare = 2 if name.startswith("self_") else 1  # those grow with the text
                size = spare * tensor.numel()
                buffer = self._buffers[name] = torch.empty(size, dtype=tensor.dtype, device=tensor.device)
            moved = buffer[: tensor.numel()].view(tensor.shape)
            if moved.data_ptr() != tensor.data_ptr():
                cache.replace(name, moved.copy_(tensor))

    def _try_to_capture(
        self, capture: Capture, step: Step, input_ids: Tensor, place: int, cache: DecoderCache, visible: int
    ) -> tuple[_Captured, Tensor] | None:
        """A captured step, and what it has computed; None, and never again, if that fails.

        Replayed at once, it must come to what the plain step did.
        """
        ids, at = input_ids.clone(), _at(place, input_ids)
        # The cache may get other tensors later, what is captured may not.
        fixed = replace(cache, cross_keys=list(cache.cross_keys), cross_values=list(cache.cross_values))
        expected = step(ids, at, fixed, visible)
        try:
            hidden, replay = capture(lambda: step(ids, at, fixed, visible))
            hidden.zero_()
            replay()
            apart = float((hidden - expected).abs().max())
            most = TOLERANCE * float(expected.abs().max())
            problem = None if apart <= most else f"a replayed step differs by {apart:.2g}, more than {most:.2g}"
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            problem = str(error).strip().partition("\n")[0]
        if problem is not None:
            self._capture = None
            self._captured.clear()
            console.print(f"decoding  without CUDA graphs, which is slower: {problem:.200}", style="yellow")
            return None
        return _Captured(ids, at, hidden, replay), expected


def _at(place: int, like: Tensor) -> Tensor:
    """(1,) the place in the cache, on the device of `like`."""
    return torch.full((1,), place, device=like.device)


def gpu_capture(device: torch.device) -> Capture:
    """Captures CUDA graphs (HIP graphs on AMD's GPUs) that share the memory of their intermediate results.

    Not `torch.cuda.graph`, which gives all unused memory back each time, and after an error leaves the stream and the
    allocator as they were during the capture.
    """
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        pool: Any = torch.cuda.MemPool()  # outlives the graphs, which come and go

    def capture(run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device):
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                # Other threads may copy to the GPU meanwhile.
                graph.capture_begin(pool=pool.id, capture_error_mode="thread_local")
                try:
                    hidden = run()
                    graph.capture_end()
                except BaseException:
                    with suppress(RuntimeError):
                        graph.capture_end()
                    with suppress(RuntimeError):
                        torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool.id)
                    raise
            torch.cuda.current_stream().wait_stream(stream)
        return hidden, graph.replay

    return capture


def python_capture(device: torch.device) -> Capture:
    """Captures nothing but calls the function again: for tests, on devices that have no graphs."""

    def capture(run: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
        hidden = run()

        def replay() -> None:
            hidden.copy_(run())

        return hidden, replay

    return capture


CAPTURES: dict[str, Callable[[torch.device], Capture]] = {"cuda": gpu_capture}
"""By type of device; on others steps are not captured."""
