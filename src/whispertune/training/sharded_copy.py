"""The model that computes, sharded over the processes by PyTorch's FSDP2 (`torch.distributed.fsdp.fully_shard`).

Each process holds a part of every parameter that learns, of its gradient and of its moments, in float32. A layer is
gathered, in the type that computes, for its forward pass and again for its backward pass; gradients are summed in
float32 as they are scattered. So every process must make as many forward and backward passes as the others.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from whispertune.model.whisper import Decoder, Encoder, Whisper, build_whisper
from whispertune.system.processes import Processes
from whispertune.training.all_reduce import GradientSum
from whispertune.training.optimiser import norms_of
from whispertune.training.working_copy import WorkingCopy

T = TypeVar("T")
HalfT = TypeVar("HalfT", Encoder, Decoder)
LOST = ("gloo", "NCCL", "nccl", "Connection", "Timed out", "timed out", "Read error", "Write error")
"""What an error of a collective operation has in it."""

warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view", category=UserWarning)


class ShardedCopy(WorkingCopy):
    """Takes the place of a working copy: what learns is sharded, a frozen encoder is that copy's own."""

    sharded = True

    def __init__(self, plain: WorkingCopy, processes: Processes) -> None:
        self.model, self.master, self.dtype, self.processes = plain.model, plain.master, plain.dtype, processes
        self.narrow_gradients = False
        self.gradient_sum = GradientSum([], processes)  # FSDP2 sums in the backward pass
        self._mesh = init_device_mesh(plain.device.type, (processes.world_size,))
        self.frozen_encoder = not any(p.requires_grad for p in self.master.encoder.parameters())
        self.model.model.decoder = self._shard(self.master.decoder, plain.model.decoder)
        if not self.frozen_encoder:
            self.model.model.encoder = self._shard(self.master.encoder, plain.model.encoder)
        self.master_params = [p for p in self.master.parameters() if p.requires_grad]

    def _shard(self, half: HalfT, like: HalfT) -> HalfT:
        """Shard the layers of one half of the model, and what it has beside them."""
        for parameter in half.parameters():  # frozen ones may be held in float16, and by the CPU
            parameter.data = parameter.data.to(self.device, torch.float32)
        half.recompute = like.recompute
        policy = MixedPrecisionPolicy(
            param_dtype=None if self.dtype == torch.float32 else self.dtype, reduce_dtype=torch.float32,
            cast_forward_inputs=False,
        )  # fmt: skip
        for layer in half.layers:
            fully_shard(layer, mesh=self._mesh, mp_policy=policy)
        # The embedding is read once more after the forward pass, as output projection.
        fully_shard(half, mesh=self._mesh, mp_policy=policy, reshard_after_forward=False)
        for part in half.modules():
            if isinstance(part, FSDPModule):  # sums, not means: the loss is divided by the tokens of all processes
                part.set_gradient_divide_factor(1.0)
                part.set_force_sum_reduction_for_comms(True)
        return half

    def together(self, work: Callable[[], T]) -> T:
        """The result of `work`, in which processes communicate.

        Raises:
            ProcessLost: if another one has died meanwhile.
        """
        try:
            return work()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if any(sign in str(error) for sign in LOST):
                raise self.processes.lost(error) from None
            raise

    def clip(self, max_norm: float) -> float:
        """Scale all gradients together to an L2 norm of at most `max_norm` (0: leave them); their norm before."""
        own = [gradient.to_local() for p in self.master_params if isinstance(gradient := p.grad, DTensor)]
        square = float(torch.linalg.vector_norm(torch.stack(norms_of(own)))) ** 2 if own else 0.0
        norm = math.sqrt(self.processes.sum([square])[0])
        if own and 0 < max_norm < norm < math.inf:
            torch._foreach_mul_(own, max_norm / norm)
        return norm

    def gathered(self, tensor: Tensor) -> Tensor:
        """The whole of a tensor, of which each process has a part. All processes call this together."""
        return self.together(tensor.full_tensor) if isinstance(tensor, DTensor) else tensor

    def part_of(self, parameter: Tensor, tensor: Tensor) -> Tensor:
        """The part of a whole tensor that this process holds of the parameter."""
        if not isinstance(parameter, DTensor):
            return tensor
        return distribute_tensor(tensor, parameter.device_mesh, parameter.placements, src_data_rank=None)

    def weights(self) -> dict[str, Tensor]:
        """All weights in the main process, by name; none in the others, which call this together with it."""
        found = {}
        for name, tensor in self._named():
            whole = self.gathered(tensor.detach())
            if self.processes.is_main:
                found[name] = whole
        return found

    def whole(self) -> Whisper:
        """The model in one piece, in the type that computes: to decode with. All processes call this together."""
        weights = {name: self.gathered(tensor.detach()).to(self.dtype) for name, tensor in self._named()}
        whisper = build_whisper(self.master.config, weights, self.dtype).to(self.device)
        if self.frozen_encoder:
            whisper.model.encoder = self.model.encoder
        return whisper.requires_grad_(False)

    def _named(self) -> list[tuple[str, Tensor]]:
        return list(self.master.state_dict(keep_vars=True).items())

    def release(self) -> None:
        """Drop all gradients."""
        self.model.decoder.step_memory.release()
        for parameter in self.master_params:
            parameter.grad = None

    def refresh(self) -> None:
        """Nothing to copy: layers are gathered anew for each pass."""
