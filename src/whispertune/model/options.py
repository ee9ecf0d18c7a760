"""The training loss and LoRA, as fields of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from whispertune.errors import RecipeError
from whispertune.system.fields import Bounds, Options


@dataclass(frozen=True, kw_only=True)
class LossOptions(Options):
    """The training loss: cross-entropy per target token."""

    label_smoothing: Annotated[float, Bounds(ge=0, lt=1)] = 0.0
    """Share of the target's probability that is spread evenly over the vocabulary (0 to below 1)."""

    prompt_tokens: bool = False
    """Train on the prompt tokens (language, task, no timestamps) as well as on the text."""


@dataclass(frozen=True, kw_only=True)
class LoraOptions(Options):
    """LoRA (Hu et al. 2021): the model stays frozen, and low-rank updates of its linear layers learn."""

    rank: Annotated[int, Bounds(ge=0)] = 0
    """Rank of the updates; 0 turns LoRA off. With LoRA nothing else learns, whatever `freeze` would let learn."""

    alpha: Annotated[float | Literal["auto"], Bounds(gt=0)] = "auto"
    """Updates are multiplied by alpha / rank; `auto` is twice the rank."""

    targets: Literal["q,v", "attention", "all"] = "all"
    """Layers that are adapted: queries and values, all four projections of attention, or these and the feed-forward
    layers."""

    where: Literal["decoder", "both"] = "decoder"
    """Adapt the decoder alone, so that encoder states are computed once, or encoder and decoder."""

    def check(self) -> None:
        for name in ("alpha", "targets", "where"):
            if not self.rank and (value := getattr(self, name)) != getattr(LoraOptions, name):
                raise RecipeError(f"is {value}, but lora.rank is 0; set it as well, or leave {name} out", field=name)

    @property
    def resolved_alpha(self) -> float:
        """`alpha` as a number."""
        return 2.0 * self.rank if self.alpha == "auto" else self.alpha
