"""A checkpoint made ready for use: model, tokenizer, logit rules."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch

from whispertune.checkpoints.checkpoint import Checkpoint, load_checkpoint
from whispertune.checkpoints.generation import ALIASES, own_language, upper_heads
from whispertune.decoding.rules import LogitRules
from whispertune.errors import CheckpointError
from whispertune.model.prepacked import for_decoding
from whispertune.model.whisper import Decoder, Encoder, Whisper, build_whisper
from whispertune.system.options import PrecisionName
from whispertune.system.precision import resolve_precision
from whispertune.text.languages import LANGUAGES
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
    stored: torch.dtype = torch.float32
    """The type that those are stored in: one that holds them all exactly, if they are of several."""

    @property
    def n_mels(self) -> int:
        return self.whisper.config.num_mel_bins

    @property
    def alignment_heads(self) -> list[list[int]]:
        """(layer, head) of the decoder's heads that look at the speech of the next token."""
        return self.checkpoint.generation["alignment_heads"] or upper_heads(self.whisper.config)

    def with_parts(self, encoder: Encoder, decoder: Decoder) -> ReadyModel:
        """The same model with another encoder and decoder; nothing is copied."""
        given: dict[int, Any] = {id(self.whisper.encoder): encoder, id(self.whisper.decoder): decoder}
        return replace(self, whisper=copy.deepcopy(self.whisper, memo=given))


def load_model(
    model: str, device: torch.device, dtype: torch.dtype = torch.float32, *, base: str | None = None
) -> ReadyModel:
    """Load the model that the user named (`load_checkpoint`).

    Raises:
        CheckpointError: if it can't be found or read.
    """
    return ready_model(load_checkpoint(model, base=base), device, dtype)


def ready_model(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype = torch.float32) -> ReadyModel:
    """Model, tokenizer and rules of a checkpoint in memory."""
    tokenizer = tokenizer_of(checkpoint)
    whisper = build_whisper(checkpoint.config, checkpoint.weights, dtype).to(device)
    stored = reduce(torch.promote_types, {weight.dtype for weight in checkpoint.weights.values()})
    return ReadyModel(whisper, tokenizer, _rules(checkpoint, device), replace(checkpoint, weights={}), stored)


def tokenizer_of(checkpoint: Checkpoint) -> Tokenizer:
    """A checkpoint's tokenizer, with the languages that the model adds. Raises CheckpointError if it does not fit."""
    generation = checkpoint.generation
    try:
        return Tokenizer.from_json(
            checkpoint.tokenizer_json,
            checkpoint.config.vocab_size,
            lang_to_id=generation["lang_to_id"],
            aliases=generation.get(ALIASES),
            positions=checkpoint.config.max_target_positions,
        )
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.source}: {error}") from None


def require_whispers_vocabulary(checkpoint: Checkpoint, program: str) -> None:
    """Raise CheckpointError if a model needs more than Whisper's own vocabulary, which is all that `program` has."""
    tokenizer = tokenizer_of(checkpoint)
    trained_on = own_language(checkpoint.generation)
    token = None if trained_on is None else tokenizer.token_language(trained_on)
    if tokenizer.added_text:
        more = f" and {len(tokenizer.added_text) - 1} more" if len(tokenizer.added_text) > 1 else ""
        token = tokenizer.decode(tokenizer.added_text[:1])
        reason = f"{program} loses the text token {token!r:.60}{more}, which was added to Whisper's"
    elif not tokenizer.has_timestamps:
        reason = f"its {tokenizer.vocab_size} tokens do not include timestamps, but {program} reads these"
    elif token is not None and token not in LANGUAGES:
        reason = f"it was trained on {token!r}, a language token of its own, but {program} takes Whisper's alone"
    else:
        return
    raise CheckpointError(f"{checkpoint.source}: {reason}; only --to huggingface holds this model")


def _rules(checkpoint: Checkpoint, device: torch.device) -> LogitRules:
    suppress, first = (checkpoint.generation.get(key) or [] for key in ("suppress_tokens", BEGIN_SUPPRESS))
    return LogitRules(checkpoint.config.vocab_size, suppress, first, device)


def allow_empty_output(ready: ReadyModel, device: torch.device) -> ReadyModel:
    """The same model, allowed to end before its first token, which Whisper's own generation config forbids.

    A checkpoint saved from it allows it, too.
    """
    generation = ready.checkpoint.generation
    first = [token for token in generation.get(BEGIN_SUPPRESS) or [] if token != ready.tokenizer.eot]
    checkpoint = replace(ready.checkpoint, generation=generation | {BEGIN_SUPPRESS: first})
    return replace(ready, checkpoint=checkpoint, rules=_rules(checkpoint, device))


def load_to_decode(
    model: str, device: torch.device, precision: PrecisionName, *, base: str | None = None
) -> ReadyModel:
    """Load the model that the user named, in a precision (`resolve_precision`), in the form that decodes fastest.

    Raises:
        UserError: if it can't be found or read, or the device lacks the precision.
    """
    return ready_to_decode(load_model(model, device, resolve_precision(precision, device).dtype, base=base))


def ready_to_decode(ready: ReadyModel) -> ReadyModel:
    """The same model with its decoder in the form that decodes fastest; it can no longer be trained."""
    ready.whisper.model.decoder = for_decoding(ready.whisper.decoder)
    return ready
