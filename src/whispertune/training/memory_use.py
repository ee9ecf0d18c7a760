"""The memory that training takes on a GPU, by arithmetic: weights, gradients, AdamW's moments, activations.

Rows of a batch are taken to be equally long. N packed tokens or frames, D width, F feed-forward width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from whispertune.model.attention import FEWEST_FRAMES, FEWEST_TOKENS, FRAMES_MULTIPLE, TOKENS_MULTIPLE
from whispertune.model.config import WhisperConfig
from whispertune.model.loss import POSITIONS_MULTIPLE, ROWS_AT_ONCE_ON_GPU
from whispertune.model.packed_lengths import few_lengths
from whispertune.training.adamw8bit import BLOCK

FLOAT = 4
"""Bytes of a float32."""


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Bytes: of the weights (and the copy that computes), their gradients, AdamW's moments, and what a micro-batch
    keeps for its backward pass."""

    weights: int
    gradients: int
    moments: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.moments + self.activations


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """Rows (copies of windows), and frames and tokens of each."""

    rows: int
    frames: int
    tokens: int


def training_memory(
    config: WhisperConfig, batch: MicroBatch, *, total: int, trainable: int, element: int = 2,
    encoder_learns: bool = False, adapter: int = 0, adapted: int = 0, away: int = 0, recompute: bool = False,
    quantized: int = 0,
) -> MemoryUse:  # fmt: skip
    """What a step takes, in bytes, without what PyTorch's allocator and the CUDA context add (half a GB or more).

    total, trainable: parameters of the model, and those of them that learn (0 with LoRA). element: bytes of the type
    that computes. adapter: parameters of a LoRA adapter. adapted: parameters of the weights that it adapts; they are
    held as they were, too, in two bytes, as those of published models can be (`training/working_copy.py`). away:
    parameters of an encoder that has left the device. quantized: learning parameters whose moments are in 8 bits.
    """
    learning = trainable + adapter
    master_params = FLOAT * learning + (2 if element == 2 else FLOAT) * adapted
    copies = element * (total - away - (trainable if element == FLOAT else 0))
    kept = _decoder(config, batch, element, recompute) + _loss(config, batch, element)
    if encoder_learns:
        kept += _encoder(config, batch, element, recompute)
    moments = 2 * (FLOAT * (learning - quantized) + quantized + FLOAT * quantized // BLOCK)
    return MemoryUse(master_params + copies, FLOAT * learning, moments, kept)


def _rounded(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _rows(batch: MicroBatch) -> int:
    """Rows of attention's batch."""
    return 1 << (batch.rows - 1).bit_length() if batch.rows <= 4 else _rounded(batch.rows, 8)


def _decoder(config: WhisperConfig, batch: MicroBatch, element: int, recompute: bool) -> int:
    width, layers, rows = config.d_model, config.decoder_layers, _rows(batch)
    tokens = _rounded(batch.rows * batch.tokens, TOKENS_MULTIPLE)
    frames = _rounded(batch.rows * batch.frames, FRAMES_MULTIPLE)
    queries, keys = few_lengths(batch.tokens, FEWEST_TOKENS), few_lengths(batch.frames, FEWEST_FRAMES)
    # Inputs and outputs of three normalisations and two output projections' inputs; the feed-forward layer's.
    packed = tokens * (8 * width + 2 * config.decoder_ffn_dim)
    # Self-attention's query, key, value and output; cross-attention's query and output; its keys and values.
    padded = rows * (6 * queries + 2 * keys) * width
    sums = FLOAT * (6 * tokens + 2 * rows * config.decoder_attention_heads * queries)
    layer = element * (packed + padded) + sums
    shared = element * ((frames + 2 * tokens) * width + rows * keys)
    return shared + (layers * element * tokens * width + layer if recompute else layers * layer)


def _encoder(config: WhisperConfig, batch: MicroBatch, element: int, recompute: bool) -> int:
    width, layers, rows = config.d_model, config.encoder_layers, _rows(batch)
    frames = _rounded(batch.rows * batch.frames, FRAMES_MULTIPLE)
    padded = few_lengths(batch.frames, FEWEST_FRAMES)
    packed = frames * (5 * width + 2 * config.encoder_ffn_dim)
    sums = FLOAT * (4 * frames + rows * config.encoder_attention_heads * padded)
    layer = element * (packed + 4 * rows * padded * width) + sums
    # The convolutions see the speech alone, at most two log-mel frames for each kept one.
    convolutions = element * batch.rows * batch.frames * (2 * config.num_mel_bins + 5 * width)
    convolutions += element * rows * padded
    return convolutions + (layers * element * frames * width + layer if recompute else layers * layer)


def _loss(config: WhisperConfig, batch: MicroBatch, element: int) -> int:
    """Logits in the type that computes, and those of a few positions in float32: as probabilities, and on the way."""
    scored = _rounded(batch.rows * batch.tokens, POSITIONS_MULTIPLE)
    at_once = min(scored, ROWS_AT_ONCE_ON_GPU)
    return config.vocab_size * (element * scored + 2 * FLOAT * at_once) + element * scored * config.d_model


def described(use: MemoryUse, free: int) -> tuple[bool, str]:
    """Whether what is still to come fits into `free` bytes, and a line about it; the weights are there already."""
    parts = {"gradients": use.gradients, "AdamW": use.moments, "activations": use.activations}
    line = f"{use.total / 1e9:.1f} GB: weights {use.weights / 1e9:.1f} (loaded), "
    line += ", ".join(f"{name} {size / 1e9:.1f}" for name, size in parts.items()) + f"; {free / 1e9:.1f} GB free"
    fits = sum(parts.values()) <= free
    if not fits:
        line += ". It will hardly fit: train less (--lora.rank 32, --freeze encoder), take --recompute true, "
        line += "--optimizer.name adamw8bit, a smaller --batch_size with more --accumulation, or a smaller model"
    return fits, line
