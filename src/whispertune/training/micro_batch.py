"""The largest micro-batch that fits in memory (`batch.auto`): how an update is cut changes only its time."""

from __future__ import annotations

from collections.abc import Callable

import torch

from whispertune.errors import TrainingError
from whispertune.system.environment import free_memory
from whispertune.system.memory import peak_memory, resident_memory


def largest_micro_batch(utterances: int, attempt: Callable[[int], None], device: torch.device) -> int:
    """The largest divisor of `utterances` (of one process in an update) that fits.

    attempt(n): forward and backward on the n most demanding windows. On a GPU the limit is found by running out of
    memory; on a CPU the next size is tried only if, judged by the peak of the last one, it will stay below half of the
    free memory.

    Raises:
        TrainingError: if not even one window fits.
    """
    largest = 0
    room, before = free_memory() // 2, resident_memory()
    for size in (n for n in range(1, utterances + 1) if utterances % n == 0):
        if device.type == "cpu" and largest and (peak_memory() - before) * size > room * largest:
            break
        try:
            attempt(size)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        largest = size
    if not largest:
        raise TrainingError("a single window does not fit in memory; try --recompute true, or a smaller model")
    return largest
