"""Packed rows of different lengths, concatenated so that nothing is computed for padding.

A batch usually pads every row to the longest. Here layers work on packed rows, and only attention treats each row
separately: on a CPU row by row, on a GPU in one kernel over padded rows (`padded_attention.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from whispertune.system.precision import send

MASKED_LOGIT = -30_000.0
"""Logit of masked positions: large and negative, but finite in float16 too."""
LARGEST_SCORES = 2**18
"""Queries times keys of a row above which its attention weights are not saved for the backward pass."""


@dataclass(frozen=True, slots=True)
class PackedLengths:
    """The lengths of packed rows.

    The end is padded to a multiple of `multiple`, as kernels are prepared anew for each new size, which costs time and
    memory. least: the shortest length that a GPU's attention pads rows to.
    """

    sizes: tuple[int, ...]
    multiple: int = 1
    least: int = 1

    @property
    def total(self) -> int:
        """Packed length, padding included."""
        return -(-sum(self.sizes) // self.multiple) * self.multiple

    def with_few_rows(self) -> PackedLengths:
        """With empty rows at the end: 1, 2, 4 or a multiple of 8."""
        rows = len(self.sizes)
        few = 1 << (rows - 1).bit_length() if rows <= 4 else -(-rows // 8) * 8
        return replace(self, sizes=self.sizes + (0,) * (few - rows))

    def starts(self, length: int, device: torch.device) -> Tensor:
        """(B, 1): offset of each row in a flattened (B, length) batch."""
        return send((torch.arange(len(self.sizes)) * length)[:, None], device)

    def _fill(self, length: int) -> bool:
        """Whether all rows have this length, so that packing is a reshape."""
        return all(size == length for size in self.sizes)

    def pack(self, padded: Tensor) -> Tensor:
        """(B, T, ...) -> (total, ...), zero in the padding."""
        packed = padded.flatten(0, 1)
        if not self._fill(padded.shape[1]):
            packed = packed[packed_index(self.sizes, padded.shape[1], padded.device)]
        return F.pad(packed, (0, 0) * (packed.ndim - 1) + (0, self.total - len(packed)))

    def pad(self, packed: Tensor, length: int, fill: float = 0.0) -> Tensor:
        """(total, ...) -> (B, length, ...), `fill` after each row's end."""
        if self._fill(length):
            return packed[: sum(self.sizes)].reshape(len(self.sizes), length, *packed.shape[1:])
        flat = packed.new_full((len(self.sizes) * length, *packed.shape[1:]), fill)
        index, rows = packed_index(self.sizes, length, packed.device), packed[: sum(self.sizes)]
        # index_copy keeps the rows themselves for its backward pass, a quarter of a GPU's activations.
        flat = flat.index_copy(0, index, rows) if packed.device.type == "cpu" else flat.index_put((index,), rows)
        return flat.view(len(self.sizes), length, *packed.shape[1:])


@lru_cache(maxsize=16)
def packed_index(sizes: tuple[int, ...], length: int, device: torch.device) -> Tensor:
    """Index of each packed position in a flattened (B, length) batch.

    Cached, as every layer needs it, and copying it to a GPU each time would cost more than attention.
    """
    with torch.inference_mode(False):  # else training could not use a tensor that validation has cached
        parts = [torch.arange(row * length, row * length + size) for row, size in enumerate(sizes)]
        return send(torch.cat(parts), device)


def few_lengths(length: int, least: int) -> int:
    """`least`, doubled until it is no smaller than `length`; from 1024 on a multiple of 512 (1500 frames -> 1536).

    GPUs pad rows to these, so that few shapes occur: attention is then computed on up to twice the length, and
    everything else on the length itself.
    """
    while least < length:
        least = 2 * least if least < 1024 else least + 512
    return least


def padded_length(length: int, least: int, device: torch.device) -> int:
    """The length that rows are padded to: on a GPU one of few; on a CPU no more than needed."""
    return length if device.type == "cpu" else few_lengths(length, least)


def attend_by_row(
    query: Tensor, keys: Tensor, values: Tensor, log_weights: Tensor | None,
    query_rows: PackedLengths, key_rows: PackedLengths, num_heads: int, *, causal: bool = False,
) -> Tensor:  # fmt: skip
    """Multi-head attention in which each row's queries attend to their own row's keys.

    query: (N, D), packed by query_rows; keys, values: (K, D), packed by key_rows; log_weights: (K,), added to the
    logits, or None. For CPUs. Returns (N, D), zero in the padding. Softmax and its sums are computed in at least
    float32.
    """
    largest = max(queries * keys for queries, keys in zip(query_rows.sizes, key_rows.sizes, strict=True))
    if not torch.is_grad_enabled() or largest > LARGEST_SCORES:
        return _fused_by_row(query, keys, values, log_weights, query_rows, key_rows, num_heads, causal)
    out: Tensor = _RowAttention.apply(  # type: ignore[no-untyped-call]
        query, keys, values, log_weights, query_rows.sizes, key_rows.sizes, num_heads, causal
    )
    return out


