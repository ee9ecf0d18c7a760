"""Recordings read in blocks: the samples that `load_waveform` gives at once, and the same faults."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from whispertune.data.audio import waveforms as audio_module
from whispertune.data.audio.waveforms import load_waveform, stream_waveform
from whispertune.errors import AudioError


def noise(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    draws = np.random.default_rng(rate)
    return (0.3 * draws.uniform(-1, 1, (round(seconds * rate), channels))).astype(np.float32)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3", "a.opus"])
@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (48_000, 2), (8_000, 1)])
def test_blocks_together_are_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, rate: int, channels: int
) -> None:
    path = tmp_path / name
    kwargs = {"format": "OGG", "subtype": "OPUS"} if name == "a.opus" else {}
    soundfile.write(path, noise(3.21, rate, channels), rate, **kwargs)
    monkeypatch.setattr(audio_module, "STREAM_SAMPLES", 10_007)
    blocks = list(stream_waveform(path))
    assert len(blocks) > 2
    assert all(block.dtype == np.float32 and block.ndim == 1 for block in blocks)
    whole = load_waveform(path)
    joined = np.concatenate(blocks)
    assert len(joined) == len(whole)
    np.testing.assert_allclose(joined, whole, atol=2e-5)


@pytest.mark.parametrize(("name", "codec"), [("a.m4a", "aac"), ("a.aac", "aac"), ("a.webm", "libopus")])
def test_what_needs_ffmpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, codec: str) -> None:
    av = pytest.importorskip("av")
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=16_000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(noise(5.0, 16_000).T.copy(), format="fltp", layout="mono")
        frame.sample_rate = 16_000
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)
    monkeypatch.setattr(audio_module, "AV_SECONDS", 2)
    blocks = list(stream_waveform(path))
    assert len(blocks) == 3
    whole = load_waveform(path)
    joined = np.concatenate(blocks)
    assert len(joined) == len(whole)
    np.testing.assert_allclose(joined, whole, atol=2e-5)


def test_a_block_is_read_only_when_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(2.0, 16_000), 16_000)
    monkeypatch.setattr(audio_module, "STREAM_SAMPLES", 4000)
    stream = stream_waveform(path)
    first, second = next(stream), next(stream)
    stream.close()
    assert [len(first), len(second)] == [4000, 4000]
    assert not any(np.array_equal(a, b) for a, b in pairwise([first, second]))


def test_damage_in_the_middle_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = noise(2.0, 16_000)
    samples[20_000] = np.nan
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    monkeypatch.setattr(audio_module, "STREAM_SAMPLES", 4000)
    stream = stream_waveform(tmp_path / "a.wav")
    for _ in range(5):
        next(stream)
    with pytest.raises(AudioError, match="NaN"):
        next(stream)


@pytest.mark.parametrize("content", [b"", b"RIFF", b"no audio at all " * 40])
def test_no_audio(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(AudioError, match=r"a\.wav"):
        list(stream_waveform(tmp_path / "a.wav"))
