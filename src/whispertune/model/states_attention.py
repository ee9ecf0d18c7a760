"""Cross-attention on the encoder states themselves, without keys and values of them.

A key is W s for a frame's state s, so that a query's product with it is (q W) s: instead of every frame the few
queries go through the key projection, each head's into the states' width, and likewise the weighted mean of the states
through the value projection (as DeepSeek-AI 2024, arXiv:2405.04434, does at inference). With 15 tokens on 200 frames
that is a third of the products of a training step's cross-attention. With many tokens a row it is more, as each head
then works in the whole width (`is_cheaper`).

Shapes: N packed tokens, K packed frames, D width, H heads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from whispertune.model.packed_lengths import PackedLengths


@dataclass(frozen=True, slots=True)
class StatesAttention:
    """What the layers share: the frames of a batch, and which tokens see which of them.

    states: (K, D); log_weights: (K,), or None.
    """

    states: Tensor
    log_weights: Tensor | None
    query_rows: PackedLengths
    key_rows: PackedLengths
    num_heads: int

    def rows(self) -> Iterator[tuple[slice, slice]]:
        """The queries of each row (H of each token), and its frames."""
        begin = first = 0
        for num_queries, num_keys in zip(self.query_rows.sizes, self.key_rows.sizes, strict=True):
            end, last = begin + num_queries * self.num_heads, first + num_keys
            yield slice(begin, end), slice(first, last)
            begin, first = end, last


def is_cheaper(states: Tensor, query_rows: PackedLengths, key_rows: PackedLengths, num_heads: int) -> bool:
    """Whether training takes clearly fewer products this way, and can: on a CPU, the states (B, K, D) fixed.

    Not yet in bf16, where oneDNN prepares each product anew whose sizes it has not met (2.7 ms and 0.8 MB), and these
    are a row's own.
    """
    kinds = (torch.float32, torch.float64)
    if not torch.is_grad_enabled() or states.requires_grad or states.device.type != "cpu" or states.dtype not in kinds:
        return False
    width = states.shape[-1]
    pairs = sum(queries * keys for queries, keys in zip(query_rows.sizes, key_rows.sizes, strict=True))
    here = 5 * num_heads * pairs + 6 * query_rows.total * width
    there = 4 * key_rows.total * width + 6 * pairs
    return here < 0.7 * there


def share_states(
    states: Tensor, log_weights: Tensor | None, query_rows: PackedLengths, key_rows: PackedLengths, num_heads: int
) -> StatesAttention:
    """Of states (B, K, D) with log_weights (B, K), padded at the end."""
    weights = None if log_weights is None else key_rows.pack(log_weights).to(states.dtype)
    return StatesAttention(key_rows.pack(states), weights, query_rows, key_rows, num_heads)


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
        states = shared.states
        scaled = query * (width // num_heads) ** -0.5
        queries = query.new_empty(length, num_heads, width)
        torch.bmm(_by_head(scaled, num_heads), key_weight.view(num_heads, -1, width), out=queries.transpose(0, 1))
        flat = queries.flatten(0, 1)
        means = query.new_zeros(length * num_heads, width)
        kept = []
        for own, frames in shared.rows():
            bias = None if shared.log_weights is None else shared.log_weights[frames]
            scores = flat[own] @ states[frames].T
            weights = (scores if bias is None else scores.add_(bias)).softmax(-1)
            torch.mm(weights, states[frames], out=means[own])
            kept.append(weights)
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
        states = shared.states
        outer = _by_head(gradient.contiguous(), num_heads)
        to_value_weight = None
        if ctx.needs_input_grad[2]:
            to_value_weight = torch.bmm(
                outer.transpose(1, 2), means.view(length, num_heads, width).transpose(0, 1)
            ).view(width, width)
        to_means = scaled.new_empty(length, num_heads, width)
        torch.bmm(outer, value_weight.view(num_heads, -1, width), out=to_means.transpose(0, 1))
        to_means = to_means.flatten(0, 1)
        to_queries = torch.zeros_like(to_means)
        for number, (own, frames) in enumerate(shared.rows()):
            keys = states[frames]
            to_weights = torch.mm(to_means[own], keys.T)
            to_scores = torch._softmax_backward_data(to_weights, kept[number], -1, to_weights.dtype)
            torch.mm(to_scores, keys, out=to_queries[own])
        by_head = to_queries.view(length, num_heads, width).transpose(0, 1)
        to_key_weight = None
        if ctx.needs_input_grad[1]:
            to_key_weight = torch.bmm(_by_head(scaled, num_heads).transpose(1, 2), by_head).view(width, width)
        to_query = (
            torch.bmm(by_head, key_weight.view(num_heads, -1, width).transpose(1, 2))
            .transpose(0, 1)
            .reshape(length, width)
        )
        return to_query.mul_((width // num_heads) ** -0.5), to_key_weight, to_value_weight, None
