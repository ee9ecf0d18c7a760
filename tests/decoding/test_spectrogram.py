"""The log-mel of whole recordings against Whisper's, computed at once by its definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from whispertune.data.audio import waveforms as audio_module
from whispertune.decoding import spectrogram
from whispertune.decoding.spectrogram import Spectrogram, padded_features
from whispertune.errors import AudioError
from whispertune.features.log_mel import WINDOW_SAMPLES, log_mel_speech, mel_filters
from whispertune.features.options import DENSE, FrameOptions


def whole_log_mel(waveform: np.ndarray, n_mels: int = 80, *, beyond: int = 0) -> torch.Tensor:
    """As openai-whisper's transcribe: with 30 s of silence behind, and one floor for all."""
    padded = torch.nn.functional.pad(torch.from_numpy(waveform), (0, WINDOW_SAMPLES))
    spectrum = torch.stft(padded, 400, 160, window=torch.hann_window(400), return_complex=True)
    power = spectrum[:, :-1].abs().square()
    log_mel = (mel_filters(n_mels) @ power).clamp(min=1e-10).log10()
    log_mel = log_mel.clamp(min=float(log_mel.max()) - 8)
    return ((log_mel + 4) / 4)[:, : len(waveform) // 160 + beyond]


def noise(num_samples: int, seed: int = 0) -> np.ndarray:
    draws = np.random.default_rng(seed)
    loudness = np.linspace(0.001, 0.5, num_samples)
    return (loudness * draws.uniform(-1, 1, num_samples)).astype(np.float32)


def saved(folder: Path, waveform: np.ndarray) -> Path:
    path = folder / "noise.wav"
    soundfile.write(path, waveform, 16_000, subtype="FLOAT")
    return path


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    num_samples=st.one_of(st.integers(1, 1000), st.integers(1000, 700_000)),
    steps=st.lists(st.integers(0, 3500), max_size=6),
    block_samples=st.sampled_from([150, 16_000, 1 << 22]),
    kept_seconds=st.sampled_from([0, 10, 1200]),
    block_frames=st.sampled_from([7, 1000, 3000]),
)
def test_windows_are_cut_from_the_whole(
    tmp_path: Path, num_samples: int, steps: list[int], block_samples: int, kept_seconds: int, block_frames: int
) -> None:
    """Whatever blocks it is read and computed in, kept or read again, and wherever windows begin."""
    if num_samples > 50_000:
        block_samples, block_frames = max(block_samples, 16_000), max(block_frames, 1000)
    waveform = noise(num_samples)
    expected = whole_log_mel(waveform)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spectrogram, "KEPT_SECONDS", kept_seconds)
        patch.setattr(spectrogram, "BLOCK_MEL_FRAMES", block_frames)
        patch.setattr(audio_module, "STREAM_SAMPLES", block_samples)
        found = Spectrogram(saved(tmp_path, waveform), 80)
        assert found.num_frames == expected.shape[1]
        assert found.duration == num_samples / 16_000
        begin = 0
        for step in [0, *steps]:
            begin += step
            if begin >= found.num_frames:
                break
            torch.testing.assert_close(found.window(begin), expected[:, begin : begin + 3000], atol=2e-4, rtol=0)
        with pytest.raises(ValueError, match="no longer held"):
            found.window(-1)


@pytest.mark.parametrize("num_samples", [1, 150, 161, 4000, 4159])
def test_behind_the_end_it_is_silent(tmp_path: Path, num_samples: int) -> None:
    waveform = 0.1 * noise(num_samples)
    found = Spectrogram(saved(tmp_path, waveform), 80)
    expected = whole_log_mel(waveform, beyond=40)
    log_mel = found.window(0, beyond=True)
    assert log_mel.shape[1] == num_samples // 160 + 3
    padded = torch.nn.functional.pad(log_mel, (0, 37), value=found.silence)
    torch.testing.assert_close(padded, expected, atol=2e-4, rtol=0)


def test_digital_silence(tmp_path: Path) -> None:
    found = Spectrogram(saved(tmp_path, np.zeros(40_000, np.float32)), 80)
    assert torch.equal(found.window(0), torch.full((80, 250), -1.5))


def test_the_floor_is_that_of_the_whole_file(tmp_path: Path) -> None:
    """A whisper in front of a shout lies on the shout's floor, though no window holds both."""
    waveform = np.concatenate([1e-4 * noise(WINDOW_SAMPLES), noise(WINDOW_SAMPLES, seed=1)])
    found = Spectrogram(saved(tmp_path, waveform), 80)
    alone = log_mel_speech(waveform[:WINDOW_SAMPLES], 80)
    first = found.window(0)
    assert float(first.min()) > float(alone.min()) + 0.5
    assert float(first.min()) == pytest.approx(float(whole_log_mel(waveform).min()), abs=1e-4)


def test_a_recording_that_is_not_kept_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectrogram, "KEPT_SECONDS", 0)
    path = saved(tmp_path, noise(100_000))
    found = Spectrogram(path, 80)
    path.unlink()
    with pytest.raises(AudioError, match="no such file"):
        found.window(0)


@pytest.mark.parametrize("num_frames", [1, 2, 993, 2993, 2995, 2999, 3000])
def test_features_stand_for_a_window_with_zeros_behind(num_frames: int) -> None:
    """Dense: the frames that two convolutions make of the whole 3000, from a few zeros only."""
    generator = torch.Generator().manual_seed(num_frames)
    log_mel = torch.randn(4, num_frames, generator=generator)
    kernels = [torch.randn(4, 4, 3, generator=generator) for _ in range(2)]

    def convolved(x: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.conv1d(x[None], kernels[0], padding=1).relu()
        return torch.nn.functional.conv1d(x, kernels[1], padding=1, stride=2)[0]

    whole = torch.nn.functional.pad(log_mel, (0, 3000 - num_frames))
    features = padded_features(log_mel, DENSE)
    assert features.log_mel.shape[1] <= min(3000, num_frames + 7)
    torch.testing.assert_close(convolved(features.log_mel)[:, features.index], convolved(whole))
    thinned = padded_features(log_mel, FrameOptions())
    assert thinned.counts.sum() == 1500
    torch.testing.assert_close(
        convolved(thinned.log_mel)[:, thinned.index], convolved(whole)[:, thinned.positions.tolist()]
    )
