from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from whispertune.features import WINDOW_SAMPLES
from whispertune.frames import DENSE, FrameOptions, select_frames
from whispertune.model.whisper import PADDING_LOG_WEIGHT
from whispertune.states import (
    BATCH_FRAMES,
    ComputedStates,
    EncoderStates,
    StoredStates,
    WindowFeatures,
    encode,
    encoding_batches,
    window_features,
)

sys.path.append(str(Path(__file__).parent / "model"))
from random_whisper import random_whisper

ENCODER = random_whisper().encoder
THINNED = FrameOptions()
LENGTHS = [40_000, 5_000, 90_000, 300, 33_000, 5_000]
WAVEFORMS = [
    (0.1 * np.random.default_rng(seed).standard_normal(n)).astype(np.float32) for seed, n in enumerate(LENGTHS)
]


def features(index: int, frames: FrameOptions = THINNED) -> WindowFeatures:
    return window_features(WAVEFORMS[index], 80, frames)


def assert_row(states: EncoderStates, row: int, expected: EncoderStates, tolerance: float = 1e-4) -> None:
    """Row `row` equals the one row of `expected`, and is padding behind."""
    num_frames = expected.states.shape[1]
    torch.testing.assert_close(
        states.states[row, :num_frames].float(), expected.states[0].float(), rtol=tolerance, atol=tolerance
    )
    if states.log_weights is None:
        assert expected.log_weights is None
        assert states.states.shape[1] == num_frames
        return
    assert expected.log_weights is not None
    torch.testing.assert_close(states.log_weights[row, :num_frames], expected.log_weights[0])
    assert states.log_weights[row, num_frames:].eq(PADDING_LOG_WEIGHT).all()


@torch.no_grad()
def alone(index: int, frames: FrameOptions = THINNED) -> EncoderStates:
    return encode(ENCODER, [features(index, frames)])


@pytest.mark.parametrize("frames", [THINNED, DENSE])
def test_store_returns_what_encoding_gives(frames: FrameOptions) -> None:
    store = StoredStates(LENGTHS, frames, 32, torch.float32)
    assert sum(store.fill(ENCODER, lambda i: features(i, frames), workers=2)) == len(LENGTHS)
    kept = [len(select_frames(n, frames).positions) for n in LENGTHS]
    assert [store.fetch([i]).states.shape[1] for i in range(len(kept))] == list(kept)
    for indices in ([0, 1, 2, 3, 4, 5], [3], [5, 0, 5]):
        fetched = store.fetch(indices)
        for row, index in enumerate(indices):
            assert_row(fetched, row, alone(index, frames))


def test_store_in_half_precision() -> None:
    store = StoredStates(LENGTHS, THINNED, 32, torch.bfloat16)
    assert sum(store.fill(ENCODER, features, workers=1)) == len(LENGTHS)
    fetched = store.fetch([2, 1])
    assert fetched.states.dtype == torch.bfloat16
    assert fetched.log_weights is not None
    assert fetched.log_weights.dtype == torch.float32
    assert_row(fetched, 0, alone(2), 0.02)


@settings(deadline=None)
@given(st.lists(st.integers(1, WINDOW_SAMPLES), max_size=40), st.sampled_from([THINNED, DENSE]))
def test_encoding_batches(num_samples: list[int], frames: FrameOptions) -> None:
    batches = encoding_batches(num_samples, frames)
    assert sorted(i for batch in batches for i in batch) == list(range(len(num_samples)))
    sizes = [len(select_frames(n, frames).positions) for n in num_samples]
    order = [sizes[i] for batch in batches for i in batch]
    assert order == sorted(order, reverse=True)
    for batch in batches:
        assert len(batch) == 1 or max(sizes[i] for i in batch) * len(batch) <= BATCH_FRAMES
    assert batches == encoding_batches(num_samples, frames)


@pytest.mark.parametrize("workers", [1, 4])
def test_computed_states_first_all_clean_then_all_altered(workers: int) -> None:
    seen = []

    def copies(index: int, view: int) -> list[WindowFeatures]:
        seen.append((index, view))
        return [features(index), features((index + 1) % 6)]

    states = ComputedStates(ENCODER, copies, workers=workers).fetch([4, 1, 2], 7)
    assert sorted(seen) == [(1, 7), (2, 7), (4, 7)]
    assert states.states.shape[0] == 6
    assert not states.states.requires_grad
    for row, index in enumerate([4, 1, 2, 5, 2, 3]):
        assert_row(states, row, alone(index))


def test_gradients_reach_a_trained_encoder_only() -> None:
    whisper = random_whisper()
    for trained in (False, True):
        source = ComputedStates(whisper.encoder, lambda i, _: [features(i)], workers=1, trained=trained)
        assert source.fetch([0, 1]).states.requires_grad == trained


def test_mask_alters_the_log_mel() -> None:
    def mask(log_mel: np.ndarray) -> np.ndarray:
        log_mel[:, :10] = 0
        return log_mel

    masked = window_features(WAVEFORMS[0], 80, THINNED, mask)
    plain = features(0)
    assert masked.log_mel[:, :10].eq(0).all()
    assert torch.equal(masked.log_mel[:, 10:], plain.log_mel[:, 10:])
    np.testing.assert_array_equal(masked.index, plain.index)


def test_rows_and_types() -> None:
    states = EncoderStates(torch.randn(3, 4, 2), torch.randn(3, 4))
    assert states.log_weights is not None
    chosen = states.select([2, 0])
    assert torch.equal(chosen.states, states.states[[2, 0]])
    assert chosen.log_weights is not None
    assert torch.equal(chosen.log_weights, states.log_weights[[2, 0]])
    half = states.to(torch.device("cpu"), torch.bfloat16)
    assert half.states.dtype == torch.bfloat16
    assert half.log_weights is not None
    assert half.log_weights.dtype == torch.float32
    dense = EncoderStates(torch.randn(3, 4, 2), None)
    assert dense.select([1]).log_weights is None
    assert dense.to(torch.device("cpu"), torch.float32).log_weights is None
