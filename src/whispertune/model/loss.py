"""The training loss: negative log-likelihood of the target tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from whispertune.errors import RecipeError
from whispertune.model.whisper import Decoder
from whispertune.targets import IGNORE_INDEX


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """The training loss."""

    label_smoothing: float = 0.0
    """Share of the target's probability spread evenly over the vocabulary (0 to below 1)."""

    prompt_tokens: bool = False
    """Count the prompt tokens (language, task, no timestamps) in as well."""

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise RecipeError(f"loss.label_smoothing is {self.label_smoothing}; it must be at least 0 and below 1")


def summed_nll(decoder: Decoder, hidden: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Sum over the scored positions of -log softmax(logits)[label], in float32; divide by their number.

    hidden: (B, T, D); labels: (B, T) with `IGNORE_INDEX` where nothing is scored. Logits are computed at the
    scored positions only. Smoothing e (Szegedy et al. 2016) mixes in e times the mean over the vocabulary.
    """
    scored = labels != IGNORE_INDEX
    logits = decoder.logits(hidden[scored])
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits, labels[scored], reduction="sum", label_smoothing=label_smoothing)
