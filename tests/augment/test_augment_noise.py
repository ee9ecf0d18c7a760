from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from whispertune.augment.noise import NoiseSource, add_noise
from whispertune.augment.options import NoiseOptions
from whispertune.errors import AudioError, RecipeError


def white(num_samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).normal(size=num_samples)).astype(np.float32)


def ramp(num_samples: int) -> np.ndarray:
    """Every sample tells its own place, and survives 16-bit files exactly."""
    return (np.arange(num_samples) / 32768).astype(np.float32)


@given(
    snr_db=st.floats(-10, 40),
    num_samples=st.integers(2, 20000),
    noise_samples=st.integers(1, 30000),
    level=st.floats(1e-4, 1),
)
@settings(deadline=None)  # the machine may be busy
def test_snr_is_exact(snr_db: float, num_samples: int, noise_samples: int, level: float) -> None:
    waveform, noise = white(num_samples, 1) * np.float32(level), white(noise_samples, 2)
    before = waveform.copy(), noise.copy()
    noisy = add_noise(waveform, noise, snr_db)
    assert noisy.shape == waveform.shape
    assert noisy.dtype == np.float32
    added = noisy.astype(np.float64) - waveform
    reached = 10 * np.log10(np.mean(waveform.astype(np.float64) ** 2) / np.mean(added**2))
    assert reached == pytest.approx(snr_db, abs=0.1)
    np.testing.assert_array_equal(waveform, before[0])
    np.testing.assert_array_equal(noise, before[1])


def test_silence_is_left_alone() -> None:
    silence, speech = np.zeros(1000, np.float32), white(1000)
    np.testing.assert_array_equal(add_noise(silence, speech, 10), silence)
    np.testing.assert_array_equal(add_noise(speech, silence, 10), speech)
    np.testing.assert_array_equal(add_noise(speech, silence[:0], 10), speech)
    assert add_noise(speech[:0], speech, 10).size == 0


def test_folder_is_listed_sorted_with_subfolders(tmp_path: Path) -> None:
    (tmp_path / "street").mkdir()
    for name in ("b.wav", "a.FLAC", "street/c.ogg", "._a.wav", "notes.txt"):
        if name.lower().endswith((".wav", ".flac", ".ogg")) and "._" not in name:
            soundfile.write(tmp_path / name, white(8000), 16000)
        else:
            (tmp_path / name).touch()
    recordings = NoiseSource(str(tmp_path)).recordings
    assert [duration for _, duration in recordings] == [0.5, 0.5, 0.5]
    names = [path.relative_to(tmp_path).as_posix() for path, _ in recordings]
    assert names == ["a.FLAC", "b.wav", "street/c.ogg"]


def test_long_recording_gives_a_random_span(tmp_path: Path) -> None:
    recording = ramp(16000)
    soundfile.write(tmp_path / "long.wav", recording, 16000)
    source = NoiseSource(str(tmp_path))
    starts = set()
    for seed in range(20):
        noise = source.draw(4000, np.random.default_rng(seed))
        start = round(float(noise[0]) * 32768)
        starts.add(start)
        assert noise.dtype == np.float32
        np.testing.assert_allclose(noise, recording[start : start + 4000], atol=1e-6)
    assert len(starts) > 15
    assert min(starts) < 3000
    assert max(starts) > 9000


def test_short_recording_is_repeated_from_a_random_place(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "short.wav", ramp(1000), 16000)
    source = NoiseSource(str(tmp_path))
    starts = set()
    for seed in range(10):
        noise = source.draw(3500, np.random.default_rng(seed))
        start = round(float(noise[0]) * 32768)
        starts.add(start)
        np.testing.assert_allclose(noise, ramp(1000)[(start + np.arange(3500)) % 1000], atol=1e-6)
    assert len(starts) > 5


@given(num_samples=st.integers(0, 20000), seed=st.integers(0, 1000))
@settings(deadline=None)  # the machine may be busy
def test_drawn_noise_is_as_long_as_asked(tmp_path_factory: pytest.TempPathFactory, num_samples: int, seed: int) -> None:
    folder = tmp_path_factory.getbasetemp() / "noise_at_44100"
    if not folder.exists():
        folder.mkdir()
        soundfile.write(folder / "a.wav", white(22050), 44100)
    noise = NoiseSource(str(folder)).draw(num_samples, np.random.default_rng(seed))
    assert noise.shape == (num_samples,)
    assert noise.dtype == np.float32


def test_unreadable_recording_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.wav").write_bytes(b"no audio at all")
    with pytest.raises(AudioError, match=r"broken\.wav"):
        NoiseSource(str(tmp_path))


def test_bad_folders_are_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file.wav").touch()
    (tmp_path / "empty").mkdir()
    for bad in ("missing", "file.wav", "empty"):
        with pytest.raises(RecipeError, match=r"^augment\.noise\.folder is [^\n]+$"):
            NoiseSource(str(tmp_path / bad))
    with pytest.raises(RecipeError, match=r"^folder is not set, but augment\.noise\.probability is 0\.5[^\n]+$"):
        NoiseOptions(probability=0.5)
