"""The training loss, as fields of a recipe."""

from __future__ import annotations

from dataclasses import dataclass

from whispertune.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """The training loss."""

    label_smoothing: float = 0.0
    """Share of the target's probability spread evenly over the vocabulary (0 to below 1)."""

    prompt_tokens: bool = False
    """Count the prompt tokens (language, task, no timestamps) in as well."""

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise RecipeError(
                f"is {self.label_smoothing}; it must be at least 0 and below 1", field="loss.label_smoothing"
            )
