"""The copy of the model that computes, in bf16 or fp16, beside the float32 parameters.

It is cast once per update, where autocast casts in every forward pass; activations stay in the fast type from end to
end. Gradients are accumulated over micro-batches in float32; one micro-batch alone leaves them as they were computed.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from whispertune.model.whisper import Whisper, inference_copy
from whispertune.system.processes import ALONE, Processes
from whispertune.training.all_reduce import GradientSum
from whispertune.training.optimiser import clip_gradients, update_in_blocks, update_on_cpu

T = TypeVar("T")


def keep_narrow(parameter: Tensor) -> None:
    """Hold a frozen parameter in float16 if that is exact, as with weights that were published in it."""
    narrow = parameter.detach().half()
    if torch.equal(narrow.float(), parameter):
        parameter.data = narrow


def move_frozen_to_cpu(master: nn.Module, but: Container[str] = ()) -> None:
    """Hold frozen parameters, except those of these names, in the CPU's memory."""
    for path, module in master.named_modules():
        for name, parameter in module.named_parameters(path, recurse=False):
            if not parameter.requires_grad and name not in but:
                moved = nn.Parameter(parameter.detach().to("cpu"), requires_grad=False)
                setattr(module, name.rpartition(".")[2], moved)


class WorkingCopy:
    """`model` is what forward and backward passes use; in float32 it shares the parameters' storage.

    master_params, compute_params: the trainable parameters and their copies, in the same order.
    As soon as a backward pass has a gradient of the copy, it becomes the parameter's or is added to it, in float32.
    The memory of the sums is kept from step to step: new pages would cost more than the additions.
    On a GPU frozen parameters, which only a saved model needs, are in the CPU's memory; not those named in `merged`.
    gradient_sum: sums the gradients over the processes, where each holds all parameters.
    narrow_gradients: whether a parameter's gradient may be in bf16 while it is of one micro-batch alone, for an update
    that reads it so (`training/optimiser.py::update_in_blocks`, PyTorch's AdamW only).
    """

    sharded = False
    """Whether each process holds only a part of the parameters (`training/sharded_copy.py`)."""

    def __init__(
        self, master: Whisper, dtype: torch.dtype, processes: Processes = ALONE, merged: Container[str] = (),
        narrow_gradients: bool = True,
    ) -> None:  # fmt: skip
        self.model = inference_copy(master, dtype)
        self.master = master
        self.dtype = dtype
        self.processes = processes
        self._divisor = 1.0
        self.master_params: list[Tensor] = []
        self.compute_params: list[Tensor] = []
        self._sums: dict[int, Tensor] = {}
        self._addend: Tensor | None = None
        on_cpu = next(master.parameters()).device.type == "cpu"
        # Sums over processes are in float32.
        narrow = dtype == torch.bfloat16 and on_cpu and processes.world_size == 1
        self.narrow_gradients = narrow_gradients and narrow
        for parameter, copy in zip(master.parameters(), self.model.parameters(), strict=True):
            copy.requires_grad_(parameter.requires_grad)
            if parameter.requires_grad:
                self.master_params.append(parameter)
                if self.narrow_gradients:
                    parameter.grad_dtype = None
                self.compute_params.append(copy)
                copy.register_post_accumulate_grad_hook(partial(self._collect, parameter))  # type: ignore[no-untyped-call]
            elif dtype != torch.float32:
                keep_narrow(parameter)
        if not on_cpu:
            move_frozen_to_cpu(master, but=merged)
        contributions = [*self.master_params, *self._tie(master)]
        self.gradient_sum = GradientSum(contributions, processes)

    @property
    def device(self) -> torch.device:
        """The device on which it computes."""
        return self.model.decoder.embed_tokens.weight.device

    @property
    def learns(self) -> nn.Module:
        """What holds the parameters that learn, in float32."""
        return self.master

    def weights(self) -> dict[str, Tensor]:
        """All weights of the model as it stands, by name."""
        return self.master.state_dict(keep_vars=True)

    def _tie(self, master: Whisper) -> list[Tensor]:
        """Keep the two gradients of the tied token embedding apart until they are accumulated.

        As output projection it has a dense gradient, as lookup table one of a few rows. Autograd would add the rows to
        a copy of the dense one. Returns the parameters that so have a second gradient.
        """
        embedding = self.model.decoder.embed_tokens.weight
        parameter = master.decoder.embed_tokens.weight
        if embedding.requires_grad:
            table = self.model.decoder.lookup_table = embedding.detach().requires_grad_()
            table.register_post_accumulate_grad_hook(partial(self._collect, parameter))  # type: ignore[no-untyped-call]
            self.model.decoder.step_memory.gradient = partial(self._vocabulary_gradient, parameter, embedding.dtype)
        return [parameter] if embedding.requires_grad else []

    def _collect(self, parameter: Tensor, copy: Tensor) -> None:
        """Add the copy's gradient to the parameter's."""
        gradient = copy.grad
        assert gradient is not None
        copy.grad = None
        with torch.no_grad():
            if gradient.is_sparse:
                total = self._with_rows(parameter, gradient._indices()[0], gradient._values())
            elif parameter.grad is not None:
                total = self._in_float32(parameter).add_(gradient)
            elif gradient.dtype == parameter.dtype or self.narrow_gradients:
                total = gradient  # nobody else holds it: the first of a sum is taken over
            else:
                total = self._sum(parameter).copy_(gradient)
        parameter.grad = total
        self.gradient_sum.add(parameter)

    def _with_rows(self, parameter: Tensor, rows: Tensor, values: Tensor) -> Tensor:
        """The parameter's gradient with these values (N, D) added to its rows (N,), some of them several times."""
        if parameter.grad is None:
            return self._sum(parameter).zero_().index_add_(0, rows, values.to(parameter.dtype))
        if parameter.grad.dtype == parameter.dtype:
            return parameter.grad.index_add_(0, rows, values.to(parameter.dtype))
        rows, place = torch.unique(rows, return_inverse=True)
        sums = parameter.grad[rows].to(parameter.dtype).index_add_(0, place, values.to(parameter.dtype))
        return parameter.grad.index_copy_(0, rows, sums.to(values.dtype))

    def _in_float32(self, parameter: Tensor) -> Tensor:
        """The gradient that a parameter has, brought to the parameter's type."""
        assert parameter.grad is not None
        if parameter.grad.dtype != parameter.dtype:
            parameter.grad = self._sum(parameter).copy_(parameter.grad)
        return parameter.grad

    def _vocabulary_gradient(self, parameter: Tensor, dtype: torch.dtype) -> Tensor:
        """Where the gradient of the output projection is computed: in the parameter's own sum, if that is unused and of
        the same type."""
        if parameter.grad is None and parameter.dtype == dtype:
            memory = self._sum(parameter)
        else:
            if parameter.grad is not None:
                self._in_float32(parameter)  # it may lie in that memory
            if self._addend is None:
                self._addend = torch.empty_like(parameter, dtype=dtype, requires_grad=False)
            memory = self._addend
        # Another tensor object on it: autograd takes over a gradient that nobody else holds, and copies others.
        return memory.view_as(memory)

    def _sum(self, parameter: Tensor) -> Tensor:
        if id(parameter) not in self._sums:
            self._sums[id(parameter)] = torch.empty_like(parameter, requires_grad=False)
        return self._sums[id(parameter)]

    def release(self) -> None:
        """Drop all gradients and free their memory, until the next backward pass."""
        self._sums.clear()
        self._addend = None
        self.model.decoder.step_memory.release()
        for tensor in (*self.master_params, *self.compute_params):
            tensor.grad = None

    def refresh(self) -> None:
        """Copy the parameters after an update (in float32 the storage is shared)."""
        if self.compute_params[0].dtype != self.master_params[0].dtype:
            with torch.no_grad():
                torch._foreach_copy_(self.compute_params, self.master_params)

    def together(self, work: Callable[[], T]) -> T:
        """The result of `work`."""
        return work()

    def clip(self, max_norm: float) -> float:
        """`clip_gradients` of all parameters; in bf16 they are clipped as they are applied."""
        if not self.narrow_gradients:
            return clip_gradients(self.master_params, max_norm)
        norm = clip_gradients(self.master_params, 0.0)
        self._divisor = norm / max_norm if 0 < max_norm < norm else 1.0
        return norm

    def update(self, optimizer: torch.optim.Optimizer) -> None:
        """Apply the clipped gradients, and bring what computes to what comes out."""
        if self.narrow_gradients:
            assert isinstance(optimizer, torch.optim.AdamW)
            pairs = zip(self.master_params, self.compute_params, strict=True)
            update_in_blocks(optimizer, {id(master): worker for master, worker in pairs}, self._divisor)
            return
        if isinstance(optimizer, torch.optim.AdamW) and self.device.type == "cpu" and not self.sharded:
            update_on_cpu(optimizer)
        else:
            optimizer.step()
        self.refresh()

    def whole(self) -> Whisper:
        """The model to decode with."""
        return self.model

    def gathered(self, tensor: Tensor) -> Tensor:
        """The whole of a parameter or moment."""
        return tensor

    def part_of(self, parameter: Tensor, tensor: Tensor) -> Tensor:
        """What this process holds of a whole tensor that belongs to the parameter."""
        return tensor
