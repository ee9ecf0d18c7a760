"""Audio: spans and rates come out right, and no broken file passes for a whole one."""

from __future__ import annotations

import io
import os
import re
import shlex
import struct
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from whispertune.data.audio import containers, sound_files
from whispertune.data.audio import waveforms as audio_module
from whispertune.data.audio.recording import TooLongError
from whispertune.data.audio.waveforms import SAMPLE_RATE, content_key, load_waveform, num_samples_of, probe_audio
from whispertune.errors import AudioError

FORMATS: dict[str, dict[str, Any]] = {
    "a.wav": {},
    "a.flac": {},
    "vorbis.ogg": {},
    "a.opus": {"format": "OGG", "subtype": "OPUS"},
    "a.mp3": {},
    "a.aiff": {},
    "a.au": {},
    "rf64.wav": {"format": "RF64"},
    "a.sph": {"format": "NIST", "subtype": "PCM_16"},
}
LOSSLESS = ("a.wav", "a.flac", "a.aiff", "a.au", "rf64.wav", "a.sph")


def sine(rate: int, seconds: float = 2.0, hertz: float = 440.0) -> npt.NDArray[np.float32]:
    """With some noise: compressed silence or pure tones are so small that half a file is a few pages."""
    time = np.arange(round(rate * seconds)) / rate
    noise = 0.02 * np.random.default_rng(0).standard_normal(len(time))
    return (0.4 * np.sin(2 * np.pi * hertz * time) + noise).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audio")
    for name, kwargs in FORMATS.items():
        soundfile.write(folder / name, sine(SAMPLE_RATE, 4.0), SAMPLE_RATE, **kwargs)
    return folder


def fault(path: Path, *span: float | None) -> str:
    with pytest.raises(AudioError) as caught:
        load_waveform(path, *span)  # type: ignore[arg-type]
    message = str(caught.value)
    assert message.isprintable()
    assert "; " in message, "a remedy follows"
    return message


# --- what loads -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_formats(folder: Path, name: str) -> None:
    waveform = load_waveform(folder / name)
    assert waveform.dtype == np.float32
    assert waveform.shape == (4 * SAMPLE_RATE,)
    tolerance = 1e-4 if name in LOSSLESS else 0.1
    assert np.abs(waveform - sine(SAMPLE_RATE, 4.0)).mean() < tolerance


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_rates_and_channels(tmp_path: Path, rate: int, channels: int) -> None:
    mono = sine(rate)
    gains = np.arange(1, channels + 1) / channels  # channels that differ: their mean is what counts
    soundfile.write(tmp_path / "a.wav", mono[:, None] * gains, rate, subtype="FLOAT")
    waveform = load_waveform(tmp_path / "a.wav")
    assert abs(len(waveform) - 2 * SAMPLE_RATE) <= 1
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    assert abs(np.argmax(spectrum) * SAMPLE_RATE / len(waveform) - 440) < 1
    assert np.sqrt(np.mean(waveform**2)) == pytest.approx(0.4 / np.sqrt(2) * gains.mean(), rel=0.02)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("span", [(0.0, 1.0), (1.25, 2.5), (3.0, None), (3.9, 4.04)])
def test_span_is_a_slice(folder: Path, name: str, span: tuple[float, float | None]) -> None:
    whole = load_waveform(folder / name)
    first = round(span[0] * SAMPLE_RATE)
    last = None if span[1] is None else round(span[1] * SAMPLE_RATE)
    # Opus: the decoder's state settles within some samples of a seek.
    atol = 2e-3 if name == "a.opus" else 1e-6
    np.testing.assert_allclose(load_waveform(folder / name, *span), whole[first:last], atol=atol)


def test_a_span_begins_at_the_nearest_sample(folder: Path) -> None:
    """In floating point 2.01 x 16000 is a little less than 32160, and 2.03 x 16000 than 32480."""
    whole = load_waveform(folder / "a.wav")
    np.testing.assert_array_equal(load_waveform(folder / "a.wav", 2.01, 2.03), whole[32_160:32_480])


