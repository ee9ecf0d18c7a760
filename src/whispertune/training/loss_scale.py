"""Gradients that are not finite, and the factor of the loss in fp16, without which small ones would be rounded to zero
(Micikevicius et al. 2018)."""

from __future__ import annotations

from whispertune.errors import TrainingError

GROW_EVERY = 2000
"""Updates."""
FIRST_LOSS_SCALE = 2.0**13
LARGEST_LOSS_SCALE = 2.0**16


def adapted(scale: float, finite: bool, step: int) -> float:
    """The scale after an update at `step`: half after gradients that were not finite, twice after many that were."""
    if not finite:
        return max(1.0, scale / 2)
    return min(LARGEST_LOSS_SCALE, scale * 2) if step % GROW_EVERY == 0 else scale


def too_many_skipped(in_a_row: int, step: int) -> TrainingError:
    """The error that ends a run after so many skipped updates, the last one at `step`; every process meets it."""
    failed = TrainingError(
        f"{in_a_row} updates in a row had gradients that are not finite (last at step {step}); lower schedule.peak_lr, "
        "or try --precision fp32"
    )
    failed.met_by_all = True
    return failed
