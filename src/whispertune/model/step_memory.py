"""Memory of the largest tensors of a training step, kept from one step to the next.

Fresh pages would cost as much time as the products that fill them, and glibc keeps none that are over 32 MB
(`system/memory.py`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class StepMemory:
    """Where a decoder's logits and the gradient of its vocabulary are computed. A copy of it starts empty.

    gradient: where the gradient of the output projection (V, D) may be written, if somebody keeps memory for it; one
    loss at a time, which is the only one of its backward pass.
    """

    def __init__(self) -> None:
        self.gradient: Callable[[], Tensor] | None = None
        self._free: Tensor | None = None

    def __deepcopy__(self, memo: object) -> StepMemory:
        return StepMemory()

    def take(self, num_entries: int, like: Tensor) -> Tensor:
        """At least so many entries, of its type and on its device, that nobody else uses until `give_back`."""
        kept, self._free = self._free, None
        if kept is not None and len(kept) >= num_entries and (kept.dtype, kept.device) == (like.dtype, like.device):
            return kept
        del kept  # before the larger one is there
        return torch.empty(num_entries, dtype=like.dtype, device=like.device)

    def give_back(self, taken: Tensor) -> None:
        """Keep it for the next one who asks; but on a GPU, whose allocator does so for all."""
        if taken.device.type == "cpu" and (self._free is None or len(self._free) < len(taken)):
            self._free = taken

    def release(self) -> None:
        """Keep nothing, until it is needed again."""
        self._free = None
