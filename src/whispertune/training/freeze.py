"""Which parameters learn."""

from __future__ import annotations

from whispertune.errors import RecipeError
from whispertune.model.whisper import Whisper
from whispertune.training.options import parse_freeze


def apply_freeze(model: Whisper, freeze: str) -> tuple[int, int]:
    """Set `requires_grad` by the `freeze` field; returns (trainable, total) numbers of parameters.

    The encoder's sinusoidal positions never learn.

    Raises:
        RecipeError: if the field is malformed, names layers the model lacks, or leaves nothing to train.
    """
    what, encoder_layers, decoder_layers, embeddings = parse_freeze(freeze)
    encoder, decoder = model.encoder, model.decoder
    model.requires_grad_(True)
    encoder.embed_positions.requires_grad_(False)
    for name, value, layers in (
        ("encoder", encoder_layers, encoder.layers),
        ("decoder", decoder_layers, decoder.layers),
    ):
        if value is not None and int(value) > len(layers):
            raise RecipeError(f"is {freeze!r}; this model's {name} has {len(layers)} layers", field="freeze")
    if what == "encoder" or decoder_layers is not None:
        encoder.requires_grad_(False)
    if encoder_layers is not None:
        for module in (encoder.conv1, encoder.conv2, *encoder.layers[: int(encoder_layers)]):
            module.requires_grad_(False)
    if decoder_layers is not None and int(decoder_layers) > 0:
        for module in (decoder.embed_positions, *decoder.layers[: int(decoder_layers)]):
            module.requires_grad_(False)
    if embeddings:
        decoder.embed_tokens.requires_grad_(False)
    counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trainable in counts if trainable), sum(n for n, _ in counts)


def encoder_is_frozen(model: Whisper) -> bool:
    """Whether encoder states stay the same all through training."""
    return not any(parameter.requires_grad for parameter in model.encoder.parameters())
