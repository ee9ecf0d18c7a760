"""The layers of Whisper's encoder and decoder. Shapes: N packed rows, D width."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from whispertune.model.attention import Attention, RowAttention


def call_layer(layer: nn.Module, *inputs: object, recompute: bool) -> Tensor:
    """layer(*inputs); with `recompute` its activations are not saved but recomputed in the backward pass."""
    if recompute and torch.is_grad_enabled():
        return cast(Tensor, checkpoint(layer, *inputs, use_reentrant=False, preserve_rng_state=False))
    return cast(Tensor, layer(*inputs))


class EncoderLayer(nn.Module):
    """Pre-norm self-attention and feed-forward."""

    def __init__(self, d_model: int, num_heads: int, ffn_dim: int) -> None:
        super().__init__()
        self.self_attn = Attention(d_model, num_heads)
        self.self_attn_layer_norm = nn.LayerNorm(d_model)
        self.fc1 = nn.Linear(d_model, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, d_model)
        self.final_layer_norm = nn.LayerNorm(d_model)

    def forward(self, x: Tensor, attend: RowAttention) -> Tensor:
        """x: packed rows (N, D)."""
        normed = self.self_attn_layer_norm(x)
        x = x + self.self_attn.by_row(normed, normed, attend)
        return cast(Tensor, x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x)))))


class DecoderLayer(nn.Module):
    """Pre-norm causal self-attention, cross-attention and feed-forward."""

    def __init__(self, d_model: int, num_heads: int, ffn_dim: int) -> None:
        super().__init__()
        self.self_attn = Attention(d_model, num_heads)
        self.self_attn_layer_norm = nn.LayerNorm(d_model)
        self.encoder_attn = Attention(d_model, num_heads)
        self.encoder_attn_layer_norm = nn.LayerNorm(d_model)
        self.fc1 = nn.Linear(d_model, ffn_dim)
        self.fc2 = nn.Linear(ffn_dim, d_model)
        self.final_layer_norm = nn.LayerNorm(d_model)

    def forward(self, x: Tensor, to_self: RowAttention, to_states: Callable[[Attention, Tensor], Tensor]) -> Tensor:
        """x: packed rows (N, D). to_states(attention, x): cross-attention to the encoder states."""
        normed = self.self_attn_layer_norm(x)
        x = x + self.self_attn.by_row(normed, normed, to_self)
        x = x + to_states(self.encoder_attn, self.encoder_attn_layer_norm(x))
        return self.feed_forward(x)

    def feed_forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, x + self.fc2(F.gelu(self.fc1(self.final_layer_norm(x)))))
