"""How a run is optimised, as fields of its recipe."""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass
from typing import Literal

from whispertune.errors import RecipeError


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
            raise RecipeError(f"is {self.peak_lr}; it must be above 0, or auto", field="schedule.peak_lr")
        if self.warmup_steps != "auto" and self.warmup_steps < 1:
            raise RecipeError(f"is {self.warmup_steps}; it must be at least 1, or auto", field="schedule.warmup_steps")
        if not 0 < self.factor < math.inf:
            raise RecipeError(f"is {self.factor}; it must be above 0", field="schedule.factor")
        if not 0 < self.decay_share <= 1:
            raise RecipeError(f"is {self.decay_share}; it must lie above 0, at most 1", field="schedule.decay_share")
        if self.scale == "d_model" and self.name != "noam":
            raise RecipeError(f"schedule.scale d_model goes with schedule.name noam, not {self.name}")
        unused = {"peak_lr": "scale peak"} if self.scale == "d_model" else {"factor": "scale d_model"}
        unused |= {} if self.name == "wsd" else {"decay_share": "name wsd"}
        for field, place in unused.items():
            if (value := getattr(self, field)) != getattr(ScheduleOptions, field):
                raise RecipeError(
                    f"is {value}, but it goes with schedule.{place} alone; leave it out", field=f"schedule.{field}"
                )


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """AdamW (Loshchilov & Hutter 2019)."""

    weight_decay: float = 0.01
    """Decoupled; not applied to biases, LayerNorm gains and position embeddings."""

    beta1: float = 0.9
    """Decay of the mean of gradients."""

    beta2: float = 0.98
    """Decay of the mean of squared gradients."""

    eps: float = 1e-8
    """Added to the root of the latter."""

    max_grad_norm: float = 2.0
    """Gradients are scaled down to this L2 norm over all parameters; 0 leaves them alone."""

    max_skipped_in_a_row: int = 20
    """Updates skipped in a row for non-finite gradients before the run stops."""

    def __post_init__(self) -> None:
        if self.weight_decay < 0:
            raise RecipeError(f"is {self.weight_decay}; it must be at least 0", field="optimizer.weight_decay")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise RecipeError(
                    f"is {getattr(self, name)}; it must be at least 0, below 1", field=f"optimizer.{name}"
                )
        if self.eps <= 0:
            raise RecipeError(f"is {self.eps}; it must be above 0", field="optimizer.eps")
        if self.max_grad_norm < 0:
            raise RecipeError(f"is {self.max_grad_norm}; it must be at least 0", field="optimizer.max_grad_norm")
        if self.max_skipped_in_a_row < 1:
            raise RecipeError(
                f"is {self.max_skipped_in_a_row}; it must be at least 1", field="optimizer.max_skipped_in_a_row"
            )


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """How an update is cut into micro-batches."""

    auto: bool = False
    """Find the largest micro-batch that fits in memory by trying: an update keeps its batch_size x accumulation
    utterances but is done in as few pieces as can be."""


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """How often the state that a resume needs is written."""

    every_minutes: float = 5.0
    """Write it when this much time has passed since the last one."""

    every_steps: int | None = None
    """Write it after so many optimiser updates, too."""

    def __post_init__(self) -> None:
        if self.every_minutes < 0:
            raise RecipeError(f"is {self.every_minutes}; it must be at least 0", field="checkpoint.every_minutes")
        if self.every_steps is not None and self.every_steps < 1:
            raise RecipeError(f"is {self.every_steps}; it must be at least 1", field="checkpoint.every_steps")


FREEZE_HELP = (
    "`encoder`, `none`, `encoder:N` (its convolutions and first N layers), `decoder:N` (the encoder and the "
    "decoder's position embeddings and layers below N); `,embeddings` behind it freezes the token embeddings too"
)


def parse_freeze(freeze: str) -> tuple[str, str | None, str | None, bool]:
    """The `freeze` field's first word, its layers of encoder or decoder, and whether the embeddings are frozen.

    Raises:
        RecipeError: if it is malformed.
    """
    # Twelve digits: more no model has, and Python refuses thousands.
    match = re.fullmatch(r"(encoder|none|encoder:(\d{1,12})|decoder:(\d{1,12}))(,embeddings)?", freeze.replace(" ", ""))
    if match is None:
        near = difflib.get_close_matches(freeze, ("encoder", "none"), 1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        raise RecipeError(f"is {freeze!r}{meant}; it takes {FREEZE_HELP}", field="freeze")
    return match[1], match[2], match[3], match[4] is not None
