"""A checkpoint made ready for use: model, tokenizer, logit rules."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from whispertune.checkpoints.checkpoint import Checkpoint, load_checkpoint
from whispertune.decoding.rules import LogitRules
from whispertune.model.packed import for_decoding
from whispertune.model.whisper import Whisper, build_whisper
from whispertune.text.tokenizer import Tokenizer

BEGIN_SUPPRESS = "begin_suppress_tokens"


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
    tokenizer = Tokenizer.from_json(checkpoint.tokenizer_json, checkpoint.config.vocab_size)
    whisper = build_whisper(checkpoint.config, checkpoint.weights, dtype).to(device)
    return ReadyModel(whisper, tokenizer, _rules(checkpoint, device), replace(checkpoint, weights={}))


def _rules(checkpoint: Checkpoint, device: torch.device) -> LogitRules:
    suppress, first = (checkpoint.generation.get(key) or [] for key in ("suppress_tokens", BEGIN_SUPPRESS))
    return LogitRules(checkpoint.config.vocab_size, suppress, first, device)


def may_say_nothing(ready: ReadyModel, device: torch.device) -> ReadyModel:
    """The same model, allowed to end before its first token, which Whisper's own generation config forbids.

    So will be what is saved of it.
    """
    generation = ready.checkpoint.generation
    first = [token for token in generation.get(BEGIN_SUPPRESS) or [] if token != ready.tokenizer.eot]
    checkpoint = replace(ready.checkpoint, generation=generation | {BEGIN_SUPPRESS: first})
    return replace(ready, checkpoint=checkpoint, rules=_rules(checkpoint, device))


def ready_to_decode(ready: ReadyModel) -> ReadyModel:
    """The same model, its decoder as it decodes fastest; it can no longer be trained."""
    ready.whisper.model.decoder = for_decoding(ready.whisper.decoder)
    return ready
