"""Multi-head attention: padded batches, cached steps and beams, or packed rows.

Shapes: B rows, U utterances (B = U x beams in beam search), T positions, K kept frames, D width, H heads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from whispertune.model.packed_lengths import MASKED_LOGIT, PackedLengths
from whispertune.model.states_attention import StatesAttention, attend_to_states

RowAttention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Packed queries (N, D), keys and values (K, D) -> (N, D)."""

FRAMES_MULTIPLE = 64
TOKENS_MULTIPLE = 16
"""Packed frames and tokens are padded to a multiple of these."""
FEWEST_FRAMES = 256
FEWEST_TOKENS = 32
"""Lengths to which the shortest rows are padded in a GPU's attention (`few_lengths`)."""

PADDING_LOG_WEIGHT = MASKED_LOGIT
"""Log weight of a padding frame: large and negative, but finite in float16 too."""


def attention_bias(log_weights: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """(B, K) log weights as an additive attention mask (B, 1, 1, K)."""
    return None if log_weights is None else log_weights[:, None, None, :].to(dtype)


def frame_rows(rows: Tensor, num_frames: Sequence[int] | None) -> PackedLengths:
    """The lengths of rows (B, K, …) in kept frames; num_frames: None if no row is padded."""
    num_rows, longest = rows.shape[:2]
    return PackedLengths(
        (longest,) * num_rows if num_frames is None else tuple(num_frames), FRAMES_MULTIPLE, FEWEST_FRAMES
    )


class Attention(nn.Module):
    """Multi-head attention; the key projection has no bias."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.k_proj = nn.Linear(d_model, d_model, bias=False)
        self.v_proj = nn.Linear(d_model, d_model)
        self.q_proj = nn.Linear(d_model, d_model)
        self.out_proj = nn.Linear(d_model, d_model)

    def heads(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, H, T, D / H)."""
        return x.view(*x.shape[:-1], self.num_heads, -1).transpose(1, 2)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of (B, K, D), each (B, H, K, D / H)."""
        return self.heads(self.k_proj(x)), self.heads(self.v_proj(x))

    def logits(self, x: Tensor, keys: Tensor, heads: Sequence[int]) -> Tensor:
        """Attention logits (B, len(heads), T, K), float32, of some heads from (B, T, D) to keys (B, H, K, D / H)."""
        query = self.heads(self.q_proj(x))[:, heads].float()
        return query @ keys[:, heads].float().transpose(-1, -2) / math.sqrt(query.shape[-1])

    def by_row(self, x: Tensor, context: Tensor, rows: RowAttention) -> Tensor:
        """Attend from packed rows (N, D) to the same rows of the packed `context` (K, D); (N, D)."""
        return cast(Tensor, self.out_proj(rows(self.q_proj(x), self.k_proj(context), self.v_proj(context))))

    def to_states(self, x: Tensor, states: StatesAttention) -> Tensor:
        """As `by_row`, the context being fixed states that have their own way to be attended to; (N, D)."""
        mean = attend_to_states(self.q_proj(x), self.k_proj.weight, self.v_proj.weight, states)
        return cast(Tensor, self.out_proj(mean + self.v_proj.bias))

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None, causal: bool = False
    ) -> Tensor:
        """Attend from (B, T, D) to keys and values (U, H, K, D / H), B a multiple of U; (B, T, D).

        The beams of an utterance become additional queries on the same keys, which are never copied.
        """
        query = self.heads(self.q_proj(x))
        rows, num_heads, num_queries, width = query.shape
        beams = rows // keys.shape[0]
        if beams > 1:
            query = query.view(-1, beams, num_heads, num_queries, width).transpose(1, 2).flatten(2, 3)
        out = F.scaled_dot_product_attention(query, keys, values, attn_mask=bias, is_causal=causal)
        if beams > 1:
            out = out.view(-1, num_heads, beams, num_queries, width).transpose(1, 2).flatten(0, 1)
        return cast(Tensor, self.out_proj(out.transpose(1, 2).flatten(2)))
