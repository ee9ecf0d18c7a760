"""Which process updates which parameters: each process all of them, or each its shard.

Sharded as in ZeRO, stage 1 (Rajbhandari et al. 2020, arXiv:1910.02054): every trainable parameter has an owner, which
alone holds AdamW's moments and, where products are computed in another type, the parameter in float32. Gradients are
reduced to the owner, which broadcasts what it has updated in the type that computes. The sums are the same either way,
except for the order in which the gradients of more than two processes are added.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from whispertune.system.processes import ALONE, Processes, balance
from whispertune.training.optimiser import clip_gradients, norms_of, update_in_blocks
from whispertune.training.working_copy import WorkingCopy

BUCKET_ELEMENTS = 8 * 2**20
"""Elements up to which tensors are communicated together (32 MB in float32)."""


class Shards:
    """The trainable parameters of a run, and which process updates them.

    sharded: whether each has one owner; otherwise every process makes the same update of all.
    owned: the float32 parameters that this process updates. Where products are computed in another type, it keeps only
    the type and shape of the others.
    """

    def __init__(self, working: WorkingCopy, processes: Processes = ALONE, *, sharded: bool = False) -> None:
        self.sharded = sharded and processes.world_size > 1
        self._working, self._processes = working, processes
        self._divisor = 1.0
        if processes.world_size > 1:
            working.narrow_gradients = False  # sums over processes are in float32
        master_params = working.master_params
        if self.sharded:
            parts = balance([float(master.numel()) for master in master_params], processes.world_size)
            self._parts = [sorted(part) for part in parts]
        else:
            self._parts = [list(range(len(master_params)))]
        self._owner = {id(master_params[index]): rank for rank, part in enumerate(self._parts) for index in part}
        self._own_part = self._parts[processes.rank if self.sharded else 0]
        self.owned = [master_params[index] for index in self._own_part]
        # Where none is sharded, the parameters may be an adapter's, several for one weight that computes.
        for master, copy in zip(master_params, working.compute_params, strict=True) if self.sharded else ():
            if not self.owns(master) and copy.dtype != master.dtype:
                master.data = master.data.new_zeros(1).expand(master.shape)

    def owns(self, master: Tensor) -> bool:
        """Whether this process updates this parameter."""
        return not self.sharded or self._owner[id(master)] == self._processes.rank

    def sum_gradients(self) -> None:
        """All-reduce the gradients; of those that this process does not update, none is kept. A missing one is zero."""
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
        """`clip_gradients` over the parameters of all processes; in bf16 they are clipped as they are applied."""
        if self._working.narrow_gradients:
            norm = clip_gradients(self.owned, 0.0)
            self._divisor = norm / max_norm if 0 < max_norm < norm else 1.0
            return norm
        if not self.sharded:
            return clip_gradients(self.owned, max_norm)
        every = [0.0] * len(self._working.master_params)
        if self.owned:
            norms = torch.stack(norms_of([gradient_of(master) for master in self.owned]))
            for index, norm in zip(self._own_part, norms.tolist(), strict=True):
                every[index] = norm
        return clip_gradients(self.owned, max_norm, torch.tensor(self._processes.sum(every), dtype=torch.float32))

    def update(self, optimizer: torch.optim.AdamW) -> None:
        """Apply the clipped gradients, and bring the working copy, in every process, to what comes out."""
        if self._working.narrow_gradients:
            pairs = zip(self._working.master_params, self._working.compute_params, strict=True)
            update_in_blocks(optimizer, {id(master): worker for master, worker in pairs}, self._divisor)
        else:
            optimizer.step()
            self.publish()

    def publish(self) -> None:
        """Bring the working copy of every process up to date with what the owners hold."""
        self._working.refresh(self._own_part)
        if not self.sharded:
            return
        for owner, part in enumerate(self._parts):
            for bucket in buckets(self._working.compute_params[index].detach() for index in part):
                in_one_piece(bucket, partial(self._processes.broadcast, source=owner))

    def to_main(self, parameter: Tensor, tensor: Tensor) -> Tensor:
        """In the main process: the owner's `tensor` that belongs to this parameter; meaningless elsewhere."""
        if not self.sharded:
            return tensor
        return self._processes.send_to_main(tensor, self._owner[id(parameter)])

    def weights(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """In the main process: all these parameters with the values that their owners hold."""
        owners = self._owner
        return {n: self.to_main(p, p.detach()) if id(p) in owners else p.detach() for n, p in parameters.items()}


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
