"""Cross-attention on the encoder states themselves, without keys and values of them.

A key is W s for a frame's state s, so that a query's product with it is (q W) s: instead of every frame the few
queries go through the key projection, each head's into the states' width, and likewise the weighted mean of the states
through the value projection (as DeepSeek-AI 2024, arXiv:2405.04434, does at inference). With 15 tokens on 200 frames
that is a third of the products of a training step's cross-attention. With many tokens a row it is more, as each head
then works in the whole width (`is_cheaper`).

In bf16, oneDNN prepares a product anew for every size that it has not met (3 ms and 0.8 MB), so each row's product
takes a few of the next row's tokens and frames along, up to one of few sizes: those tokens' results are overwritten by
their own row's, and those frames are masked. The states' mean is subtracted, which softmax does not see, and added to
the weighted means again: what all frames have in common would be rounded away with what tells them apart.

Shapes: N packed tokens, K packed frames, D width, H heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from whispertune.model.packed_lengths import MASKED_LOGIT, PackedLengths

TOKENS_STEP = 8
FRAMES_STEP = 64
"""In bf16 the lengths of a product's sides are multiples of these, and four to each doubling at most."""


@dataclass(frozen=True, slots=True)
class StatesAttention:
    """What the layers share: the frames of a batch, and which tokens see which of them.

    states: (K, D), without `mean` (D,) if there is one. rows: the tokens and the frames of each row's products, and
    what is added to its logits, (its frames,) or None. num_real: tokens without the filler; num_tokens: up to the end
    of the last row's products.
    """

    states: Tensor
    mean: Tensor | None
    rows: list[tuple[slice, slice, Tensor | None]]
    num_real: int
    num_tokens: int
    num_heads: int

    def products(self) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
        """The queries of each row (H of each token), the states of its frames, and what is added to its logits."""
        for tokens, frames, bias in self.rows:
            yield slice(tokens.start * self.num_heads, tokens.stop * self.num_heads), self.states[frames], bias


