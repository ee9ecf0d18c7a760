"""The learning rate of each optimiser update."""

from __future__ import annotations

import math
from dataclasses import dataclass

from whispertune.training.options import ScheduleOptions

MOST_AUTO_WARMUP_STEPS = 500
SHARE_OF_RUN_TO_WARM_UP = 0.1


def auto_peak_lr(d_model: int) -> float:
    """A peak that suits the model's width: 3e-5 at 512 (whisper-base), falling with its 1.5th power.

    Larger models want smaller rates; the exponent follows the rates that Whisper's authors advise for
    fine-tuning, about 1/40 of each size's rate in pretraining.
    """
    return 3e-5 * math.sqrt(512 / d_model) ** 3


LORA_PEAK_LR = 5e-4
"""Peak for LoRA, whose rates are about ten times those of the whole model and hardly follow its width (Schulman et al.
2025, LoRA Without Regret); a short trial is in docs/experiments.md (2026-11-30)."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule with everything resolved: `schedule(step)` is the rate of the step-th update."""

    options: ScheduleOptions
    peak_lr: float
    warmup_steps: int
    total_steps: int

    def __call__(self, step: int) -> float:
        """Learning rate of update `step`, from 1 to `total_steps` (and beyond, for noam and constant)."""
        warmup, total = self.warmup_steps, self.total_steps
        if self.options.name == "noam":
            scale = self.peak_lr * math.sqrt(warmup)
            return scale * min(1 / math.sqrt(step), step / math.sqrt(warmup**3))
        if step <= warmup:
            return self.peak_lr * step / warmup
        left = max(0, total - step)
        match self.options.name:
            case "constant":
                return self.peak_lr
            case "linear":
                return self.peak_lr * left / max(1, total - warmup)
            case "cosine":
                return self.peak_lr * 0.5 * (1 - math.cos(math.pi * left / max(1, total - warmup)))
            case "wsd":
                decay = max(1, round(self.options.decay_share * total))
                return self.peak_lr * min(1.0, left / decay)


def build_schedule(options: ScheduleOptions, *, d_model: int, total_steps: int, lora: bool = False) -> Schedule:
    """Resolve `auto` and the scale for a run of `total_steps` updates, of the model or of its adapter (`lora`)."""
    if options.warmup_steps == "auto":
        warmup = max(1, min(MOST_AUTO_WARMUP_STEPS, round(SHARE_OF_RUN_TO_WARM_UP * total_steps)))
    else:
        warmup = options.warmup_steps
    if options.scale == "d_model":
        peak = options.factor / math.sqrt(d_model * warmup)
    elif options.peak_lr == "auto":
        peak = LORA_PEAK_LR if lora else auto_peak_lr(d_model)
    else:
        peak = options.peak_lr
    return Schedule(options, peak, warmup, total_steps)
