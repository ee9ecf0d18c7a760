"""Validation, as fields of a recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from whispertune.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class ValidationOptions:
    """Validation inside a run: greedy, on the run's own frames."""

    every_steps: int | None = None
    """Validate after so many optimiser updates too, not only after each epoch."""

    max_tokens_per_second: float | Literal["auto", "none"] = "auto"
    """A hypothesis is stopped at so many tokens a second of audio (and 10 more); `auto` is twice the highest
    rate of the split's own transcripts; `none` leaves only Whisper's 448."""

    cut_loops: bool = True
    """Stop a hypothesis that repeats itself and keep the first round; such cuts are counted in the log."""

    def __post_init__(self) -> None:
        if self.every_steps is not None and self.every_steps < 1:
            raise RecipeError(f"is {self.every_steps}; it must be at least 1", field="validation.every_steps")
        rate = self.max_tokens_per_second
        if isinstance(rate, float | int) and not 0 < rate < math.inf:
            raise RecipeError(f"is {rate}; it must be above 0, auto or none", field="validation.max_tokens_per_second")
