"""m4a, mp4 and webm: written by FFmpeg itself, read as what was put in."""

from __future__ import annotations

import importlib
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whispertune.data.audio import av_decoder
from whispertune.data.audio import waveforms as audio_module
from whispertune.data.audio.waveforms import load_waveform, num_samples_between, probe_audio, stream_waveform
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


def encode(path: Path, kind: tuple[str, str], channels: int = 1, **options: str) -> Path:
    samples = tone(SECONDS)
    with av.open(str(path), "w", format=kind[0], options=options) as container:
        stream = container.add_stream(kind[1], rate=RATE, layout="mono" if channels == 1 else "stereo")
        planes = np.stack([samples] + [0 * samples] * (channels - 1))
        frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout="mono" if channels == 1 else "stereo")
        frame.sample_rate = RATE
        frame.pts = 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return path


class Pipe:
    """Takes bytes and cannot go back, as where a browser records: what is known at the end is not in the header."""

    def __init__(self) -> None:
        self.content = bytearray()

    def write(self, content: bytes) -> int:
        self.content += content
        return len(content)


def pour(path: Path, kind: tuple[str, str], samples: np.ndarray, rate: int = RATE) -> Path:
    """`samples` in frames of 20 ms, in a file without a length."""
    pipe = Pipe()
    with av.open(pipe, "w", format=kind[0], options={} if kind[0] == "adts" else {"live": "1"}) as container:
        stream = container.add_stream(kind[1], rate=rate, layout="mono")
        for first in range(0, len(samples), rate // 50):
            part = np.ascontiguousarray(samples[None, first : first + rate // 50], np.float32)
            frame = av.AudioFrame.from_ndarray(part, format="fltp", layout="mono")
            frame.sample_rate = rate
            frame.pts = first
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    path.write_bytes(pipe.content)
    return path


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The places of all frames that are decoded from now on."""
    places: list[int] = []
    real = av_decoder._parts

    def counted(*args: Any) -> Iterator[Any]:
        for at, part in real(*args):
            places.append(at)
            yield at, part

    monkeypatch.setattr(av_decoder, "_parts", counted)
    return places


def peak(work: Any) -> int:
    """The most bytes held at once."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


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
    with pytest.raises(AudioError, match="has no channel 2; it has 2, numbered from 0"):
        load_waveform(path, channel=2)


@pytest.mark.parametrize("name", ["a.m4a", "a.webm"])
def test_cut_short(folder: Path, tmp_path: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(AudioError, match=r"cut short|cannot be decoded"):
        load_waveform(tmp_path / name)
    with pytest.raises(AudioError, match=r"cut short|cannot be decoded"):
        list(stream_waveform(tmp_path / name))


def test_without_pyav(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def absent(name: str, *rest: Any) -> Any:
        if name == "av":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(AudioError, match=r"a\.m4a: has a format that needs PyAV; install whispertune\[av\]"):
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
    with pytest.raises(AudioError, match="uses an unknown audio codec"):
        load_waveform(tmp_path / "a.mkv")


@pytest.mark.parametrize("loud_first", [True, False])
def test_bare_aac(tmp_path: Path, loud_first: bool) -> None:
    """FFmpeg guesses its length from the bit rate of the first frames; seeking goes through all frames and is exact."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 3 * 16_000).astype(np.float32)
    quiet = np.zeros(9 * 16_000, np.float32)
    samples = np.concatenate([noise, quiet] if loud_first else [quiet, noise])
    path = pour(tmp_path / "a.aac", ("adts", "aac"), samples, 16_000)
    with av.open(str(path)) as container:
        assert abs(container.duration / 1e6 - 12) > 4
    heard = load_waveform(path)
    assert len(heard) == probe_audio(path)[0] == pytest.approx(12 * 16_000, abs=3 * 1024)  # ADTS keeps the padding
    assert correlation(heard[1024:], samples, 0) > 0.9
    begin = 1.0 if loud_first else 10.0
    span = load_waveform(path, begin, begin + 1)
    np.testing.assert_array_equal(span, heard[round(begin * 16_000) :][:16_000])


LENGTHLESS = {"a.webm": ("webm", "libopus"), "a.mkv": ("matroska", "pcm_s16le")}


@pytest.mark.parametrize("name", LENGTHLESS)
def test_without_a_length(tmp_path: Path, decoded: list[int], name: str) -> None:
    """As browsers record; of constant bit rates, FFmpeg makes up a length that counts the headers as sound."""
    path = pour(tmp_path / name, LENGTHLESS[name], tone(12))
    num_frames, rate = probe_audio(path)
    assert num_frames / rate == pytest.approx(12, abs=0.01)
    assert len(load_waveform(path)) == pytest.approx(12 * 16_000, abs=160)
    heard = load_waveform(path, 6.0, 7.0)
    assert len(heard) == 16_000
    assert correlation(heard, tone(12, 16_000)[6 * 16_000 : 7 * 16_000], 48) > 0.98
    decoded.clear()
    assert av_decoder.decode_with_av(path, 6.0, 7.0).shape == (1, RATE)
    assert 5 * RATE < decoded[0] < 6 * RATE < decoded[-1] < 7 * RATE, "nothing is decoded but the span"


def test_memory_and_work_without_a_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[int]) -> None:
    path = pour(tmp_path / "a.webm", LENGTHLESS["a.webm"], tone(30))
    whole = 30 * RATE * 4
    probe_audio(path)
    once = len(decoded)
    assert peak(lambda: probe_audio(path)) < whole / 8, "counting keeps nothing"
    decoded.clear()
    monkeypatch.setattr(audio_module, "AV_SECONDS", 1)
    total = 0

    def stream() -> None:
        nonlocal total
        total += sum(len(block) for block in stream_waveform(path))

    assert peak(stream) < whole / 4, "a few blocks at most are held"
    assert total == len(load_waveform(path))
    assert len(decoded) == 2 * once + 2 * once, "counted once and decoded once, by either way"


def peak_of(path: Path) -> tuple[int, str]:
    """The most memory (bytes) that a process had that only opened this recording, and what it was told."""
    script = (
        "import pathlib, resource, sys\n"
        "from whispertune.data.audio.waveforms import load_waveform\n"
        "from whispertune.errors import AudioError\n"
        "try:\n    load_waveform(pathlib.Path(sys.argv[1]), max_samples=480_000)\n"
        "except AudioError as error:\n    print(error, file=sys.stderr)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)\n"
    )
    run = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    return int(run.stdout), run.stderr


@pytest.mark.parametrize("box", [b"stsz", b"trun"])
def test_headers_that_promise_millions_of_samples(tmp_path: Path, box: bytes) -> None:
    """A small file whose index FFmpeg would give 36 bytes for each of 60 million samples that are not there."""
    fragments = {"movflags": "frag_keyframe+empty_moov"} if box == b"trun" else {}
    path = encode(tmp_path / "a.mp4", ("mp4", "aac"), **fragments)
    usual, told = peak_of(path)
    assert not told
    content = bytearray(path.read_bytes())
    at = content.find(box) + 4
    if box == b"trun":  # without a size and duration of each
        content[at : at + 4] = struct.pack(">I", struct.unpack(">I", content[at : at + 4])[0] & 1)
        content[at + 4 : at + 8] = struct.pack(">I", 60_000_000)
    else:
        content[at + 4 : at + 12] = struct.pack(">II", 1, 60_000_000)
        chunks = content.find(b"stsc") + 12
        content[chunks : chunks + 12] = struct.pack(">III", 1, 60_000_000, 1)
    path.write_bytes(content)
    most, told = peak_of(path)
    assert "promise 60,000,0" in told
    assert most < usual + (64 << 20)
