"""Attention of packed rows on a GPU: one fused kernel over padded rows.

Rows are padded to few lengths and batches to few numbers of rows, so that few shapes ever occur; but not keys that fill
a batch, as their padding would need a bias, which excludes the fastest kernels. Going from packed to padded rows and
back is one copy each, in the backward pass too: PyTorch's own indexing would sort there, and fill with zeros first.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from whispertune.model.attention import RowAttention
from whispertune.model.packed_lengths import MASKED_LOGIT, PackedLengths, attend_by_row, few_lengths, packed_index
from whispertune.system.precision import send


def row_attention(
    like: Tensor, log_weights: Tensor | None, query_rows: PackedLengths, key_rows: PackedLengths, num_heads: int,
    *, causal: bool = False,
) -> RowAttention:  # fmt: skip
    """Attention in which each row's queries attend to their own row's keys, the same for all layers.

    like: has their device and type. log_weights: (B, K), added to the logits, or None.
    """
    weights = None if log_weights is None else key_rows.pack(log_weights)
    rows = {"query_rows": query_rows, "key_rows": key_rows, "num_heads": num_heads, "causal": causal}
    if like.device.type == "cpu":
        return partial(attend_by_row, log_weights=weights, **rows)  # type: ignore[arg-type]
    bias = None if causal else padded_bias(like, weights, key_rows)
    return partial(attend_padded, bias=bias, **rows)  # type: ignore[arg-type]


def padded_bias(like: Tensor, log_weights: Tensor | None, key_rows: PackedLengths) -> Tensor | None:
    """(B, 1, 1, keys): packed log weights (K,) where there are keys, a large negative logit elsewhere.

    None if no key is padded and all weights are 1.
    """
    if log_weights is None and len(set(key_rows.sizes)) == 1:
        return None
    own = like.new_zeros(key_rows.total) if log_weights is None else log_weights.to(like.dtype)
    num_keys = few_lengths(max(key_rows.sizes), key_rows.least)
    return key_rows.with_few_rows().pad(own, num_keys, fill=MASKED_LOGIT)[:, None, None]


def attend_padded(
    query: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None,
    query_rows: PackedLengths, key_rows: PackedLengths, num_heads: int, *, causal: bool = False,
) -> Tensor:  # fmt: skip
    """As `attend_by_row`; bias: of `padded_bias`, not if causal."""
    num_queries, num_keys = max(query_rows.sizes), max(key_rows.sizes)
    padded = causal or bias is not None
    if padded or query_rows.sizes != key_rows.sizes:
        num_queries = few_lengths(num_queries, query_rows.least)
    if padded:
        num_keys = few_lengths(num_keys, key_rows.least)
        query_rows, key_rows = query_rows.with_few_rows(), key_rows.with_few_rows()
    q = _pad(query, query_rows, num_queries)
    k, v = (_pad(x, key_rows, num_keys) for x in (keys, values))
    q, k, v = (x.view(*x.shape[:2], num_heads, -1).transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, is_causal=causal)
    return _pack(out.transpose(1, 2).flatten(2), query_rows)


def _pad(packed: Tensor, rows: PackedLengths, length: int) -> Tensor:
    """(total, D) -> (B, length, D). The padding is finite; nothing that is used may depend on it."""
    if all(size == length for size in rows.sizes):
        return rows.pad(packed, length)
    out: Tensor = _Pad.apply(packed, *_pad_index(rows, length, packed.device))  # type: ignore[no-untyped-call]
    return out.view(len(rows.sizes), length, -1)


def _pack(padded: Tensor, rows: PackedLengths) -> Tensor:
    """(B, T, D) -> (total, D), zero in the filler."""
    if all(size == padded.shape[1] for size in rows.sizes):
        return rows.pack(padded)
    index = packed_index(rows.sizes, padded.shape[1], padded.device)
    out: Tensor = _Pack.apply(padded.flatten(0, 1), index, rows.total)  # type: ignore[no-untyped-call]
    return out


@lru_cache(maxsize=16)
def _pad_index(rows: PackedLengths, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """For each padded position its packed one, and the reverse.

    In the padding that is the first one. In the filler it is one of the padding, whose gradient is zero: a masked key
    has no weight, and a query of the padding no gradient.
    """
    begin, there, back, padding = 0, [], [], 0
    with torch.inference_mode(False):  # as in `packed_index`
        for row, size in enumerate(rows.sizes):
            there.append(torch.arange(begin, begin + length).masked_fill_(torch.arange(length) >= size, 0))
            back.append(torch.arange(row * length, row * length + size))
            begin += size
            padding = row * length + size if size < length else padding
        filler = torch.full((rows.total - begin,), padding)
        return send(torch.cat(there), device), send(torch.cat([*back, filler]), device)


class _Pad(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, packed: Tensor, there: Tensor, back: Tensor) -> Tensor:
        ctx.back = back
        return packed.index_select(0, there)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        return gradient.index_select(0, ctx.back), None, None


class _Pack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, padded: Tensor, index: Tensor, total: int) -> Tensor:
        ctx.index, ctx.num_rows = index, len(padded)
        out = padded.new_empty(total, padded.shape[1])
        torch.index_select(padded, 0, index, out=out[: len(index)])
        out[len(index) :].zero_()
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        own = gradient[: len(ctx.index)]
        return gradient.new_zeros(ctx.num_rows, gradient.shape[1]).index_copy_(0, ctx.index, own), None, None
