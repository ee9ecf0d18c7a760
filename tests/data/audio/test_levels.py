"""Levels far above full scale, and channels in opposite phase: told wherever a recording is decoded."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from whispertune.cli import main
from whispertune.data.audio.waveforms import load_waveform, stream_waveform
from whispertune.errors import AudioError

EXAMPLE = Path(__file__).parents[3] / "examples" / "italian-prompts"
READERS: list[Callable[[Path], object]] = [load_waveform, lambda path: list(stream_waveform(path))]
SPEECH = load_waveform(EXAMPLE / "audio" / "added.opus")


def float_wav(path: Path, samples: np.ndarray, rate: int = 16_000) -> Path:
    soundfile.write(path, samples.astype(np.float32), rate, subtype="FLOAT")
    return path


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("scale", [1 << 7, 1 << 15, 1 << 23, 1 << 31])
@pytest.mark.parametrize(("peak", "rate"), [(-0.9, 16_000), (-0.9, 44_100), (0.2, 16_000)])
def test_floats_at_the_scale_of_integers(
    tmp_path: Path, read: Callable[[Path], object], scale: int, peak: float, rate: int
) -> None:
    """Quiet recordings, too."""
    path = float_wav(tmp_path / "a.wav", peak * scale * SPEECH / np.abs(SPEECH).max(), rate)
    with pytest.raises(AudioError, match=rf"dB above full scale.*; divide them by {scale}, .*volume=1/{scale} "):
        read(path)


@pytest.mark.parametrize("gain", [0.01, 1.0, 2.0, 4.0])
def test_what_codecs_overshoot_loads(tmp_path: Path, gain: float) -> None:
    path = float_wav(tmp_path / "a.wav", gain * SPEECH / np.abs(SPEECH).max())
    assert np.abs(load_waveform(path)).max() == pytest.approx(gain)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(("level", "other"), [(0, -1.0), (-15, -1.0), (0, -0.97)])
def test_channels_that_cancel(tmp_path: Path, read: Callable[[Path], object], level: float, other: float) -> None:
    """Quiet ones (-33 dB), too, and where one is a quarter of a dB lower."""
    left = np.float32(10 ** (level / 20)) * SPEECH
    right = np.float32(other) * left
    path = float_wav(tmp_path / "a.wav", np.stack([left, right], axis=1))
    with pytest.raises(AudioError, match=r"2 channels are in opposite phase.*; name one in a channel column"):
        read(path)
    np.testing.assert_array_equal(load_waveform(path, channel=1), right)


@pytest.mark.parametrize("read", READERS)
def test_channels_that_do_not_cancel(tmp_path: Path, read: Callable[[Path], object]) -> None:
    other = np.roll(SPEECH, 3000)
    silent = np.zeros_like(SPEECH)
    for left, right in (
        (SPEECH, other), (SPEECH, silent), (silent, silent), (1e-4 * SPEECH, -1e-4 * SPEECH),
        (SPEECH, -0.8 * SPEECH),  # what is left is 19 dB lower, and can be heard
    ):  # fmt: skip
        read(float_wav(tmp_path / "a.wav", np.stack([left, right], axis=1)))


def test_check_tells_both(tmp_path: Path) -> None:
    loud = float_wav(tmp_path / "loud.wav", 32_768 * SPEECH)
    float_wav(tmp_path / "cancel.wav", np.stack([SPEECH, -SPEECH], axis=1))
    (tmp_path / "rows.csv").write_text("id,audio,text\na,loud.wav,Aggiunto.\nb,cancel.wav,Aggiunto.\n")
    assert main(["check", str(tmp_path / "rows.csv"), "--language=it", f"--output={tmp_path / 'out'}"]) == 2
    found = [json.loads(line) for line in (tmp_path / "out" / "check.jsonl").read_text().splitlines()]
    errors = {row["id"]: (row["kind"], row["detail"]) for row in found if row["severity"] == "error"}
    assert {id_: kind for id_, (kind, _) in errors.items()} == {"a": "unreadable_audio", "b": "unreadable_audio"}
    assert "above full scale" in errors["a"][1]
    assert "opposite phase" in errors["b"][1]
    assert str(loud) in errors["a"][1]


def test_the_advice_runs_as_printed(tmp_path: Path) -> None:
    """From any folder, whatever the file is called; a filter's bar is no pipe."""
    path = float_wav(tmp_path / "one; two|three (4).wav", 20 * SPEECH)
    stereo = tmp_path / "it's $HOME.wav"
    soundfile.write(stereo, np.stack([SPEECH, -SPEECH], axis=1), 16_000)
    for audio, wanted in ((path, "volume=1/128"), (stereo, "pan=mono|c0=c0")):
        with pytest.raises(AudioError) as told:
            load_waveform(audio)
        _, advice = str(told.value).rsplit("ffmpeg ", 1)
        assert shlex.split(advice) == ["-i", str(audio), "-af", wanted, "out.wav"]
