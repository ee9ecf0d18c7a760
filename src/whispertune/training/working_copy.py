"""The copy of the model that products are computed with, in bf16 or fp16, beside the float32 parameters.

Casting once an update what autocast casts in every forward pass; activations stay in the fast type from end to
end. Gradients are collected into float32, where micro-batches add up, and the optimiser only sees float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from whispertune.model.whisper import Whisper, inference_copy


class WorkingCopy:
    """`model` is what forward and backward passes use; in float32 it shares the parameters' storage."""

    def __init__(self, master: Whisper, dtype: torch.dtype) -> None:
        self.model = inference_copy(master, dtype)
        self._masters: list[Tensor] = []
        self._workers: list[Tensor] = []
        for parameter, copy in zip(master.parameters(), self.model.parameters(), strict=True):
            copy.requires_grad_(parameter.requires_grad)
            if parameter.requires_grad:
                self._masters.append(parameter)
                self._workers.append(copy)

    def collect_gradients(self) -> None:
        """Add the copy's gradients to the parameters', in float32, and clear them."""
        old: list[Tensor] = []
        new: list[Tensor] = []
        for parameter, copy in zip(self._masters, self._workers, strict=True):
            if copy.grad is None:
                continue
            if parameter.grad is None:
                parameter.grad = copy.grad.to(parameter.dtype)
            else:
                old.append(parameter.grad)
                new.append(copy.grad)
            copy.grad = None
        if old:
            torch._foreach_add_(old, new)

    def refresh(self) -> None:
        """Take over the parameters after an update (in float32 the storage is shared anyway)."""
        if self._workers and self._workers[0].dtype != self._masters[0].dtype:
            with torch.no_grad():
                torch._foreach_copy_(self._workers, self._masters)
