"""What learns and what does not."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from training_samples import CONFIG, PAD_ID, Samples, tiny_targets, tiny_whisper, weights_of

from whispertune.errors import RecipeError
from whispertune.features.options import FrameOptions
from whispertune.model.loss import summed_nll
from whispertune.model.whisper import Whisper
from whispertune.states.computed import ComputedStates, encode, window_features
from whispertune.text.targets import collate_targets
from whispertune.training.freeze import apply_freeze, encoder_is_frozen, frozen_encoder_layers

DECODER_BOTTOM = r"model\.decoder\.(embed_positions|layers\.0)\."
TOKENS = r"model\.decoder\.embed_tokens\."
ENCODER_BOTTOM = r"model\.encoder\.(conv1|conv2|layers\.0)\."
FROZEN = {
    "encoder": r"model\.encoder\.",
    "none": "nothing",
    "encoder:0": r"model\.encoder\.(conv1|conv2)\.",
    "encoder:1": ENCODER_BOTTOM,
    "encoder:2": r"model\.encoder\.(conv1|conv2|layers)\.",
    "decoder:0": r"model\.encoder\.",
    "decoder:1": rf"model\.encoder\.|{DECODER_BOTTOM}",
    "encoder:-1": ENCODER_BOTTOM,
    "auto": r"model\.encoder\.(conv1|conv2)\.",
    "auto,embeddings": rf"model\.encoder\.(conv1|conv2)\.|{TOKENS}",
    "encoder:-2": r"model\.encoder\.(conv1|conv2)\.",
    "decoder:-0": r"model\.encoder\.",
    "encoder,embeddings": rf"model\.encoder\.|{TOKENS}",
    "none,embeddings": TOKENS,
    "encoder:1,embeddings": rf"{ENCODER_BOTTOM}|{TOKENS}",
    "decoder:1, embeddings": rf"model\.encoder\.|{DECODER_BOTTOM}|{TOKENS}",
}
"""What each mode freezes, by parameter name; the encoder's sinusoids never learn."""


def is_frozen(name: str, freeze: str) -> bool:
    return bool(re.match(FROZEN[freeze], name)) or name == "model.encoder.embed_positions.weight"


@pytest.mark.parametrize("freeze", FROZEN)
def test_modes(freeze: str) -> None:
    whisper = tiny_whisper()
    trainable, total = apply_freeze(whisper, freeze)
    for name, parameter in whisper.named_parameters():
        assert parameter.requires_grad != is_frozen(name, freeze), name
    assert total == sum(p.numel() for p in whisper.parameters())
    assert trainable == sum(p.numel() for n, p in whisper.named_parameters() if not is_frozen(n, freeze))
    # Its final LayerNorm still learns under encoder:2, so states do change.
    assert encoder_is_frozen(whisper) == ("model" in FROZEN[freeze] and is_frozen("model.encoder.layer_norm.", freeze))


@pytest.mark.parametrize(
    ("freeze", "layers"),
    [("none", None), ("encoder:0", 0), ("encoder:1", 1), ("encoder:-1", 1), ("encoder:2", 2), ("encoder", 2),
     ("decoder:1", 2)],
)  # fmt: skip
def test_layers_whose_output_stays_the_same(freeze: str, layers: int | None) -> None:
    whisper = tiny_whisper()
    apply_freeze(whisper, freeze)
    assert frozen_encoder_layers(whisper) == layers


@pytest.mark.parametrize("num_layers", [0, 1, 2])
def test_lower_and_upper_layers_are_the_encoder(num_layers: int) -> None:
    """To the bit, with gradients in the upper layers alone."""
    encoder = tiny_whisper().encoder
    generator = np.random.default_rng(0)
    waveforms = [generator.normal(scale=0.1, size=size).astype(np.float32) for size in (9_000, 30_000)]
    features = [window_features(waveform, CONFIG.num_mel_bins, FrameOptions()) for waveform in waveforms]
    with torch.no_grad():
        whole = encode(encoder, features).states
        below = encode(encoder.lower(num_layers), features)
        assert not torch.equal(below.states, whole)
        assert torch.equal(encoder.upper(num_layers, below.states, below.log_weights, below.num_frames), whole)
    encoder.upper(num_layers, below.states, below.log_weights, below.num_frames).sum().backward()
    assert encoder.conv1.weight.grad is None
    assert [layer.fc1.weight.grad is not None for layer in encoder.layers] == [n >= num_layers for n in range(2)]