def _heads(rows: Tensor, num_heads: int) -> Tensor:
    """(T, D) -> (H, T, D / H), a view."""
    return rows.view(rows.shape[0], num_heads, -1).transpose(0, 1)


def _fused_by_row(
    query: Tensor, keys: Tensor, values: Tensor, log_weights: Tensor | None,
    query_rows: PackedLengths, key_rows: PackedLengths, num_heads: int, causal: bool,
) -> Tensor:  # fmt: skip
    """The same with torch's fused kernel: no weights are saved, but its backward pass is slow for few queries."""
    outputs = []
    sizes = list(key_rows.sizes)
    biases: Sequence[Tensor | None] = [None] * len(sizes)
    if log_weights is not None:
        biases = torch.split(log_weights[: sum(sizes)], sizes)
    queries = torch.split(query[: sum(query_rows.sizes)], list(query_rows.sizes))
    all_keys, all_values = (torch.split(x[: sum(sizes)], sizes) for x in (keys, values))
    for q, k, v, bias in zip(queries, all_keys, all_values, biases, strict=True):
        mask = None if bias is None else bias.to(query.dtype)[None, None, None]
        q, k, v = (_heads(x, num_heads)[None] for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        outputs.append(out[0].transpose(0, 1).flatten(1))
    outputs.append(query.new_zeros(query_rows.total - sum(query_rows.sizes), query.shape[1]))
    return torch.cat(outputs)


class _RowAttention(torch.autograd.Function):
    """Plain products row by row, with the weights saved for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, keys: Tensor, values: Tensor, log_weights: Tensor | None,
        query_sizes: tuple[int, ...], key_sizes: tuple[int, ...], num_heads: int, causal: bool,
    ) -> Tensor:  # fmt: skip
        wide = torch.promote_types(query.dtype, torch.float32)
        scale = (query.shape[1] // num_heads) ** -0.5
        out = torch.empty_like(query)
        kept = []
        begin = first = 0
        for num_queries, num_keys in zip(query_sizes, key_sizes, strict=True):
            end, last = begin + num_queries, first + num_keys
            q = _heads(query[begin:end].to(wide), num_heads)
            k = _heads(keys[first:last].to(wide), num_heads)
            v = _heads(values[first:last].to(wide), num_heads)
            scores = torch.bmm(q, k.transpose(1, 2)).mul_(scale)
            if log_weights is not None:
                scores += log_weights[first:last]
            if causal:
                future = torch.ones(num_queries, num_keys, dtype=torch.bool).triu_(1)
                scores.masked_fill_(future, -torch.inf)
            weights = scores.softmax(-1)
            _heads(out[begin:end], num_heads).copy_(torch.bmm(weights, v))
            kept.append(weights.to(query.dtype))
            begin, first = end, last
        out[begin:] = 0
        ctx.save_for_backward(query, keys, values, *kept)
        ctx.shape = query_sizes, key_sizes, num_heads, scale
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        query, keys, values, *kept = ctx.saved_tensors
        query_sizes, key_sizes, num_heads, scale = ctx.shape
        wide = torch.promote_types(query.dtype, torch.float32)
        to_query, to_keys, to_values = (torch.empty_like(x) for x in (query, keys, values))
        begin = first = 0
        for num_queries, num_keys, weights in zip(query_sizes, key_sizes, kept, strict=True):
            end, last = begin + num_queries, first + num_keys
            weights = weights.to(wide)
            q = _heads(query[begin:end].to(wide), num_heads)
            k = _heads(keys[first:last].to(wide), num_heads)
            v = _heads(values[first:last].to(wide), num_heads)
            g = _heads(gradient[begin:end].to(wide), num_heads)
            _heads(to_values[first:last], num_heads).copy_(torch.bmm(weights.transpose(1, 2), g))
            # Gradient of softmax: weights x (own - weighted mean), times the scale of the logits.
            to_weights = torch.bmm(g, v.transpose(1, 2))
            mean = (to_weights * weights).sum(-1, keepdim=True)
            to_scores = to_weights.sub_(mean).mul_(weights).mul_(scale)
            _heads(to_query[begin:end], num_heads).copy_(torch.bmm(to_scores, k))
            _heads(to_keys[first:last], num_heads).copy_(torch.bmm(to_scores.transpose(1, 2), q))
            begin, first = end, last
        to_query[begin:] = 0
        to_keys[first:] = 0
        to_values[first:] = 0
        return to_query, to_keys, to_values, None, None, None, None, None