@given(st.integers(1, 5000), st.sampled_from([8_000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000]))
def test_lengths_from_headers_are_those_of_resampling(num_frames: int, rate: int) -> None:
    resampled = soxr.resample(np.zeros(num_frames, np.float32), rate, SAMPLE_RATE, quality="HQ")
    assert num_samples_of(num_frames, rate) == len(resampled)


def test_resampled_span(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", sine(44_100), 44_100, subtype="FLOAT")
    span = load_waveform(tmp_path / "a.wav", 0.5, 1.25)
    assert len(span) == 12_000
    whole = load_waveform(tmp_path / "a.wav")[8_000:20_000]
    np.testing.assert_allclose(span[200:-200], whole[200:-200], atol=1e-3)  # the resampler's edges differ


def test_blocks_equal_one_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load_waveform(folder / "a.flac")
    monkeypatch.setattr(audio_module, "BLOCK_SAMPLES", 1000)
    np.testing.assert_array_equal(load_waveform(folder / "a.flac"), whole)
    np.testing.assert_array_equal(load_waveform(folder / "a.flac", 1.0, 2.0), whole[16_000:32_000])


def test_only_the_span_is_decoded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = soundfile.SoundFile.read
    frames: list[int] = []

    def counted(self: Any, frames_wanted: int, **kwargs: Any) -> Any:
        frames.append(frames_wanted)
        return read(self, frames_wanted, **kwargs)

    monkeypatch.setattr(soundfile.SoundFile, "read", counted)
    load_waveform(folder / "a.wav", 1.0, 1.5)
    assert frames == [8_000]


def test_threads(folder: Path) -> None:
    names = list(FORMATS) * 4
    once = {name: content_key(load_waveform(folder / name)) for name in FORMATS}
    with ThreadPoolExecutor(4) as pool:
        keys = list(pool.map(lambda name: content_key(load_waveform(folder / name)), names))
    assert keys == [once[name] for name in names]


def test_example_opus(request: pytest.FixtureRequest) -> None:
    examples = sorted((request.config.rootpath / "examples/italian-prompts/audio").glob("*.opus"))[:10]
    assert examples
    for path in examples:
        info = soundfile.info(str(path))
        assert len(load_waveform(path)) == round(info.duration * SAMPLE_RATE)


def test_silence_loads(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(16_000), SAMPLE_RATE)
    assert not load_waveform(tmp_path / "a.wav").any()


def test_content_key(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).integers(-32_768, 32_767, 8_000, dtype=np.int16)
    for name in ("a.wav", "a.flac"):
        soundfile.write(tmp_path / name, samples, SAMPLE_RATE)
    waveform = load_waveform(tmp_path / "a.wav")
    key = content_key(waveform)
    assert len(key) == 32
    assert int(key, 16) > 0
    assert content_key(load_waveform(tmp_path / "a.flac")) == key, "the same audio in another file"
    assert content_key(waveform[:-1]) != key
    assert content_key(waveform + np.float32(1e-6)) == key
    content_key(waveform * 1e6)  # clipped, without a warning


# --- what does not --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_truncated(folder: Path, tmp_path: Path, name: str, share: float) -> None:
    data = (folder / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: max(int(len(data) * share), 1100)])
    message = fault(path)
    assert name in message
    if not name.endswith(".flac"):  # libsndfile's own message: lost sync
        assert "cut short" in message


@pytest.mark.parametrize("name", FORMATS)
def test_cut_to_a_few_bytes(folder: Path, tmp_path: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    for num_bytes in (1, 4, 11, 20, 43, 44, 60, 200):
        (tmp_path / name).write_bytes(data[:num_bytes])
        fault(tmp_path / name)


def test_a_few_samples_less_are_forgiven(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes((folder / "a.wav").read_bytes()[:-100])
    assert len(load_waveform(tmp_path / "a.wav")) == 4 * SAMPLE_RATE - 50


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000])
def test_streamed_wav(folder: Path, tmp_path: Path, size: int) -> None:
    data = (folder / "a.wav").read_bytes()
    at = data.index(b"data") + 4
    streamed = data[:4] + struct.pack("<I", size) + data[8:at] + struct.pack("<I", size) + data[at + 4 :]
    (tmp_path / "a.wav").write_bytes(streamed)
    assert len(load_waveform(tmp_path / "a.wav")) == 4 * SAMPLE_RATE


