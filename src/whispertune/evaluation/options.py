"""Validation, as fields of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from whispertune.system.fields import Bounds, Options


@dataclass(frozen=True, kw_only=True)
class ValidationOptions(Options):
    """Validation during training: greedy search, on the run's own frames."""

    every_steps: Annotated[int | None, Bounds(ge=1)] = None
    """Validate after every so many optimizer updates as well, not only after each epoch."""

    patience: Annotated[int | None, Bounds(ge=1)] = None
    """Early stopping: end the training after this many validations in a row without a lower error rate. The learning
    rate is still planned for all epochs."""

    max_tokens_per_second: Annotated[float | Literal["auto", "none"], Bounds(gt=0)] = "auto"
    """Stop a hypothesis at this many tokens per second of audio (plus 10). `auto` is twice the highest rate of the
    split's own transcripts; `none` leaves only Whisper's limit of 448 tokens."""

    cut_loops: bool = True
    """Stop a hypothesis that repeats itself and keep the first repetition; the log counts such cuts."""
