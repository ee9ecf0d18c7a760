"""Memory for the largest tensors of a training step, reused from one step to the next.

Allocating it anew would cost as much time as the products that fill it, and glibc does not keep freed blocks over
32 MB (`system/memory.py`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class StepMemory:
    """Buffers for the logits and the gradient of the output projection. A copy starts empty.

    gradient: returns a buffer (V, D) for the gradient of the output projection, if there is one; it serves one loss at
    a time, the only one in its backward pass.
    """

    def __init__(self) -> None:
        self.gradient: Callable[[], Tensor] | None = None
        self._free: Tensor | None = None

    def __deepcopy__(self, memo: object) -> StepMemory:
        return StepMemory()

    def take(self, num_entries: int, like: Tensor) -> Tensor:
        """At least `num_entries` entries, with the type and device of `like`, for exclusive use until `give_back`."""
        kept, self._free = self._free, None
        if kept is not None and len(kept) >= num_entries and (kept.dtype, kept.device) == (like.dtype, like.device):
            return kept
        del kept  # before the larger one is allocated
        return torch.empty(num_entries, dtype=like.dtype, device=like.device)

    def give_back(self, taken: Tensor) -> None:
        """Keep a buffer for the next `take`; not on a GPU, where the allocator does that."""
        if taken.device.type == "cpu" and (self._free is None or len(self._free) < len(taken)):
            self._free = taken

    def release(self) -> None:
        """Free the buffer until it is needed again."""
        self._free = None
