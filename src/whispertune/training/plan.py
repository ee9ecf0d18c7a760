"""Which windows make which optimiser step: a function of (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Step = list[list[int]]
"""One optimiser update: its micro-batches, each a list of window indices."""

MICRO_BATCH_OVERHEAD = 160_000
"""What a micro-batch costs beside its windows, in samples (10 s): casting and adding up the gradients."""
WINDOW_OVERHEAD = 24_000
"""What a window costs beside its own length, in samples (1.5 s): the frames of silence that are kept."""


def steps_per_epoch(num_windows: int, batch_size: int, accumulation: int) -> int:
    """Optimiser updates in an epoch; the last one may be smaller."""
    return -(-num_windows // (batch_size * accumulation))


def epoch_plan(num_samples: Sequence[int], batch_size: int, accumulation: int, *, seed: int, epoch: int) -> list[Step]:
    """The steps of one epoch, every window once.

    A step's batch_size x accumulation windows are drawn at random. How they are cut into micro-batches changes
    no result, since the gradient is a mean over the whole step: so they are sorted by length (samples) and cut,
    into micro-batches of at most `batch_size`, where that wastes the least on padding.
    """
    order = np.random.default_rng((seed, epoch)).permutation(len(num_samples)).tolist()
    per_step = batch_size * accumulation
    plan = []
    for begin in range(0, len(order), per_step):
        members = sorted(order[begin : begin + per_step], key=lambda index: (num_samples[index], index))
        cuts = cheapest_cuts([num_samples[index] for index in members], batch_size)
        plan.append([members[first:end] for first, end in zip([0, *cuts], [*cuts, len(members)], strict=True)])
    return plan


def cheapest_cuts(lengths: Sequence[int], batch_size: int) -> list[int]:
    """Where to cut ascending lengths (samples) into batches of at most `batch_size` at the least padded cost.

    By dynamic programming: cost[end] is that of the first `end` windows.
    """
    cost = [0.0] + [float("inf")] * len(lengths)
    start = [0] * (len(lengths) + 1)
    for end in range(1, len(lengths) + 1):
        longest = lengths[end - 1] + WINDOW_OVERHEAD
        for first in range(max(0, end - batch_size), end):
            total = cost[first] + MICRO_BATCH_OVERHEAD + (end - first) * longest
            if total < cost[end]:
                cost[end], start[end] = total, first
    cuts = []
    end = start[len(lengths)]
    while end > 0:
        cuts.append(end)
        end = start[end]
    return cuts[::-1]
