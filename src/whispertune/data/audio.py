"""Audio files: a span of one, as a mono waveform at 16 kHz."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from whispertune.data import containers
from whispertune.errors import AudioError

SAMPLE_RATE = 16_000  # Hz, as Whisper's
EDGE_SECONDS = 0.05  # a span may end this much behind the file's end, and a file lack this much: rounding
MIN_SAMPLE_RATE = 1_000  # Hz; below that it is no speech, and resampling it would fill the memory
MAX_FRAMES = 1 << 40  # libsndfile gives 2^63 - 1 for a stream of unknown length
BLOCK_SAMPLES = 1 << 23  # decoded at once (32 MiB): a header's word for the length is not trusted with memory

Waveform = npt.NDArray[np.float32]


def load_waveform(audio: Path, start: float = 0.0, end: float | None = None) -> Waveform:
    """The span `start` to `end` (seconds; None: the file's end): float32 `(num_samples,)`, mono, 16 kHz.

    Only the span is decoded. Channels are averaged. Safe to call from several threads. Raises AudioError for
    a file that is missing, unreadable, empty or cut short, for samples that are not finite, and for a span
    outside it (by more than 0.05 s at its end).
    """
    try:
        mode = audio.stat().st_mode
        if stat.S_ISDIR(mode):
            _fail(audio, "is a folder", "give an audio file")
        if not stat.S_ISREG(mode):
            _fail(audio, "is no regular file", "give an audio file")
        if audio.stat().st_size == 0:
            _fail(audio, "is empty (0 bytes)", "fetch it again or remove its row")
        samples, sample_rate = _decode(audio, start, end)
    except FileNotFoundError:
        _fail(audio, "no such file", "correct the path in the manifest")
    except soundfile.LibsndfileError as error:
        _fail(audio, f"cannot be decoded ({error.error_string})", _convert(audio))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        _fail(audio, f"cannot be read ({reason})", "check the path and its rights")
    if sample_rate != SAMPLE_RATE:
        samples = soxr.resample(samples, sample_rate, SAMPLE_RATE, quality="HQ")
    if not len(samples):
        _fail(audio, "holds no samples here", "remove its row or correct its start and end")
    if not np.isfinite(samples).all():
        _fail(audio, "holds samples out of all bounds", _convert(audio))
    return np.ascontiguousarray(samples, dtype=np.float32)


def content_key(waveform: Waveform) -> str:
    """32 hexadecimal digits that are equal for equal waveforms (rounded to 16 bits), whatever their files."""
    samples = np.clip(np.rint(waveform * np.float32(32_768)), -32_768, 32_767).astype("<i2")
    return hashlib.sha256(samples.tobytes()).hexdigest()[:32]


def _decode(audio: Path, start: float, end: float | None) -> tuple[Waveform, int]:
    """The span, mono, at the file's own sample rate."""
    try:
        opened = soundfile.SoundFile(str(audio))
    except TypeError:  # soundfile asks for the format of what ends in .raw
        _fail(audio, "is raw audio without a header", _convert(audio))
    with opened as file:
        rate = int(file.samplerate)
        if rate < MIN_SAMPLE_RATE:
            _fail(audio, f"has a sample rate of {rate} Hz", _convert(audio))
        num_frames = _num_frames(audio, file)
        first = round(start * rate)
        last = num_frames if end is None else round(end * rate)
        _check_span(audio, first, last, num_frames, rate)
        last = min(last, num_frames)
        if first:
            file.seek(first)
        samples = _read(audio, file, last - first)
        if len(samples) < last - first - EDGE_SECONDS * rate:
            _fail_cut_short(audio, f"{(first + len(samples)) / rate:.2f} s of {last / rate:.2f} s decoded")
    return samples, rate


def _num_frames(audio: Path, file: Any) -> int:
    """Samples per channel in the file, having made sure that it is whole."""
    num_frames = int(file.frames)
    rate = int(file.samplerate)
    edge = EDGE_SECONDS * rate
    with audio.open("rb") as raw:
        if file.format == "OGG":
            if not containers.ogg_ends(raw):
                _fail_cut_short(audio, "its last page lacks the end-of-stream mark")
        elif file.format == "MP3":
            counted = containers.mp3_samples_without_header(raw)
            if counted is not None:
                if not counted[1]:
                    _fail_cut_short(audio, "its last MP3 frame is incomplete")
                if counted[0] > num_frames + edge:
                    seconds = f"{num_frames / rate:.2f} s of {counted[0] / rate:.2f} s"
                    problem = f"is an MP3 without a length header: only {seconds} would be read"
                    _fail(audio, problem, _convert(audio))
                num_frames = min(num_frames, counted[0])
        missing = containers.missing_share(raw)
    if num_frames >= MAX_FRAMES:
        # soundfile seeks after each read, and libsndfile cannot in such a file.
        _fail(audio, "is a stream whose header gives no length", _convert(audio))
    if num_frames <= 0:
        _fail(audio, "holds no samples", "fetch it again or remove its row")
    if missing * num_frames > edge:
        promised = f"{num_frames * (1 + missing) / rate:.2f} s"
        _fail_cut_short(audio, f"its header promises {promised} and {num_frames / rate:.2f} s are there")
    return num_frames


def _check_span(audio: Path, first: int, last: int, num_frames: int, rate: int) -> None:
    remedy = "correct start, end or duration in the manifest"
    seconds = f"the file is {num_frames / rate:.2f} s long"
    if first >= num_frames:
        _fail(audio, f"the span starts at {first / rate:.2f} s and {seconds}", remedy)
    if last > num_frames + EDGE_SECONDS * rate:
        _fail(audio, f"the span ends at {last / rate:.2f} s and {seconds}", remedy)
    if last <= first:
        _fail(audio, f"the span from {first / rate:.2f} to {last / rate:.2f} s holds no samples", remedy)


def _read(audio: Path, file: Any, num_frames: int) -> Waveform:
    """`num_frames` from here; fewer if the file ends before that."""
    block_frames = max(1, BLOCK_SAMPLES // file.channels)
    blocks: list[Waveform] = []
    left = num_frames
    while left > 0:
        wanted = min(left, block_frames)
        block = file.read(wanted, dtype="float32", always_2d=True)
        if not np.isfinite(block).all():
            _fail(audio, "holds samples that are NaN or infinite", "repair or replace it")
        with np.errstate(over="ignore"):  # the result is looked at once more, by load_waveform
            blocks.append(block[:, 0] if block.shape[1] == 1 else block.mean(axis=1, dtype=np.float32))
        left -= wanted
        if len(block) < wanted:
            break
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def _convert(audio: Path) -> str:
    return f"convert it, e.g. ffmpeg -i {audio.name} -ar 16000 out.wav"


def _fail_cut_short(audio: Path, reason: str) -> NoReturn:
    _fail(audio, f"is cut short ({reason})", f"fetch it again or, if it is whole, {_convert(audio)}")


def _fail(audio: Path, problem: str, remedy: str) -> NoReturn:
    message = f"{audio}: {problem}; {remedy}"
    raise AudioError("".join(char if char.isprintable() else repr(char)[1:-1] for char in message)) from None
