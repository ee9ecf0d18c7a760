"""A checkpoint made ready for use: model, tokenizer, logit rules."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from whispertune.checkpoints.checkpoint import Checkpoint, load_checkpoint
from whispertune.decoding.rules import LogitRules
from whispertune.model.whisper import Whisper, build_whisper
from whispertune.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class ReadyModel:
    """A Whisper on its device, and what goes with it."""

    whisper: Whisper
    tokenizer: Tokenizer
    rules: LogitRules
    checkpoint: Checkpoint

    @property
    def n_mels(self) -> int:
        return self.checkpoint.config.num_mel_bins


def load_model(model: str, device: torch.device, dtype: torch.dtype = torch.float32) -> ReadyModel:
    """Load what the user calls a model.

    Raises:
        CheckpointError: if it can't be found or read.
    """
    checkpoint = load_checkpoint(model)
    config, generation = checkpoint.config, checkpoint.generation
    tokenizer = Tokenizer.from_json(checkpoint.tokenizer_json, config.vocab_size)
    rules = LogitRules(
        config.vocab_size,
        generation.get("suppress_tokens") or [],
        generation.get("begin_suppress_tokens") or [],
        device,
    )
    return ReadyModel(build_whisper(config, checkpoint.weights, dtype).to(device), tokenizer, rules, checkpoint)
