"""The training loss: negative log-likelihood of the target tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from whispertune.errors import RecipeError
from whispertune.model.whisper import Decoder
from whispertune.targets import IGNORE_INDEX

POSITIONS_MULTIPLE = 16
ROWS_AT_ONCE = 64
"""Positions whose float32 logits are held at once."""


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
    rows, own = hidden[scored], labels[scored]
    # Kernels are prepared anew for each size they have not met: fill up, with zeros, whose logits are zero and whose
    # share of every gradient is nothing.
    filler = -len(rows) % POSITIONS_MULTIPLE
    nll: Tensor = _VocabularyNLL.apply(  # type: ignore[no-untyped-call]
        F.pad(rows, (0, 0, 0, filler)), decoder.embed_tokens.weight, own, label_smoothing, decoder
    )
    return nll


class _VocabularyNLL(torch.autograd.Function):
    """Output projection and cross entropy in one.

    The logits of all positions in float32, their softmax and its gradient would be the largest tensors of a
    training step. Here only a few positions' logits are ever in float32; their gradient, softmax(logits) - target,
    takes the logits' place, in the type that products are computed in.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, smoothing: float, decoder: Decoder) -> Tensor:
        num_classes = weight.shape[0]
        wide = torch.promote_types(hidden.dtype, torch.float32)
        needed = any(ctx.needs_input_grad)
        logits = hidden @ weight.T
        total = torch.zeros((), dtype=wide, device=hidden.device)
        for begin in range(0, len(labels), ROWS_AT_ONCE):
            rows = slice(begin, min(begin + ROWS_AT_ONCE, len(labels)))
            own = labels[rows, None]
            probs = logits[rows].softmax(-1, dtype=wide)
            top = logits[rows].amax(-1, keepdim=True).to(wide)
            # The largest logit and its probability give the normaliser without another pass of exponentials.
            log_normalisers = top - probs.amax(-1, keepdim=True).log()
            chosen = logits[rows].gather(1, own).to(wide)
            total += (1 - smoothing) * (log_normalisers - chosen).sum()
            if smoothing:
                total += smoothing * (log_normalisers.sum() - logits[rows].sum(dtype=wide) / num_classes)
            if needed:
                gradient = probs.sub_(smoothing / num_classes) if smoothing else probs
                gradient.scatter_add_(1, own, gradient.new_full((1, 1), smoothing - 1).expand_as(own))
                logits[rows] = gradient
        ctx.decoder = decoder
        ctx.save_for_backward(hidden, weight, logits if needed else None)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (outer,) = gradients
        hidden, weight, to_logits = ctx.saved_tensors
        # Scaling the smaller factor of each product scales the product.
        to_hidden = to_logits @ weight * outer.to(hidden.dtype) if ctx.needs_input_grad[0] else None
        to_weight = None
        if ctx.needs_input_grad[1]:
            to_weight = torch.mm(to_logits.T, hidden * outer.to(hidden.dtype), out=ctx.decoder.vocabulary_gradient())
        return to_hidden, to_weight, None, None, None
