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

from whispertune.system.processes import ALONE, Processes, deal
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

    def __init__(self, working: WorkingCopy, processes: Processes = ALONE, *, divided: bool = False) -> None:
        self.divided = divided and processes.world > 1
        self._working, self._processes = working, processes
        masters = working.masters
        if self.divided:
            parts = deal([float(master.numel()) for master in masters], processes.world)
            self._parts = [sorted(part) for part in parts]
        else:
            self._parts = [list(range(len(masters)))]
        self._owner = {id(masters[index]): rank for rank, part in enumerate(self._parts) for index in part}
        self._own_part = self._parts[processes.rank if self.divided else 0]
        self.owned = [masters[index] for index in self._own_part]
        for master, worker in zip(masters, working.workers, strict=True):
            if not self.owns(master) and worker.dtype != master.dtype:
                master.data = master.data.new_zeros(1).expand(master.shape)

    def owns(self, master: Tensor) -> bool:
        """Whether this process updates this parameter."""
        return not self.divided or self._owner[id(master)] == self._processes.rank

    def sum_gradients(self) -> None:
        """Replace the gradients of what this process updates by their sums over all processes; the others are dropped.

        A missing one counts as zero.
        """
        if self._processes.world == 1:
            return
        for owner, part in enumerate(self._parts):
            masters = [self._working.masters[index] for index in part]
            for bucket in buckets(map(gradient_of, masters)):
                in_one_piece(bucket, partial(self._processes.add_up, onto=owner if self.divided else None))
            for master in masters:
                if not self.owns(master):
                    master.grad = None

    def clip(self, max_norm: float) -> float:
        """`clip_gradients` over all parameters, of whichever process."""
        if not self.divided:
            return clip_gradients(self.owned, max_norm)
        every = [0.0] * len(self._working.masters)
        if self.owned:
            norms = torch.stack(torch._foreach_norm([gradient_of(master) for master in self.owned]))
            for index, norm in zip(self._own_part, norms.tolist(), strict=True):
                every[index] = norm
        return clip_gradients(self.owned, max_norm, torch.tensor(self._processes.sum(every), dtype=torch.float32))

    def publish(self) -> None:
        """Bring the working copy, in every process, to what the owners hold."""
        self._working.refresh(self._own_part)
        if not self.divided:
            return
        for owner, part in enumerate(self._parts):
            for bucket in buckets(self._working.workers[index].detach() for index in part):
                in_one_piece(bucket, partial(self._processes.hand_out, source=owner))

    def to_main(self, parameter: Tensor, tensor: Tensor) -> Tensor:
        """In the main process: the owner's `tensor`, one that belongs to this parameter; elsewhere of no use."""
        if not self.divided:
            return tensor
        return self._processes.hand_to_main(tensor, self._owner[id(parameter)])

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
