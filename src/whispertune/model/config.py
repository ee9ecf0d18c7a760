"""The sizes of a Whisper model, with the names of Hugging Face's `config.json`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class WhisperConfig:
    """Sizes of a Whisper model. `max_source_positions` is in encoder frames (20 ms each, 1500 in 30 s)."""

    vocab_size: int
    num_mel_bins: int
    d_model: int
    encoder_layers: int
    encoder_attention_heads: int
    encoder_ffn_dim: int
    decoder_layers: int
    decoder_attention_heads: int
    decoder_ffn_dim: int
    max_source_positions: int = 1500
    max_target_positions: int = 448
