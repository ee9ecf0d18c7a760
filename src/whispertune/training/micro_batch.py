"""The largest micro-batch that fits in memory (`batch.auto`): how an update is cut changes only its time."""

from __future__ import annotations

from collections.abc import Callable

import torch

from whispertune.errors import TrainingError
from whispertune.system.console import console
from whispertune.system.environment import free_memory
from whispertune.system.memory import peak_memory, resident_memory
from whispertune.training.plan import BatchPlan


def halved(batches: BatchPlan) -> BatchPlan:
    """The same updates in micro-batches at most half as large, after memory ran out; says so."""
    size = next(n for n in range(batches.batch_size // 2, 0, -1) if batches.windows % n == 0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    console.print(
        f"batch     {batches.batch_size} utterances at once take more memory than there is; {size} from here on, the "
        "updates stay the same",
        style="yellow",
    )
    return batches.recut(size)


def largest_micro_batch(utterances: int, attempt: Callable[[int], None], device: torch.device) -> int:
    """The largest divisor of `utterances` (of one process in an update) that fits.

    attempt(n): forward and backward on the n most demanding windows. On a GPU sizes are tried from the largest down,
    until one does not run out of memory; on a CPU from the smallest up, and the next one only if, judged by the peak of
    the last one, it will stay below half of the free memory.

    Raises:
        TrainingError: if not even one window fits.
    """
    largest = 0
    room, before = free_memory() // 2, resident_memory()
    sizes = [n for n in range(1, utterances + 1) if utterances % n == 0]
    for size in sizes if device.type == "cpu" else reversed(sizes):
        if device.type == "cpu" and largest and (peak_memory() - before) * size > room * largest:
            break
        try:
            attempt(size)
            largest = size
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
        if largest and device.type != "cpu":
            break
    if device.type == "cuda" and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats(device)  # what was too large does not count (`spare_memory_on`)
    if not largest:
        raise TrainingError("a single window does not fit in memory; try --recompute true, or a smaller model")
    return largest
