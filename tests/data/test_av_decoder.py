"""m4a, mp4 and webm: written by FFmpeg itself, read as what was put in."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whispertune.data.audio import load_waveform, num_samples_between, probe_audio
from whispertune.errors import AudioError

av = pytest.importorskip("av", reason="the extra `av` is not installed")
RATE = 48_000
SECONDS = 3
KINDS = {
    "a.m4a": ("ipod", "aac"),
    "a.mp4": ("mp4", "aac"),
    "a.webm": ("webm", "libopus"),
    "a.mkv": ("matroska", "libopus"),
}


def tone(seconds: float, rate: int = RATE) -> np.ndarray:
    """A sweep, so that a span in the wrong place is seen; the second channel is silent."""
    time = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * (200 * time + 150 * time**2))).astype(np.float32)


def encode(path: Path, kind: tuple[str, str], channels: int = 1) -> Path:
    samples = tone(SECONDS)
    with av.open(str(path), "w", format=kind[0]) as container:
        stream = container.add_stream(kind[1], rate=RATE, layout="mono" if channels == 1 else "stereo")
        planes = np.stack([samples] + [0 * samples] * (channels - 1))
        frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout="mono" if channels == 1 else "stereo")
        frame.sample_rate = RATE
        frame.pts = 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("av")
    for name, kind in KINDS.items():
        encode(folder / name, kind)
    return folder


def correlation(heard: np.ndarray, expected: np.ndarray, most: int) -> float:
    """The highest over shifts of up to `most` samples."""
    middle = heard[800:-800]
    shifted = (expected[800 + lag : 800 + lag + len(middle)] for lag in range(-most, most + 1))
    return max(float(np.corrcoef(middle[: len(other)], other)[0, 1]) for other in shifted)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("span", [(0.0, None), (1.25, 2.0), (2.5, None)])
def test_spans(folder: Path, name: str, span: tuple[float, float | None]) -> None:
    heard = load_waveform(folder / name, *span)
    length = probe_audio(folder / name)
    assert len(heard) == num_samples_between(str(folder / name), length, *span), "headers tell the length exactly"
    end = SECONDS if span[1] is None else span[1]
    assert len(heard) / 16_000 == pytest.approx(end - span[0], abs=0.05)
    expected = tone(SECONDS, 16_000)[round(span[0] * 16_000) : round(end * 16_000)]
    most = 48 if name.endswith(("webm", "mkv")) else 0  # Matroska's times are whole milliseconds: 3 ms will do
    assert correlation(heard, expected, most) > 0.98


def test_channels(tmp_path: Path) -> None:
    path = encode(tmp_path / "b.m4a", KINDS["a.m4a"], channels=2)
    left, right, both = (load_waveform(path, channel=channel) for channel in (0, 1, None))
    np.testing.assert_allclose(both, (left + right) / 2, atol=1e-3)
    assert np.abs(right).max() < 0.05 < np.abs(left).max()
    with pytest.raises(AudioError, match="has no channel 2; it has 2, counted from 0"):
        load_waveform(path, channel=2)


@pytest.mark.parametrize("name", ["a.m4a", "a.webm"])
def test_cut_short(folder: Path, tmp_path: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(AudioError, match=r"cut short|cannot be decoded"):
        load_waveform(tmp_path / name)


def test_without_pyav(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def absent(name: str, *rest: Any) -> Any:
        if name == "av":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(AudioError, match=r"a\.m4a: is of a kind that needs PyAV; install whispertune\[av\]"):
        load_waveform(folder / "a.m4a")


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(sorted(KINDS)), st.data())
def test_damaged(folder: Path, name: str, draw: st.DataObject) -> None:
    data = bytearray((folder / name).read_bytes())
    for _ in range(draw.draw(st.integers(1, 8))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    path = folder / f"damaged.{name}"
    path.write_bytes(data)
    try:
        heard = load_waveform(path, 0.5, 1.0)
    except AudioError as error:
        assert str(error).isprintable()  # noqa: PT017 - either outcome will do
    else:
        assert np.isfinite(heard).all()


def test_unknown_codec(folder: Path, tmp_path: Path) -> None:
    content = (folder / "a.mkv").read_bytes()
    assert b"A_OPUS" in content
    (tmp_path / "a.mkv").write_bytes(content.replace(b"A_OPUS", b"A_XPUS"))
    with pytest.raises(AudioError, match="holds sound in an unknown codec"):
        load_waveform(tmp_path / "a.mkv")
