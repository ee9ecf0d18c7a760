"""Which parameters learn."""

from __future__ import annotations

from torch import nn

from whispertune.errors import RecipeError
from whispertune.model.whisper import Decoder, Encoder, Whisper
from whispertune.training.options import parse_freeze


def apply_freeze(model: Whisper, freeze: str) -> tuple[int, int]:
    """Set `requires_grad` by the `freeze` field; returns (trainable, total) numbers of parameters.

    The encoder's sinusoidal positions never learn.

    Raises:
        RecipeError: if the field is malformed, names layers the model lacks, or leaves nothing to train.
    """
    what, encoder_layers, decoder_layers, embeddings = parse_freeze(freeze)
    encoder, decoder = model.encoder, model.decoder
    if what == "auto":
        encoder_layers = len(encoder.layers) // 3
    model.requires_grad_(True)
    encoder.embed_positions.requires_grad_(False)
    for name, value, layers in (
        ("encoder", encoder_layers, encoder.layers),
        ("decoder", decoder_layers, decoder.layers),
    ):
        if value is not None and abs(value) > len(layers):
            raise RecipeError(f"is {freeze!r}; this model's {name} has {len(layers)} layers", field="freeze")
    if what == "encoder" or decoder_layers is not None:
        encoder.requires_grad_(False)
    if encoder_layers is not None:
        for module in (encoder.conv1, encoder.conv2, *encoder.layers[: _from_start(encoder_layers, encoder)]):
            module.requires_grad_(False)
    if decoder_layers:
        for module in (decoder.embed_positions, *decoder.layers[: _from_start(decoder_layers, decoder)]):
            module.requires_grad_(False)
    if embeddings:
        decoder.embed_tokens.requires_grad_(False)
    counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trainable in counts if trainable), sum(n for n, _ in counts)


def _from_start(number: int, part: Encoder | Decoder) -> int:
    """How many layers of encoder or decoder that is: a negative number leaves so many at the end."""
    return number if number >= 0 else len(part.layers) + number


def encoder_is_frozen(model: Whisper) -> bool:
    """Whether encoder states stay the same all through training."""
    return not _learns(model.encoder)


def frozen_encoder_layers(model: Whisper) -> int | None:
    """Number of encoder layers, from the first, behind which activations stay the same all through training.

    None if the convolutions learn.
    """
    encoder = model.encoder
    if _learns(encoder.conv1) or _learns(encoder.conv2):
        return None
    return next((number for number, layer in enumerate(encoder.layers) if _learns(layer)), len(encoder.layers))


def _learns(part: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in part.parameters())
