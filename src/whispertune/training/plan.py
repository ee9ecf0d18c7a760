"""Which windows make which optimiser step: a function of (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Step = list[list[int]]
"""One optimiser update: its micro-batches, each a list of window indices."""


def steps_per_epoch(num_windows: int, batch_size: int, accumulation: int) -> int:
    """Optimiser updates in an epoch; the last one may be smaller."""
    return -(-num_windows // (batch_size * accumulation))


def epoch_plan(lengths: Sequence[int], batch_size: int, accumulation: int, *, seed: int, epoch: int) -> list[Step]:
    """The steps of one epoch, every window once.

    A step's windows are drawn at random; within it they are sorted by length, so that micro-batches hold
    little padding and the gradient, a mean over the whole step, stays what it was.
    """
    order = np.random.default_rng((seed, epoch)).permutation(len(lengths)).tolist()
    per_step = batch_size * accumulation
    plan = []
    for begin in range(0, len(order), per_step):
        members = sorted(order[begin : begin + per_step], key=lambda index: (lengths[index], index))
        plan.append([members[i : i + batch_size] for i in range(0, len(members), batch_size)])
    return plan
