"""Memory of the largest tensors of a training step, kept from one step to the next.

Fresh pages would cost as much time as the products that fill them, and glibc keeps none that are over 32 MB
(`allocator.py`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class StepMemory:
    """Where a decoder's logits and the gradient of its vocabulary are computed. A copy of it starts empty.

    gradient: where the gradient of the output projection (V, D) may be written, if somebody keeps memory for it.
    """

    def __init__(self) -> None:
        self.gradient: Callable[[], Tensor] | None = None
        self._free: Tensor | None = None

    def __deepcopy__(self, memo: object) -> StepMemory:
        return StepMemory()

    def take(self, num_entries: int, like: Tensor) -> Tensor:
        """At least so many entries, of its type and on its device, that nobody else uses until `give_back`."""
        kept, self._free = self._free, None
        if kept is None or len(kept) < num_entries or (kept.dtype, kept.device) != (like.dtype, like.device):
            kept = torch.empty(num_entries, dtype=like.dtype, device=like.device)
        return kept

    def give_back(self, taken: Tensor) -> None:
        if self._free is None or len(self._free) < len(taken):
            self._free = taken

    def release(self) -> None:
        """Keep nothing, until it is needed again."""
        self._free = None
