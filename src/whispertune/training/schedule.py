"""The learning rate of each optimiser update."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from whispertune.errors import RecipeError

MOST_AUTO_WARMUP_STEPS = 500
SHARE_OF_RUN_TO_WARM_UP = 0.1


@dataclass(frozen=True, kw_only=True)
class ScheduleOptions:
    """The learning rate by optimiser update (`step`, counted from 1)."""

    name: Literal["noam", "linear", "cosine", "constant", "wsd"] = "noam"
    """Shape after the warm-up: `noam` (inverse square root), `linear` and `cosine` (to zero at the end of the
    run), `constant`, `wsd` (stable, then linear decay to zero)."""

    peak_lr: float | Literal["auto"] = "auto"
    """Learning rate at the end of the warm-up; `auto` goes by the model's width."""

    warmup_steps: int | Literal["auto"] = "auto"
    """Updates of linear warm-up; `auto` is a tenth of the run, at most 500."""

    scale: Literal["peak", "d_model"] = "peak"
    """Of noam: `peak` peaks at `peak_lr`; `d_model` is `factor` x d_model^-0.5 (Vaswani et al. 2017)."""

    factor: float = 1.0
    """Of noam with scale `d_model`."""

    decay_share: float = 0.2
    """Of wsd: share of the run, at its end, in which the rate falls to zero."""

    def __post_init__(self) -> None:
        if self.peak_lr != "auto" and not (0 < self.peak_lr < math.inf):
            raise RecipeError(f"schedule.peak_lr is {self.peak_lr}; it must be above 0, or auto")
        if self.warmup_steps != "auto" and self.warmup_steps < 1:
            raise RecipeError(f"schedule.warmup_steps is {self.warmup_steps}; it must be at least 1, or auto")
        if not 0 < self.factor < math.inf:
            raise RecipeError(f"schedule.factor is {self.factor}; it must be above 0")
        if not 0 < self.decay_share <= 1:
            raise RecipeError(f"schedule.decay_share is {self.decay_share}; it must lie above 0, at most 1")
        if self.scale == "d_model" and self.name != "noam":
            raise RecipeError(f"schedule.scale d_model goes with schedule.name noam, not {self.name}")
        unused = {"peak_lr": "scale peak"} if self.scale == "d_model" else {"factor": "scale d_model"}
        unused |= {} if self.name == "wsd" else {"decay_share": "name wsd"}
        for field, place in unused.items():
            if (value := getattr(self, field)) != getattr(ScheduleOptions, field):
                raise RecipeError(f"schedule.{field} is {value}, but it goes with schedule.{place} alone; leave it out")


def auto_peak_lr(d_model: int) -> float:
    """A peak that suits the model's width: 3e-5 at 512 (whisper-base), falling with its 1.5th power.

    Larger models want smaller rates; the exponent follows the rates that Whisper's authors advise for
    fine-tuning, about 1/40 of each size's rate in pretraining.
    """
    return 3e-5 * math.sqrt(512 / d_model) ** 3


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


def build_schedule(options: ScheduleOptions, *, d_model: int, total_steps: int) -> Schedule:
    """Resolve `auto` and the scale for a run of `total_steps` updates."""
    if options.warmup_steps == "auto":
        warmup = max(1, min(MOST_AUTO_WARMUP_STEPS, round(SHARE_OF_RUN_TO_WARM_UP * total_steps)))
    else:
        warmup = options.warmup_steps
    if options.scale == "d_model":
        peak = options.factor / math.sqrt(d_model * warmup)
    else:
        peak = auto_peak_lr(d_model) if options.peak_lr == "auto" else options.peak_lr
    return Schedule(options, peak, warmup, total_steps)
