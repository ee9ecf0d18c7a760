"""The audio that the page plays is what is trained on, to the sample."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from correct_samples import write_recording

from whispertune.correct import audio
from whispertune.correct.audio import MOST_SECONDS, byte_range, peaks_of, wav_of
from whispertune.correct.segments import EditError, Recording
from whispertune.data.audio.waveforms import load_waveform


def samples_of(wav: bytes) -> np.ndarray:
    samples, rate = soundfile.read(io.BytesIO(wav), dtype="float32")
    assert rate == 16_000
    return np.asarray(samples)


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_a_stretch(tmp_path: Path, rate: int) -> None:
    path = write_recording(tmp_path / "a.wav", 3.0, rate)
    found = samples_of(wav_of(Recording(str(path), 3.0), 0.5, 2.25))
    np.testing.assert_allclose(found, load_waveform(path, 0.5, 2.25), atol=1e-4)
    whole = samples_of(wav_of(Recording(str(path), 3.0), 0.0, 99.0))
    assert len(whole) == 48_000


def test_the_longest_stretch_is_sent_however_its_ends_are_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_SECONDS < 644.878 - 344.878
    monkeypatch.setattr(audio, "load_waveform", lambda *_, **__: np.zeros(1, np.float32))
    assert wav_of(Recording("long.wav", 900.0), 344.878, 644.878)
    with pytest.raises(EditError):
        wav_of(Recording("long.wav", 900.0), 344.878, 644.89)


def test_one_channel(tmp_path: Path) -> None:
    path = tmp_path / "call.flac"
    time = np.arange(16_000) / 16_000
    both = np.stack([0.5 * np.sin(2 * np.pi * 200 * time), 0.1 * np.sin(2 * np.pi * 300 * time)], axis=1)
    soundfile.write(path, both, 16_000)
    peaks = [max(peaks_of(wav_of(Recording(str(path), 1.0, channel), 0.0, 1.0), 10)) for channel in (0, 1)]
    assert peaks == pytest.approx([0.5, 0.1], abs=0.01)


def test_peaks(tmp_path: Path) -> None:
    path = tmp_path / "step.wav"
    soundfile.write(path, np.concatenate([np.zeros(8_000), np.full(8_000, 0.5)]), 16_000)
    wav = wav_of(Recording(str(path), 1.0), 0.0, 1.0)
    assert peaks_of(wav, 4) == pytest.approx([0, 0, 0.5, 0.5], abs=1e-3)
    assert len(peaks_of(wav, 100_000)) == 16_000  # no more than there are samples


def test_ranges_of_bytes() -> None:
    assert byte_range(None, 100) is None
    assert byte_range("bytes=0-", 100) == (0, 100)
    assert byte_range("bytes=10-19", 100) == (10, 20)
    assert byte_range("bytes=90-500", 100) == (90, 100)
    assert byte_range("bytes=-7", 100) == (93, 100)
    with pytest.raises(EditError):
        byte_range("bytes=100-", 100)