def few_sizes(length: int, step: int) -> int:
    """`length` rounded up to a multiple of `step`, and of an eighth of the next power of two."""
    step = max(step, 1 << max(0, (length - 1).bit_length() - 3))
    return -(-length // step) * step


def is_cheaper(states: Tensor, query_rows: PackedLengths, key_rows: PackedLengths, num_heads: int) -> bool:
    """Whether training is quicker this way, and can: on a CPU, the states (B, K, D) fixed.

    It is with clearly fewer products; in bf16, where the other way casts each row, with no more.
    """
    kinds = (torch.bfloat16, torch.float32, torch.float64)
    if not torch.is_grad_enabled() or states.requires_grad or states.device.type != "cpu" or states.dtype not in kinds:
        return False
    width = states.shape[-1]
    pairs = sum(queries * keys for queries, keys in zip(query_rows.sizes, key_rows.sizes, strict=True))
    here = 5 * num_heads * pairs + 6 * query_rows.total * width
    there = 4 * key_rows.total * width + 6 * pairs
    return here < (1.0 if states.dtype == torch.bfloat16 else 0.7) * there


def share_states(
    states: Tensor, log_weights: Tensor | None, query_rows: PackedLengths, key_rows: PackedLengths, num_heads: int
) -> StatesAttention:
    """Of states (B, K, D) with log_weights (B, K), padded at the end."""
    packed, weights = key_rows.pack(states), None if log_weights is None else key_rows.pack(log_weights)
    tokens, frames = _spans(query_rows.sizes), _spans(key_rows.sizes)
    if states.dtype != torch.bfloat16:
        biases = [None if weights is None else weights[own].to(states.dtype) for own in frames]
        plain = list(zip(tokens, frames, biases, strict=True))
        return StatesAttention(packed, None, plain, tokens[-1].stop, query_rows.total, num_heads)
    mean = packed[: frames[-1].stop].mean(0, dtype=torch.float32)
    rows: list[tuple[slice, slice, Tensor | None]] = []
    for queries, keys in zip(tokens, frames, strict=True):
        seen = _lengthened(keys, FRAMES_STEP)
        bias = packed.new_full((seen.stop - seen.start,), MASKED_LOGIT)
        bias[: keys.stop - keys.start] = 0 if weights is None else weights[keys]
        rows.append((_lengthened(queries, TOKENS_STEP), seen, bias))
    num_tokens = max(query_rows.total, *(queries.stop for queries, _, _ in rows))
    centred = packed.new_zeros(max(len(packed), *(keys.stop for _, keys, _ in rows)), packed.shape[1])
    torch.sub(packed, mean, out=centred[: len(packed)])
    return StatesAttention(centred, mean.to(packed.dtype), rows, tokens[-1].stop, num_tokens, num_heads)


def _spans(sizes: Sequence[int]) -> list[slice]:
    return [slice(end - size, end) for size, end in zip(sizes, accumulate(sizes), strict=True)]


def _lengthened(span: slice, step: int) -> slice:
    return slice(span.start, span.start + few_sizes(span.stop - span.start, step))


def attend_to_states(query: Tensor, key_weight: Tensor, value_weight: Tensor, shared: StatesAttention) -> Tensor:
    """Attention of queries (N, D) to keys and values that are linear in the states; (N, D), zero in the filler.

    key_weight, value_weight: (D, D); a bias of the values is the caller's to add, as weights sum to one.
    """
    out: Tensor = _AttentionToStates.apply(query, key_weight, value_weight, shared)  # type: ignore[no-untyped-call]
    return out


def _by_head(rows: Tensor, num_heads: int) -> Tensor:
    """(N, D) -> (H, N, D / H), a view."""
    return rows.view(rows.shape[0], num_heads, -1).transpose(0, 1)


class _AttentionToStates(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key_weight: Tensor, value_weight: Tensor, shared: StatesAttention) -> Tensor:
        num_heads, length, width = shared.num_heads, len(query), query.shape[1]
        scaled = query * (width // num_heads) ** -0.5
        queries = query.new_empty(shared.num_tokens, num_heads, width)
        queries[length:] = 0
        torch.bmm(
            _by_head(scaled, num_heads), key_weight.view(num_heads, -1, width), out=queries[:length].transpose(0, 1)
        )
        flat = queries.flatten(0, 1)
        means = torch.zeros_like(flat)
        kept = []
        for own, keys, bias in shared.products():
            if keys.dtype == torch.bfloat16:
                scores = F.linear(flat[own], keys, bias)
            else:
                scores = flat[own] @ keys.T
                scores = scores if bias is None else scores.add_(bias)
            weights = scores.softmax(-1)
            torch.mm(weights, keys, out=means[own])
            kept.append(weights)
        means = means[: length * num_heads]
        if shared.mean is not None:
            means += shared.mean
            means[shared.num_real * num_heads :] = 0
        by_head = torch.bmm(
            means.view(length, num_heads, width).transpose(0, 1),
            value_weight.view(num_heads, -1, width).transpose(1, 2),
        )
        out = by_head.transpose(0, 1).reshape(length, width)
        ctx.save_for_backward(scaled, key_weight, value_weight, means, *kept)
        ctx.shared = shared
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        scaled, key_weight, value_weight, means, *kept = ctx.saved_tensors
        shared: StatesAttention = ctx.shared
        num_heads, length, width = shared.num_heads, len(scaled), scaled.shape[1]
        outer = _by_head(gradient.contiguous(), num_heads)
        to_value_weight = None
        if ctx.needs_input_grad[2]:
            to_value_weight = torch.bmm(
                outer.transpose(1, 2), means.view(length, num_heads, width).transpose(0, 1)
            ).view(width, width)
        to_means = scaled.new_empty(shared.num_tokens, num_heads, width)
        to_means[length:] = 0
        torch.bmm(outer, value_weight.view(num_heads, -1, width), out=to_means[:length].transpose(0, 1))
        to_means = to_means.flatten(0, 1)
        to_queries = torch.zeros_like(to_means)
        for weights, (own, keys, _) in zip(kept, shared.products(), strict=True):
            to_weights = torch.mm(to_means[own], keys.T)
            to_scores = torch._softmax_backward_data(to_weights, weights, -1, weights.dtype)
            torch.mm(to_scores, keys, out=to_queries[own])
        by_head = to_queries[: length * num_heads].view(length, num_heads, width).transpose(0, 1)
        to_key_weight = None
        if ctx.needs_input_grad[1]:
            to_key_weight = torch.bmm(_by_head(scaled, num_heads).transpose(1, 2), by_head).view(width, width)
        to_query = (
            torch.bmm(by_head, key_weight.view(num_heads, -1, width).transpose(1, 2))
            .transpose(0, 1)
            .reshape(length, width)
        )
        return to_query.mul_((width // num_heads) ** -0.5), to_key_weight, to_value_weight, None
