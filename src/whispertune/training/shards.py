"""Which process updates which parameters: each process all of them, or each a part.

Divided as in ZeRO's first stage (Rajbhandari et al. 2020, arXiv:1910.02054): every learning parameter has an owner,
which alone holds AdamW's moments and, where products are computed in another type, the parameter in float32. The owner
gets the summed gradient, and hands what it has updated to the others in the type that computes. The sums are the same
either way, but for the order that more than two processes' gradients are added in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from whispertune.system.processes import ALONE, Processes, balance
from whispertune.training.optimiser import clip_gradients
from whispertune.training.working_copy import WorkingCopy

BUCKET_ELEMENTS = 8 * 2**20
"""Tensors travel together up to so many elements (32 MB in float32)."""


class Shards:
    """The learning parameters of a run, and who updates them.

    divided: whether each has one owner; otherwise every process makes the same update of all.
    owned: the float32 parameters that this process updates. Where products are computed in another type, it keeps only
    type and shape of the others.
    """

    def __init__(self, working: WorkingCopy, processes: Processes = ALONE, *, sharded: bool = False) -> None:
        self.sharded = sharded and processes.world_size > 1
        self._working, self._processes = working, processes
        master_params = working.master_params
        if self.sharded:
            parts = balance([float(master.numel()) for master in master_params], processes.world_size)
            self._parts = [sorted(part) for part in parts]
        else:
            self._parts = [list(range(len(master_params)))]
        self._owner = {id(master_params[index]): rank for rank, part in enumerate(self._parts) for index in part}
        self._own_part = self._parts[processes.rank if self.sharded else 0]
        self.owned = [master_params[index] for index in self._own_part]
        for master, worker in zip(master_params, working.compute_params, strict=True):
            if not self.owns(master) and worker.dtype != master.dtype:
                master.data = master.data.new_zeros(1).expand(master.shape)

    def owns(self, master: Tensor) -> bool:
        """Whether this process updates this parameter."""
        return not self.sharded or self._owner[id(master)] == self._processes.rank

    def sum_gradients(self) -> None:
        """Replace the gradients of what this process updates by their sums over all processes; the others are dropped.

        A missing one counts as zero.
        """
        if self._processes.world_size == 1:
            return
        for owner, part in enumerate(self._parts):
            master_params = [self._working.master_params[index] for index in part]
            for bucket in buckets(map(gradient_of, master_params)):
                in_one_piece(bucket, partial(self._processes.all_reduce, onto=owner if self.sharded else None))
            for master in master_params:
                if not self.owns(master):
                    master.grad = None

    def clip(self, max_norm: float) -> float:
        """`clip_gradients` over all parameters, of whichever process."""
        if not self.sharded:
            return clip_gradients(self.owned, max_norm)
        every = [0.0] * len(self._working.master_params)
        if self.owned:
            norms = torch.stack(torch._foreach_norm([gradient_of(master) for master in self.owned]))
            for index, norm in zip(self._own_part, norms.tolist(), strict=True):
                every[index] = norm
        return clip_gradients(self.owned, max_norm, torch.tensor(self._processes.sum(every), dtype=torch.float32))

    def publish(self) -> None:
        """Bring the working copy, in every process, to what the owners hold."""
        self._working.refresh(self._own_part)
        if not self.sharded:
            return
        for owner, part in enumerate(self._parts):
            for bucket in buckets(self._working.compute_params[index].detach() for index in part):
                in_one_piece(bucket, partial(self._processes.broadcast, source=owner))

    def to_main(self, parameter: Tensor, tensor: Tensor) -> Tensor:
        """In the main process: the owner's `tensor`, one that belongs to this parameter; elsewhere of no use."""
        if not self.sharded:
            return tensor
        return self._processes.send_to_main(tensor, self._owner[id(parameter)])

    def weights(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """In the main process: all of these parameters with the values that their owners hold."""
        owners = self._owner
        return {n: self.to_main(p, p.detach()) if id(p) in owners else p.detach() for n, p in parameters.items()}


def gradient_of(parameter: Tensor) -> Tensor:
    """Its gradient, made (zero) where it is missing."""
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
    """Let `act` change all tensors of a bucket in place, laid end to end."""
    if len(bucket) == 1 and bucket[0].is_contiguous():
        act(bucket[0])
        return
    piece = torch.cat([tensor.reshape(-1) for tensor in bucket])
    act(piece)
    parts = torch.split(piece, [tensor.numel() for tensor in bucket])
    torch._foreach_copy_(bucket, [part.view_as(tensor) for part, tensor in zip(parts, bucket, strict=True)])