def test_streamed_flac(folder: Path, tmp_path: Path) -> None:
    data = bytearray((folder / "a.flac").read_bytes())
    # STREAMINFO's 36 bits of total samples, behind "fLaC", the block header and 13.5 bytes; MD5 unknown too.
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    data[26:42] = bytes(16)
    (tmp_path / "a.flac").write_bytes(data)
    assert "gives no length" in fault(tmp_path / "a.flac")


def test_mp3_without_length_header(tmp_path: Path) -> None:
    quiet = 0.01 * sine(SAMPLE_RATE, 6.0)
    loud = np.random.default_rng(1).uniform(-0.9, 0.9, 10 * SAMPLE_RATE).astype(np.float32)
    soundfile.write(
        tmp_path / "vbr.mp3", np.concatenate([quiet, loud]), SAMPLE_RATE, bitrate_mode="VARIABLE",
        compression_level=0.5,
    )  # fmt: skip
    data = (tmp_path / "vbr.mp3").read_bytes()
    frame = containers._mp3_frame(data, 0)
    assert frame is not None
    (tmp_path / "bare.mp3").write_bytes(data[frame[0] :])
    with (tmp_path / "bare.mp3").open("rb") as file:
        counted = containers.mp3_samples_without_header(file)
    assert counted is not None
    assert counted[1]
    assert counted[0] == pytest.approx(16 * SAMPLE_RATE, abs=4 * 1152)
    assert "only" in fault(tmp_path / "bare.mp3")  # libsndfile would have read less, in silence

    soundfile.write(tmp_path / "cbr.mp3", loud, SAMPLE_RATE, bitrate_mode="CONSTANT", compression_level=0.3)
    data = (tmp_path / "cbr.mp3").read_bytes()
    frame = containers._mp3_frame(data, 0)
    assert frame is not None
    for tag in (b"", b"TAG" + bytes(125)):
        (tmp_path / "bare.mp3").write_bytes(data[frame[0] :] + tag)
        assert len(load_waveform(tmp_path / "bare.mp3")) == pytest.approx(len(loud), abs=4 * 1152)
    (tmp_path / "bare.mp3").write_bytes(data[frame[0] : len(data) // 2 + 7])
    assert "cut short" in fault(tmp_path / "bare.mp3")


def test_mp3_with_tags(folder: Path, tmp_path: Path) -> None:
    data = (folder / "a.mp3").read_bytes()
    tag = b"ID3\x04\x00\x00\x00\x00\x10\x00" + bytes(2048)  # 2048 in 7-bit bytes
    (tmp_path / "a.mp3").write_bytes(tag + data + b"TAG" + bytes(125))
    assert len(load_waveform(tmp_path / "a.mp3")) == 4 * SAMPLE_RATE
    (tmp_path / "a.mp3").write_bytes(tag + data[: len(data) // 2])
    assert "cut short" in fault(tmp_path / "a.mp3")


def test_ogg_without_end_mark(folder: Path, tmp_path: Path) -> None:
    data = bytearray((folder / "a.opus").read_bytes())
    data[data.rindex(b"OggS") + 5] &= ~4
    (tmp_path / "a.opus").write_bytes(data)
    fault(tmp_path / "a.opus")


def test_missing_folder_empty(tmp_path: Path) -> None:
    assert "no such file" in fault(tmp_path / "gone.wav")
    assert "folder" in fault(tmp_path)
    (tmp_path / "empty.wav").touch()
    assert "0 bytes" in fault(tmp_path / "empty.wav")
    fault(tmp_path / ("x" * 300 + ".wav"))
    fault(tmp_path / "a\x00b.wav")
    fault(tmp_path / "a\nb.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    assert "regular" in fault(tmp_path / "pipe.wav")


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.raw", "a.opus", "a.txt"])
def test_not_audio(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("This is no audio. " * 40)
    message = fault(tmp_path / name)
    assert name in message
    assert "ffmpeg" in message


def test_no_samples(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(0), SAMPLE_RATE)
    assert "no samples" in fault(tmp_path / "a.wav")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("channels", [1, 2])
def test_not_finite(tmp_path: Path, value: float, channels: int) -> None:
    samples = np.zeros((1000, channels), np.float32)
    samples[500] = value
    soundfile.write(tmp_path / "a.wav", samples, SAMPLE_RATE, subtype="FLOAT")
    assert "NaN" in fault(tmp_path / "a.wav")


def test_overflow(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.full((1000, 2), 3e38, np.float32), SAMPLE_RATE, subtype="FLOAT")
    assert "not finite" in fault(tmp_path / "a.wav")


def test_span_outside(folder: Path) -> None:
    assert "starts at 4.00 s" in fault(folder / "a.wav", 4.0)
    assert "starts at 9.00 s" in fault(folder / "a.wav", 9.0, 10.0)
    assert "ends at 4.06 s and the file is 4.00 s long" in fault(folder / "a.wav", 1.0, 4.06)
    assert len(load_waveform(folder / "a.wav", 1.0, 4.05)) == 3 * SAMPLE_RATE
    assert "no samples" in fault(folder / "a.wav", 1.0, 1.00001)


def test_tiny_sample_rate(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(1000), 10)
    assert "10 Hz" in fault(tmp_path / "a.wav")


def peak(work: Callable[[], object]) -> int:
    """The most bytes held at once."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def sparse_wav(path: Path, rate: int, channels: int, num_bytes: int) -> Path:
    """A WAV of 8 bits whose samples take no room on the disk."""
    form = struct.pack("<IHHIIHH", 16, 1, channels, rate, min(rate * channels, 2**32 - 1), channels, 8)
    header = b"RIFF" + struct.pack("<I", num_bytes + 36) + b"WAVEfmt " + form + b"data" + struct.pack("<I", num_bytes)
    path.write_bytes(header)
    os.truncate(path, len(header) + num_bytes)
    return path


def test_a_sample_rate_that_makes_a_moment_of_millions_of_samples(tmp_path: Path) -> None:
    path = sparse_wav(tmp_path / "a.wav", rate=2**31 - 1, channels=1, num_bytes=1 << 30)
    told: list[str] = []
    assert peak(lambda: told.append(fault(path))) < 1 << 20
    assert "2147483647 Hz" in told[0]
    with pytest.raises(AudioError, match="2147483647 Hz"):
        probe_audio(path)


def test_one_channel_of_a_thousand_holds_no_others(tmp_path: Path) -> None:
    path = sparse_wav(tmp_path / "a.wav", rate=16_000, channels=1000, num_bytes=16_000_000 * 10)
    assert peak(lambda: load_waveform(path, channel=7)) < 4 * audio_module.BLOCK_SAMPLES * 4


def without_header(path: Path) -> bytes:
    """The frames of an MP3 of constant bit rate, without the one that gives its length."""
    noise = np.random.default_rng(1).uniform(-0.9, 0.9, 4 * SAMPLE_RATE).astype(np.float32)
    soundfile.write(path, noise, SAMPLE_RATE, bitrate_mode="CONSTANT", compression_level=0.3)
    data = path.read_bytes()
    frame = containers._mp3_frame(data, 0)
    assert frame is not None
    return data[frame[0] :]


def put_into(path: Path, recording: Path, num_bytes: int | None = None) -> tuple[int, int]:
    """Write a file that holds a recording behind other bytes (and zeros up to num_bytes); its place in there."""
    content = recording.read_bytes()
    path.write_bytes(b"?" * 1000 + content)
    os.truncate(path, 1000 + (num_bytes or len(content)))
    return 1000, num_bytes or len(content)


@pytest.mark.parametrize("name", [*FORMATS, "stream.mp3"])
def test_a_recording_within_a_file_is_read_where_it_is(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """However long it is: the same samples, and the same length."""
    path = folder / name
    if name == "stream.mp3":
        path = tmp_path / name
        path.write_bytes(without_header(tmp_path / "whole.mp3"))
    within = put_into(tmp_path / "shard.tar", path)
    whole, span = load_waveform(path), load_waveform(path, 1.0, 2.5)
    for held in (1 << 20, 0):
        monkeypatch.setattr(sound_files, "HELD_BYTES", held)
        assert probe_audio(tmp_path / "shard.tar", within=within) == probe_audio(path)
        assert (load_waveform(tmp_path / "shard.tar", within=within) == whole).all()
        assert (load_waveform(tmp_path / "shard.tar", 1.0, 2.5, within=within) == span).all()
    with pytest.raises(AudioError, match="is cut short"):
        load_waveform(tmp_path / "shard.tar", within=(within[0], within[1] + 1))


def test_little_is_held_of_a_long_recording_within_a_file(tmp_path: Path) -> None:
    path = sparse_wav(tmp_path / "a.wav", rate=16_000, channels=1, num_bytes=1 << 30)
    size = path.stat().st_size
    os.truncate(path, 44)
    within = put_into(tmp_path / "shard.tar", path, size)
    assert peak(lambda: probe_audio(tmp_path / "shard.tar", within=within)) < 1 << 20
    assert peak(lambda: load_waveform(tmp_path / "shard.tar", 9.0, 19.0, within=within)) < 4 << 20


def test_little_is_held_of_an_mp3_without_a_length_header(tmp_path: Path) -> None:
    frames = without_header(tmp_path / "whole.mp3")
    path = tmp_path / "a.mp3"
    path.write_bytes(frames * (1 + (32 << 20) // len(frames)))
    assert peak(lambda: probe_audio(path)) < 8 << 20


@given(cut=st.integers(0, 3000), garbage=st.binary(max_size=3000), block=st.integers(4096, 9000))
@settings(max_examples=30, deadline=None)
def test_mp3_frames_are_counted_block_by_block(
    tmp_path_factory: pytest.TempPathFactory, cut: int, garbage: bytes, block: int
) -> None:
    frames = without_header(tmp_path_factory.mktemp("mp3") / "whole.mp3")
    data = frames[: len(frames) // 2] + garbage + b"\xff" + frames[len(frames) // 2 : len(frames) - cut]
    whole = containers.mp3_samples_without_header(io.BytesIO(data))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(containers, "MP3_BLOCK_BYTES", block)
        assert containers.mp3_samples_without_header(io.BytesIO(data)) == whole


def test_a_recording_of_hours_in_a_small_file(tmp_path: Path) -> None:
    """FLAC packs silence 160 times; what a row asks for is what is decoded."""
    path = tmp_path / "a.flac"
    with soundfile.SoundFile(path, "w", 8_000, 1, "PCM_16") as file:
        for _ in range(3):
            file.write(np.zeros(8_000 * 3600, np.int16))
    assert path.stat().st_size < 1 << 20
    assert peak(lambda: load_waveform(path, 9_000.0, 9_010.0)) < 4 << 20
    with pytest.raises(TooLongError, match=r"lasts 10800\.0 s"):
        load_waveform(path, max_samples=480_000)


def loads_or_says_why(path: Path, *span: float) -> None:
    try:
        waveform = load_waveform(path, *span)
    except AudioError as caught:
        error, waveform = str(caught), np.ones(1, np.float32)
    else:
        error = ""
    assert error.isprintable()
    assert len(waveform)
    assert np.isfinite(waveform).all()


MAGICS = [
    b"",
    b"RIFF\x00\x00\x00\x00WAVE",
    b"fLaC\x00\x00\x00\x22",
    b"OggS\x00\x02",
    b"ID3\x04",
    b"\xff\xfb\x90",
    b"FORM\x00\x00\x00\x00AIFF",
    b".snd",
    b"NIST_1A\n   1024\n",
]


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(MAGICS), st.binary(max_size=300), st.sampled_from(["a.wav", "a.mp3", "a.raw", "a.ogg"]))
def test_random_bytes(tmp_path_factory: pytest.TempPathFactory, magic: bytes, data: bytes, name: str) -> None:
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(magic + data)
    loads_or_says_why(path)


@settings(deadline=None, max_examples=80)
@given(st.sampled_from(sorted(FORMATS)), st.data())
def test_damaged_files(folder: Path, name: str, draw: st.DataObject) -> None:
    data = bytearray((folder / name).read_bytes())
    for _ in range(draw.draw(st.integers(1, 6))):
        data[draw.draw(st.integers(0, 200))] = draw.draw(st.integers(0, 255))
    path = folder / ("damaged." + name)
    path.write_bytes(data)
    loads_or_says_why(path, 0.5, 1.0)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFF000])
@pytest.mark.parametrize("riff", [0, 36, 0xFFFFFFFF])
@pytest.mark.parametrize("inside", [False, True])
def test_a_wav_that_was_written_to_a_pipe(tmp_path: Path, size: int, riff: int, inside: bool) -> None:
    """Its header gives no length: all that follows is read."""
    soundfile.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(8_000), 16_000, subtype="PCM_16")
    expected = load_waveform(tmp_path / "a.wav")
    content = bytearray((tmp_path / "a.wav").read_bytes())
    at = content.index(b"data")
    content[4:8], content[at + 4 : at + 8] = struct.pack("<I", riff), struct.pack("<I", size)
    path = tmp_path / "piped.wav"
    path.write_bytes(b"x" * 5 * inside + content)
    within = (5, len(content)) if inside else None
    np.testing.assert_array_equal(load_waveform(path, within=within), expected)
    np.testing.assert_array_equal(load_waveform(path, 0.1, 0.2, within=within), expected[1_600:3_200])
    assert probe_audio(path, within=within) == (8_000, 16_000)
    assert path.read_bytes() == b"x" * 5 * inside + content


def test_a_wav_without_samples_is_still_none(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(0, np.int16), 16_000)
    content = (tmp_path / "a.wav").read_bytes()
    for behind in (b"", b"LIST" + struct.pack("<I", 4) + b"INFO"):
        (tmp_path / "b.wav").write_bytes(content + behind)
        with pytest.raises(AudioError, match="holds no samples"):
            load_waveform(tmp_path / "b.wav")


@pytest.mark.parametrize(
    ("name", "coding"), [("a b.raw", "s16le"), ("a b.ulaw", "mulaw"), ("a.al", "alaw"), ("a.pcm", "s16le")]
)
def test_the_advice_for_raw_audio_is_a_command_that_works(tmp_path: Path, name: str, coding: str) -> None:
    """FFmpeg guesses nothing of a file without a header: format, rate and channels stand before it."""
    (tmp_path / name).write_bytes(bytes(range(1, 251)) * 8)
    with pytest.raises(AudioError, match="is raw audio without a header") as caught:
        load_waveform(tmp_path / name)
    advice = re.search(r"(ffmpeg .*) \(16 bits", str(caught.value))
    assert advice is not None
    command = shlex.split(advice[1])
    options = dict(zip(command[1:-1:2], command[2:-1:2], strict=True))
    assert list(options) == ["-f", "-ar", "-ac", "-i"]
    assert (options["-f"], options["-i"]) == (coding, str(tmp_path / name))
    av = pytest.importorskip("av")
    given = {"sample_rate": options["-ar"], "ch_layout": "mono"}
    with av.open(options["-i"], format=options["-f"], options=given) as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) == 2_000 // (2 if coding == "s16le" else 1)
