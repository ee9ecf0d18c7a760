"""Random small Whispers for the tests."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from whispertune.checkpoints.layout import expected_shapes
from whispertune.decoding.loading import ReadyModel
from whispertune.decoding.rules import LogitRules
from whispertune.model.attention import PADDING_LOG_WEIGHT
from whispertune.model.config import WhisperConfig
from whispertune.model.whisper import Decoder, Whisper, build_whisper
from whispertune.states.computed import EncoderStates


def small_config(
    *, vocab_size: int = 61, n_mels: int = 80, width: int = 32, heads: int = 2, layers: tuple[int, int] = (2, 2)
) -> WhisperConfig:
    """Sizes of a Whisper that runs in milliseconds; `layers` of encoder and decoder."""
    return WhisperConfig(
        vocab_size=vocab_size,
        num_mel_bins=n_mels,
        d_model=width,
        encoder_layers=layers[0],
        encoder_attention_heads=heads,
        encoder_ffn_dim=3 * width,
        decoder_layers=layers[1],
        decoder_attention_heads=heads,
        decoder_ffn_dim=2 * width,
    )


def random_weights(config: WhisperConfig, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights of a size that makes attention pick and choose, no two parameters alike, no bias zero."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in expected_shapes(config).items():
        values = torch.randn(shape, generator=generator)
        if "embed" in name:
            values *= 0.5
        elif len(shape) > 1:
            gain = 2.0 if ".q_proj." in name or ".k_proj." in name else 1.0
            values *= gain / values[0].numel() ** 0.5
        elif "norm.weight" in name:
            values = 1 + 0.2 * values
        else:
            values *= 0.2
        weights[name] = values
    return weights


def random_whisper(config: WhisperConfig | None = None, seed: int = 0) -> Whisper:
    config = small_config() if config is None else config
    return build_whisper(config, random_weights(config, seed))


def random_windows(rows: int, seed: int, num_frames: int = 12) -> EncoderStates:
    """Weighted encoder states for the small model, each row but the first of four with padding."""
    generator = torch.Generator().manual_seed(seed)
    states = 3 * torch.randn(rows, num_frames, 32, generator=generator)
    log_weights = torch.randint(1, 30, (rows, num_frames), generator=generator).float().log()
    for row in range(rows):
        log_weights[row, num_frames - row % 4 :] = PADDING_LOG_WEIGHT
    return EncoderStates(states, log_weights)


def decoder_that_ends(seed: int, vocab_size: int, eot: int) -> Decoder:
    """A small decoder for which end of text is likely enough for rows to end at different times."""
    decoder = random_whisper(small_config(vocab_size=vocab_size, layers=(1, 2)), seed).decoder
    with torch.no_grad():
        decoder.layer_norm.bias += 0.35 * decoder.embed_tokens.weight[eot]
    return decoder


def ready_to_search(decoder: Any, rules: LogitRules, tokenizer: Any, *, pad_token_id: int = 0) -> ReadyModel:
    """What a search takes of a model: this decoder, and a tokenizer, or an object with its `eot` alone."""
    whisper: Any = SimpleNamespace(decoder=decoder)
    checkpoint: Any = SimpleNamespace(pad_token_id=pad_token_id)
    return ReadyModel(whisper, tokenizer, rules, checkpoint)
