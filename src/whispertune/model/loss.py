"""The training loss: negative log-likelihood of the target tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from whispertune.model.step_memory import StepMemory
from whispertune.model.whisper import Decoder
from whispertune.system.precision import send
from whispertune.text.targets import IGNORE_INDEX

POSITIONS_MULTIPLE = 16
ROWS_AT_ONCE = 64
"""Positions whose float32 logits are in memory at once."""
ROWS_AT_ONCE_ON_GPU = 512
"""The same on a GPU, where launching a kernel for few rows does not pay (100 MB)."""
HALF_SCALE = 2.0**10
"""In fp16 the gradient of the logits is kept times this: otherwise probabilities below 3e-8 would be rounded to 0, and
the scale of the loss, which is applied later, could not bring them back. So only those below 3e-11 are."""
WEIGHT_ROWS_AT_ONCE = 2048
"""Tokens of the vocabulary whose logits are computed at once, in float32 on a CPU."""


def summed_nll(
    decoder: Decoder,
    hidden: Tensor,
    labels: Tensor,
    label_smoothing: float = 0.0,
    watch: Callable[[Tensor, Tensor], None] | None = None,
) -> Tensor:
    """Sum over the scored positions of -log softmax(logits)[label], in float32; divide by their number.

    hidden: (B, T, D); labels: (B, T) with `IGNORE_INDEX` where nothing is scored, preferably on the CPU, as counting
    the scored positions synchronises with a GPU. Logits are computed at those only. Smoothing e (Szegedy et al. 2016)
    mixes in e times the mean over the vocabulary. watch: called, without gradients, with the logits (n, V) of all of
    these positions and the logarithms (n, 1) of the sums of their exponentials, a few at a time.
    """
    scored = (labels.flatten() != IGNORE_INDEX).nonzero()[:, 0]
    own = send(labels.flatten()[scored], hidden.device)
    rows = hidden.flatten(0, 1)[send(scored, hidden.device)]
    # Kernels are prepared anew for each new size, so pad; zeros contribute nothing to any gradient.
    rows = F.pad(rows, (0, 0, 0, -len(rows) % POSITIONS_MULTIPLE))
    weight = decoder.embed_tokens.weight
    if torch.is_grad_enabled() and (rows.requires_grad or weight.requires_grad):
        return cast(Tensor, _VocabularyNLL.apply(rows, weight, own, label_smoothing, decoder.step_memory))  # type: ignore[no-untyped-call]
    total = torch.zeros((), dtype=_wide(rows), device=rows.device)
    for part in _parts(own):
        logits = decoder.logits(rows[part])[: len(own[part])]
        nll, _, log_normalisers = _nll_and_probs(logits, own[part], label_smoothing)
        total += nll
        if watch is not None:
            watch(logits, log_normalisers)
    return total


def _wide(values: Tensor) -> torch.dtype:
    return torch.promote_types(values.dtype, torch.float32)


def _parts(labels: Tensor) -> list[slice]:
    at_once = ROWS_AT_ONCE if labels.device.type == "cpu" else ROWS_AT_ONCE_ON_GPU
    return [slice(begin, begin + at_once) for begin in range(0, len(labels), at_once)]


def _nll_and_probs(logits: Tensor, labels: Tensor, smoothing: float) -> tuple[Tensor, Tensor, Tensor]:
    """Summed loss of logits (N, V), their softmax, and the logarithms (N, 1) of its divisors, all at least float32."""
    wide = _wide(logits)
    probs = logits.softmax(-1, dtype=wide)
    top = logits.amax(-1, keepdim=True).to(wide)
    # The largest logit and its probability give the normaliser without another pass of exponentials.
    log_normalisers = top - probs.amax(-1, keepdim=True).log()
    nll = (1 - smoothing) * (log_normalisers - logits.gather(1, labels[:, None]).to(wide)).sum()
    if smoothing:
        nll += smoothing * (log_normalisers.sum() - logits.sum(dtype=wide) / logits.shape[1])
    return nll, probs, log_normalisers


def _project(hidden: Tensor, weight: Tensor, out: Tensor) -> None:
    """hidden (N, D) times the vocabulary's weight (V, D), transposed, into `out` (N, V)."""
    if (hidden.device.type, hidden.dtype) != ("cpu", torch.float32):
        torch.mm(hidden, weight.T, out=out)
        return
    # With the weight as the first factor, in blocks, it takes two thirds of the time (docs/experiments.md, 2026-11-24).
    for begin in range(0, len(weight), WEIGHT_ROWS_AT_ONCE):
        part = slice(begin, begin + WEIGHT_ROWS_AT_ONCE)
        out[:, part] = (weight[part] @ hidden.T).T


class _VocabularyNLL(torch.autograd.Function):
    """Fused output projection and cross entropy.

    The logits of all positions in float32, their softmax and its gradient would be the largest tensors of a training
    step. Here the logits of only a few positions are ever in float32; their gradient, softmax(logits) - target,
    overwrites the logits, in the type that products are computed in.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, smoothing: float, memory: StepMemory
    ) -> Tensor:
        num_classes = weight.shape[0]
        taken = memory.take(len(hidden) * num_classes, hidden)
        logits = taken[: len(hidden) * num_classes].view(len(hidden), num_classes)
        _project(hidden, weight, logits)
        total = torch.zeros((), dtype=_wide(hidden), device=hidden.device)
        for part in _parts(labels):
            own = labels[part]
            rows = logits[part][: len(own)]
            nll, probs, _ = _nll_and_probs(rows, own, smoothing)
            total += nll
            gradient = probs.sub_(smoothing / num_classes) if smoothing else probs
            gradient.scatter_add_(1, own[:, None], gradient.new_full((1, 1), smoothing - 1).expand(len(own), 1))
            rows.copy_(gradient.mul_(HALF_SCALE) if logits.dtype == torch.float16 else gradient)
        ctx.memory, ctx.taken = memory, taken
        ctx.save_for_backward(hidden, weight, logits)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (outer,) = gradients
        hidden, weight, to_logits = ctx.saved_tensors
        if to_logits.dtype == torch.float16:
            outer = outer / HALF_SCALE
        # Scaling the smaller factor of each product scales the product.
        to_hidden = to_logits @ weight * outer.to(hidden.dtype) if ctx.needs_input_grad[0] else None
        to_weight = None
        if ctx.needs_input_grad[1]:
            to_weight = torch.empty_like(weight) if ctx.memory.gradient is None else ctx.memory.gradient()
            torch.mm(to_logits.T, hidden * outer.to(hidden.dtype), out=to_weight)
        ctx.memory.give_back(ctx.taken)
        return to_hidden, to_weight, None, None, None
