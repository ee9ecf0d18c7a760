"""Gradients summed over processes that each hold all parameters, while the last backward pass still computes others."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.distributed import Work

from whispertune.system.processes import Processes

BUCKET_ELEMENTS = 8 * 2**20
"""Elements up to which gradients are communicated together (32 MB in float32)."""
MOST_ON_THE_WAY = 4
"""Buckets that are communicated at once, as each but those of one large gradient is a copy."""


class GradientSum:
    """All-reduces the gradients of a step in buckets, each of which is sent once its parameters have all of theirs.

    Buckets follow from the parameters alone, and they are sent in one order, from the last parameter to the first, as a
    backward pass comes to them: whatever a process computes or lacks, its collective operations match the others'.
    contributions: each parameter once per gradient that a backward pass adds to it.
    """

    def __init__(self, contributions: Sequence[Tensor], processes: Processes) -> None:
        self._processes = processes
        counts = Counter(map(id, contributions))
        parameters = list({id(p): p for p in contributions}.values()) if processes.world_size > 1 else []
        self._buckets = list(buckets(parameters))[::-1]
        self._place = {id(p): place for place, bucket in enumerate(self._buckets) for p in bucket}
        self._contributions = [sum(counts[id(p)] for p in bucket) for bucket in self._buckets]
        self._missing: list[int] = []  # of each bucket, while a step is computed
        self._num_sent = 0
        self._on_the_way: deque[tuple[list[Tensor], Tensor, Work]] = deque()

    def expect(self, passes: int) -> None:
        """A step begins, in which this process makes so many backward passes."""
        self._missing = [passes * count for count in self._contributions]

    def add(self, parameter: Tensor) -> None:
        """A backward pass has added to the gradient of this parameter."""
        if self._missing:
            self._missing[self._place[id(parameter)]] -= 1
            while self._num_sent < len(self._buckets) and not self._missing[self._num_sent]:
                self._send()

    def send(self) -> None:
        """All passes are made: send the other buckets as they are. A missing gradient is zero."""
        self._missing = []
        while self._num_sent < len(self._buckets):
            self._send()

    def _send(self) -> None:
        while len(self._on_the_way) >= MOST_ON_THE_WAY or (self._on_the_way and self._on_the_way[0][2].is_completed()):
            self._take_back()
        gradients = [gradient_of(parameter) for parameter in self._buckets[self._num_sent]]
        piece = in_one_piece(gradients)
        self._on_the_way.append((gradients, piece, self._processes.start_all_reduce(piece)))
        self._num_sent += 1

    def finish(self) -> None:
        """Wait until all gradients are the sums over the processes."""
        while self._on_the_way:
            self._take_back()
        self._num_sent = 0

    def _take_back(self) -> None:
        gradients, piece, work = self._on_the_way.popleft()
        self._processes.wait(work)
        if piece is not gradients[0]:
            parts = torch.split(piece, [gradient.numel() for gradient in gradients])
            torch._foreach_copy_(gradients, [part.view_as(own) for part, own in zip(parts, gradients, strict=True)])


def gradient_of(parameter: Tensor) -> Tensor:
    """Its gradient, set to zero if it is missing."""
    if parameter.grad is None:
        parameter.grad = torch.zeros(parameter.shape, dtype=parameter.dtype, device=parameter.device)
    return parameter.grad


def buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in groups of at most `BUCKET_ELEMENTS`, or of one."""
    bucket: list[Tensor] = []
    room = BUCKET_ELEMENTS
    for tensor in tensors:
        if bucket and tensor.numel() > room:
            yield bucket
            bucket, room = [], BUCKET_ELEMENTS
        bucket.append(tensor)
        room -= tensor.numel()
    if bucket:
        yield bucket


def in_one_piece(tensors: list[Tensor]) -> Tensor:
    """The tensors one behind the other: a copy, or the only one itself."""
    if len(tensors) == 1 and tensors[0].is_contiguous():
        return tensors[0]
    return torch.cat([tensor.reshape(-1) for tensor in tensors])
