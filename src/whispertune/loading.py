"""A checkpoint made ready for use: model, tokenizer, logit rules."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from whispertune.checkpoints.checkpoint import Checkpoint, load_checkpoint
from whispertune.decoding.rules import LogitRules
from whispertune.model.packed import for_decoding
from whispertune.model.whisper import Whisper, build_whisper
from whispertune.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ReadyModel:
    """A Whisper on its device, and what goes with it."""

    whisper: Whisper
    tokenizer: Tokenizer
    rules: LogitRules
    checkpoint: Checkpoint
    """Without its weights, which would otherwise be in memory twice."""

    @property
    def n_mels(self) -> int:
        return self.checkpoint.config.num_mel_bins


def load_model(model: str, device: torch.device, dtype: torch.dtype = torch.float32) -> ReadyModel:
    """Load what the user calls a model.

    Raises:
        CheckpointError: if it can't be found or read.
    """
    return ready_model(load_checkpoint(model), device, dtype)


def ready_model(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype = torch.float32) -> ReadyModel:
    """Model, tokenizer and rules of a checkpoint in memory."""
    config, generation = checkpoint.config, checkpoint.generation
    tokenizer = Tokenizer.from_json(checkpoint.tokenizer_json, config.vocab_size)
    rules = LogitRules(
        config.vocab_size,
        generation.get("suppress_tokens") or [],
        generation.get("begin_suppress_tokens") or [],
        device,
    )
    whisper = build_whisper(config, checkpoint.weights, dtype).to(device)
    return ReadyModel(whisper, tokenizer, rules, replace(checkpoint, weights={}))


def ready_to_decode(ready: ReadyModel) -> ReadyModel:
    """The same model, its decoder as it decodes fastest; it can no longer be trained."""
    ready.whisper.model.decoder = for_decoding(ready.whisper.decoder)
    return ready
