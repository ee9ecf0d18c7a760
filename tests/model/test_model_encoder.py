"""The encoder on a short canvas and kept frames, against one that convolves all 30 s and gathers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from random_whisper import random_whisper, small_config
from torch import Tensor

from whispertune.features.frames import select_frames
from whispertune.features.log_mel import WINDOW_MEL_FRAMES, WINDOW_SAMPLES
from whispertune.features.options import DENSE, FrameOptions
from whispertune.model.whisper import Whisper, inference_copy
from whispertune.states.computed import encode, window_features

THINNED = FrameOptions()
SPARSE = FrameOptions(stride=200, margin=3, edge=2)
# Dense attention over 1500 frames with a weight each is not what these tests are about: few wide layers suffice.
WHISPER = random_whisper(small_config(layers=(2, 1)))


def noise(num_samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(num_samples)).astype(np.float32)


@torch.no_grad()
def reference_states(whisper: Whisper, waveform: np.ndarray, frames: FrameOptions) -> Tensor:
    """Encoder states (K, D) by the letter: convolve all 3000 frames, gather, and add log counts to each logit."""
    w = {name.removeprefix("model.encoder."): value for name, value in whisper.state_dict().items()}
    log_mel = window_features(waveform, whisper.config.num_mel_bins, DENSE).log_mel
    whole = torch.cat([log_mel, log_mel[:, -1:].expand(-1, WINDOW_MEL_FRAMES - log_mel.shape[1])], dim=1)
    x = F.gelu(F.conv1d(whole[None], w["conv1.weight"], w["conv1.bias"], padding=1))
    x = F.gelu(F.conv1d(x, w["conv2.weight"], w["conv2.bias"], stride=2, padding=1))[0].T
    x = x + w["embed_positions.weight"]
    selection = select_frames(len(waveform), frames)
    x = x[torch.tensor(selection.positions)]
    log_counts = torch.from_numpy(np.log(selection.counts)).float()

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    heads = whisper.config.encoder_attention_heads
    width = x.shape[-1] // heads
    for number in range(whisper.config.encoder_layers):
        name = f"layers.{number}"
        normed = norm(f"{name}.self_attn_layer_norm", x)
        query, keys, values = (linear(f"{name}.self_attn.{part}_proj", normed) for part in "qkv")
        out = []
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            logits = query[:, part] @ keys[:, part].T / math.sqrt(width) + log_counts
            out.append(logits.softmax(-1) @ values[:, part])
        x = x + linear(f"{name}.self_attn.out_proj", torch.cat(out, -1))
        x = x + linear(f"{name}.fc2", F.gelu(linear(f"{name}.fc1", norm(f"{name}.final_layer_norm", x))))
    return norm("layer_norm", x)


@settings(max_examples=12, deadline=None)
@given(st.integers(1, WINDOW_SAMPLES), st.sampled_from([THINNED, SPARSE, FrameOptions(edge=0), FrameOptions(margin=0)]))
@torch.no_grad()
def test_thinned_states(num_samples: int, frames: FrameOptions) -> None:
    waveform = noise(num_samples)
    ours = encode(WHISPER.encoder, [window_features(waveform, 80, frames)])
    torch.testing.assert_close(ours.states[0], reference_states(WHISPER, waveform, frames), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_samples", [1, 320, 50_000, 478_000, 478_800, 479_000, 479_500, 480_000])
@torch.no_grad()
def test_dense_states(num_samples: int) -> None:
    waveform = noise(num_samples)
    ours = encode(WHISPER.encoder, [window_features(waveform, 80, DENSE)])
    assert ours.log_weights is None
    torch.testing.assert_close(ours.states[0], reference_states(WHISPER, waveform, DENSE), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("frames", [THINNED, SPARSE, DENSE])
@torch.no_grad()
def test_rows_of_a_batch_are_what_they_are_alone(frames: FrameOptions) -> None:
    waveforms = [noise(n, seed) for seed, n in enumerate([70_000, 200, 131_234, 16_000])]
    waveforms[1] *= 1e-3  # its own floor
    features = [window_features(waveform, 80, frames) for waveform in waveforms]
    together = encode(WHISPER.encoder, features)
    for row, window in enumerate(features):
        num_frames = len(window.positions)
        alone = encode(WHISPER.encoder, [window])
        torch.testing.assert_close(together.states[row, :num_frames], alone.states[0], rtol=1e-4, atol=1e-5)
        if frames is DENSE:
            assert together.log_weights is None
        else:
            expected = torch.from_numpy(np.log(window.counts)).float()
            assert together.log_weights is not None
            torch.testing.assert_close(together.log_weights[row, :num_frames], expected)
            assert (together.log_weights[row, num_frames:] < -1e4).all()


@torch.no_grad()
def test_the_decoder_ignores_padding_of_a_batch() -> None:
    features = [window_features(noise(n), 80, THINNED) for n in (90_000, 5_000)]
    together = encode(WHISPER.encoder, features)
    alone = encode(WHISPER.encoder, features[1:])
    input_ids = torch.arange(5)[None]
    hidden = WHISPER.decoder(input_ids.expand(2, -1), together.states, together.log_weights)
    expected = WHISPER.decoder(input_ids, alone.states, alone.log_weights)
    torch.testing.assert_close(hidden[1:], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_half_precision_stays_close_and_follows_the_encoder() -> None:
    encoder = inference_copy(WHISPER.encoder, torch.bfloat16)
    features = [window_features(noise(20_000), 80, THINNED)]
    half = encode(encoder, features).states
    full = encode(WHISPER.encoder, features).states
    assert half.dtype == torch.bfloat16
    assert float((half.float() - full).norm() / full.norm()) < 0.05


def test_positions_are_never_trained_but_the_rest_is() -> None:
    whisper = random_whisper()
    features = [window_features(noise(n), 80, THINNED) for n in (9_000, 5_000)]
    encode(whisper.encoder, features).states.square().sum().backward()
    for name, parameter in whisper.encoder.named_parameters():
        assert (parameter.grad is None) == (name == "embed_positions.weight"), name
        assert parameter.grad is None or bool(parameter.grad.any()), name