@pytest.mark.parametrize(("layers", "frozen"), [(1, 0), (4, 1), (6, 2), (12, 4), (32, 10)])
def test_auto_freezes_the_lower_third(layers: int, frozen: int) -> None:
    whisper = tiny_whisper(config=dataclasses.replace(CONFIG, encoder_layers=layers))
    apply_freeze(whisper, "auto")
    assert frozen_encoder_layers(whisper) == frozen


def test_a_second_call_starts_afresh() -> None:
    whisper = tiny_whisper()
    apply_freeze(whisper, "encoder,embeddings")
    apply_freeze(whisper, "none")
    assert whisper.decoder.embed_tokens.weight.requires_grad
    assert whisper.encoder.conv1.weight.requires_grad
    assert not whisper.encoder.embed_positions.weight.requires_grad


@pytest.mark.parametrize(
    "freeze",
    ["", " ", "all", "encoder:", "encoder:x", "encoder:--1", "encoder:1.5", "decoder", "none:1", "encoder;embeddings",
     "embeddings,encoder", "encoder,none", "encoder,embeddings,embeddings", "encoderembeddings", ",embeddings",
     "Encoder"],
)  # fmt: skip
def test_malformed(freeze: str) -> None:
    with pytest.raises(RecipeError, match="freeze is") as error:
        apply_freeze(tiny_whisper(), freeze)
    assert "encoder:N" in str(error.value)


@pytest.mark.parametrize(("freeze", "layers"), [("encoder:3", 2), ("decoder:2", 1), ("encoder:-3", 2)])
def test_layers_that_are_not_there(freeze: str, layers: int) -> None:
    with pytest.raises(RecipeError, match=f"has {layers} layers"):
        apply_freeze(tiny_whisper(), freeze)


@pytest.mark.parametrize(
    ("freeze", "precision"),
    [("encoder", "fp32"), ("none", "fp32"), ("none", "bf16"), ("encoder:1", "fp32"), ("decoder:1", "bf16"),
     ("encoder,embeddings", "fp32")],
)  # fmt: skip
def test_training_moves_what_learns_and_nothing_else(
    samples: Samples, tmp_path: Path, freeze: str, precision: str
) -> None:
    assert samples.train_run(tmp_path / "run", freeze=freeze, epochs=1, precision=precision) == 0
    before, after = weights_of(samples.model), weights_of(tmp_path / "run" / "best")
    assert set(before) == set(after)
    for name, weight in after.items():
        assert torch.equal(weight, before[name]) == is_frozen(name, freeze), name


def thinned_loss(whisper: Whisper) -> torch.Tensor:
    """Loss of two windows of noise of different lengths, encoded thinned."""
    generator = np.random.default_rng(0)
    waveforms = [generator.normal(size=n).astype(np.float32) * 0.1 for n in (9_000, 21_000)]
    rows = [window_features(waveform, CONFIG.num_mel_bins, FrameOptions()) for waveform in waveforms]
    states = encode(whisper.encoder, rows)
    assert states.states.shape[1] < 200
    input_ids, labels = collate_targets(tiny_targets([3, 9]), PAD_ID)
    hidden = whisper.decoder(input_ids, states.states, states.log_weights)
    return summed_nll(whisper.decoder, hidden, labels)


def test_gradients_reach_a_trained_encoder_through_thinned_frames() -> None:
    """Against finite differences, in float64."""
    whisper = tiny_whisper(scale=0.2).double()
    apply_freeze(whisper, "none")
    thinned_loss(whisper).backward()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in whisper.encoder.named_parameters():
        if name == "embed_positions.weight":
            assert parameter.grad is None
            continue
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        step = 1e-5 / direction.norm()
        losses = []
        with torch.no_grad():
            for shift in (step, -2 * step, step):  # the third only puts it back
                parameter += shift * direction
                losses.append(float(thinned_loss(whisper)))
        numeric = (losses[0] - losses[1]) / float(2 * step)
        assert float((parameter.grad * direction).sum()) == pytest.approx(numeric, rel=1e-4, abs=1e-6), name


def test_states_of_a_frozen_encoder_carry_no_gradient() -> None:
    whisper = tiny_whisper()
    rows = [window_features(np.zeros(8_000, np.float32), CONFIG.num_mel_bins, FrameOptions())]
    for trained in (True, False):
        states = ComputedStates(whisper.encoder, lambda index, view: rows, workers=1, trained=trained).fetch([0])
        assert states.states.requires_grad is trained
