"""Floating-point operations of Whisper's matrix products, by formula: a multiplication and an addition count 2.

Only products count (projections, attention, convolutions, vocabulary), as is usual for utilisation; softmax,
GELU, LayerNorm, losses and updates do not. Lengths are those of one row: give real ones for what the model needs,
padded ones for what a batch computes. Causal attention counts its lower triangle alone.

D width, F feed-forward width, L layers, V vocabulary, K kept frames, M log-mel frames, T decoder positions,
S scored positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from whispertune.model.config import WhisperConfig


@dataclass(frozen=True)
class Product:
    """`count` products of (rows x inner) by (inner x columns)."""

    rows: int
    inner: int
    columns: int
    count: int = 1

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.inner * self.columns * self.count


def encoder_forward(config: WhisperConfig, num_frames: int, num_mel_frames: int) -> int:
    """Convolutions, and per layer 4 projections (2 K D² each), scores and their use (2 K² D each), 2 x 2 K D F."""
    d, f, k, m = config.d_model, config.encoder_ffn_dim, num_frames, num_mel_frames
    convolutions = 2 * m * d * config.num_mel_bins * 3 + 2 * (m // 2) * d * d * 3
    layer = 4 * 2 * k * d * d + 2 * 2 * k * k * d + 2 * 2 * k * d * f
    return convolutions + config.encoder_layers * layer


def encoder_training(config: WhisperConfig, num_frames: int, num_mel_frames: int) -> int:
    """Forward and backward of a trained encoder: twice the forward again, but no gradient to the log-mel."""
    first = 2 * num_mel_frames * config.d_model * config.num_mel_bins * 3
    return 3 * encoder_forward(config, num_frames, num_mel_frames) - first


def cross_keys_values(config: WhisperConfig, num_frames: int) -> int:
    """The decoder's keys and values of the encoder states: per layer two projections of K rows."""
    return config.decoder_layers * 2 * 2 * num_frames * config.d_model**2


def decoder_forward(config: WhisperConfig, num_frames: int, num_tokens: int, num_scored: int) -> int:
    """Per layer: self-attention (4 projections, lower triangle), cross-attention, feed-forward; then the vocabulary."""
    d, f, k, t = config.d_model, config.decoder_ffn_dim, num_frames, num_tokens
    self_attention = 4 * 2 * t * d * d + 2 * 2 * d * (t * (t + 1) // 2)
    cross_attention = 2 * 2 * t * d * d + 2 * 2 * t * k * d
    layers = config.decoder_layers * (self_attention + cross_attention + 2 * 2 * t * d * f)
    return layers + cross_keys_values(config, k) + vocabulary_forward(config, num_scored)


def vocabulary_forward(config: WhisperConfig, num_scored: int) -> int:
    return 2 * num_scored * config.d_model * config.vocab_size


def decoder_training(
    config: WhisperConfig, num_frames: int, num_tokens: int, num_scored: int, *, states_need_gradient: bool = False
) -> int:
    """Forward and backward. With a frozen encoder its states need no gradient: those products are not counted."""
    forward = decoder_forward(config, num_frames, num_tokens, num_scored)
    return 3 * forward - (0 if states_need_gradient else cross_keys_values(config, num_frames))


def encoder_products(config: WhisperConfig, rows: int) -> list[Product]:
    """A layer stack's weight products for `rows` frames in all."""
    d, f, layers = config.d_model, config.encoder_ffn_dim, config.encoder_layers
    return [Product(rows, d, d, 4 * layers), Product(rows, d, f, layers), Product(rows, f, d, layers)]


def decoder_products(
    config: WhisperConfig, num_frames: int, num_tokens: int, num_scored: int
) -> tuple[list[Product], list[Product]]:
    """Weight products of a micro-batch (sums over its rows): those with both gradients, those without the input's."""
    d, f, layers = config.d_model, config.decoder_ffn_dim, config.decoder_layers
    both = [
        Product(num_tokens, d, d, 6 * layers),
        Product(num_tokens, d, f, layers),
        Product(num_tokens, f, d, layers),
        Product(num_scored, d, config.vocab_size),
    ]
    return both, [Product(num_frames, d, d, 2 * layers)]


def backward_products(products: Sequence[Product], *, input_gradient: bool = True) -> list[Product]:
    """What autograd computes for each: the weight's gradient, and the input's."""
    weights = [Product(p.columns, p.rows, p.inner, p.count) for p in products]
    inputs = [Product(p.rows, p.columns, p.inner, p.count) for p in products] if input_gradient else []
    return weights + inputs
