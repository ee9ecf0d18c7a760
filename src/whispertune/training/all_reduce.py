"""Gradients summed over processes that each hold all parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from whispertune.system.processes import Processes

BUCKET_ELEMENTS = 8 * 2**20
"""Elements up to which gradients are communicated together (32 MB in float32)."""


def sum_gradients(parameters: Sequence[Tensor], processes: Processes) -> None:
    """All-reduce the gradients of these parameters. A missing one is zero."""
    if processes.world_size > 1:
        for bucket in buckets(map(gradient_of, parameters)):
            in_one_piece(bucket, processes.all_reduce)


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


def in_one_piece(bucket: list[Tensor], act: Callable[[Tensor], None]) -> None:
    """Apply `act` to the concatenated tensors of a bucket, in place."""
    if len(bucket) == 1 and bucket[0].is_contiguous():
        act(bucket[0])
        return
    piece = torch.cat([tensor.reshape(-1) for tensor in bucket])
    act(piece)
    parts = torch.split(piece, [tensor.numel() for tensor in bucket])
    torch._foreach_copy_(bucket, [part.view_as(tensor) for part, tensor in zip(parts, bucket, strict=True)])
