"""The training loss, as fields of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from whispertune.system.fields import Bounds, Options


@dataclass(frozen=True, kw_only=True)
class LossOptions(Options):
    """The training loss: cross-entropy per target token."""

    label_smoothing: Annotated[float, Bounds(ge=0, lt=1)] = 0.0
    """Share of the target's probability that is spread evenly over the vocabulary (0 to below 1)."""

    prompt_tokens: bool = False
    """Train on the prompt tokens (language, task, no timestamps) as well as on the text."""
