from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from whispertune.features.log_mel import (
    SILENT_MEL_FRAMES,
    WINDOW_MEL_FRAMES,
    WINDOW_SAMPLES,
    log_mel_speech,
    mel_filters,
    num_speech_mel_frames,
)

transformers = pytest.importorskip("transformers")

EXTRACTORS = {n_mels: transformers.WhisperFeatureExtractor(feature_size=n_mels) for n_mels in (80, 128)}
LENGTHS = [1, 159, 160, 161, 199, 200, 201, 319, 320, 321, 16_000, 478_999, 479_039, 479_041, 479_800, 479_999, 480_000]


def speechlike(num_samples: int, seed: int = 0, level: float = 0.1) -> np.ndarray:
    """Noise and harmonics under a slow envelope."""
    generator = np.random.default_rng(seed)
    time = np.arange(num_samples) / 16_000
    tones = sum(np.sin(2 * np.pi * 140 * k * time + k) / k for k in range(1, 20))
    envelope = 0.5 + 0.5 * np.sin(2 * np.pi * 3 * time + seed)
    return (level * envelope * (tones + 0.3 * generator.standard_normal(num_samples))).astype(np.float32)


def whole_window(log_mel: torch.Tensor) -> torch.Tensor:
    """Our columns, then their last one up to 30 s."""
    return torch.cat([log_mel, log_mel[:, -1:].expand(-1, WINDOW_MEL_FRAMES - log_mel.shape[1])], dim=1)


def assert_equals_theirs(waveform: np.ndarray, n_mels: int) -> None:
    theirs = EXTRACTORS[n_mels](waveform, sampling_rate=16_000, return_tensors="pt").input_features[0]
    ours = log_mel_speech(waveform, n_mels)
    assert ours.shape[1] % 2 == 0
    assert theirs.shape == (n_mels, WINDOW_MEL_FRAMES)
    torch.testing.assert_close(whole_window(ours), theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("n_mels", [80, 128])
def test_filters_are_theirs(n_mels: int) -> None:
    theirs = torch.from_numpy(EXTRACTORS[n_mels].mel_filters.T)
    torch.testing.assert_close(mel_filters(n_mels).double(), theirs.double(), rtol=0, atol=1e-8)


@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize("num_samples", LENGTHS)
def test_log_mel_of_every_kind_of_length(num_samples: int, n_mels: int) -> None:
    assert_equals_theirs(speechlike(num_samples), n_mels)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    num_samples=st.integers(1, WINDOW_SAMPLES),
    seed=st.integers(0, 1000),
    level=st.sampled_from([1e-6, 1e-3, 0.1, 1.0]),
    n_mels=st.sampled_from([80, 128]),
)
def test_log_mel_of_any_length_and_level(num_samples: int, seed: int, level: float, n_mels: int) -> None:
    assert_equals_theirs(speechlike(num_samples, seed, level), n_mels)


@pytest.mark.parametrize("num_samples", [1, 16_000, 480_000])
def test_digital_silence(num_samples: int) -> None:
    waveform = np.zeros(num_samples, np.float32)
    assert_equals_theirs(waveform, 80)
    assert log_mel_speech(waveform, 80).eq(-1.5).all()  # log10 of 1e-10, shifted and scaled by 4


@given(st.integers(0, WINDOW_SAMPLES))
def test_no_more_is_computed_than_needed(num_samples: int) -> None:
    speech = num_speech_mel_frames(num_samples)
    # Frame t sees the samples 160 t - 200 to 160 t + 199.
    assert 160 * (speech - 1) - 200 < num_samples
    assert speech == WINDOW_MEL_FRAMES or 160 * speech - 200 >= num_samples
    if num_samples < 20_000:
        num_frames = log_mel_speech(np.zeros(num_samples, np.float32), 80).shape[1]
        assert speech + SILENT_MEL_FRAMES <= num_frames <= speech + SILENT_MEL_FRAMES + 1


def test_columns_behind_the_speech_are_the_floor() -> None:
    log_mel = log_mel_speech(speechlike(33_333), 80)
    speech = num_speech_mel_frames(33_333)
    assert log_mel[:, speech:].eq(log_mel.max() - 2).all()  # 8 / 4 below the maximum


def test_floor_follows_each_utterance_not_the_batch() -> None:
    """The fault: the floor taken from the loudest utterance swallows a quiet one that shares its batch."""
    loud, quiet = speechlike(30_000, 1, 0.5), speechlike(30_000, 2, 0.01)
    together = EXTRACTORS[80]([loud, quiet], sampling_rate=16_000, return_tensors="pt").input_features
    for waveform, theirs in zip((loud, quiet), together, strict=True):
        ours = log_mel_speech(waveform, 80)
        torch.testing.assert_close(whole_window(ours), theirs, rtol=0, atol=1e-4)
        assert float(ours.max() - ours.min()) == pytest.approx(2.0, abs=1e-6)
    assert log_mel_speech(quiet, 80).min() < log_mel_speech(loud, 80).min() - 0.5  # so the fault would show


def test_tensor_and_array_alike_and_too_long_refused() -> None:
    waveform = speechlike(5000)
    assert torch.equal(log_mel_speech(torch.from_numpy(waveform), 80), log_mel_speech(waveform, 80))
    with pytest.raises(ValueError, match="480001 samples"):
        log_mel_speech(np.zeros(WINDOW_SAMPLES + 1, np.float32), 80)
