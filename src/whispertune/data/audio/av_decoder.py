"""Decode recordings that libsndfile cannot read (m4a, mp4, webm, mkv, aac) with FFmpeg, through PyAV."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

AAC = (b"\xff\xf1", b"\xff\xf9", b"\xff\xf0", b"\xff\xf8")  # ADTS
LEAD_SECONDS = 0.2  # decoded before a span, as a codec's frames depend on those before them

Part = npt.NDArray[np.float32]  # (channels, samples)


class AvError(Exception):
    """A recording cannot be decoded; remedy: what to do, if not convert it."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem)
        self.remedy = remedy


def needs_av(head: bytes) -> bool:
    """Whether a file with these first 12 bytes is MP4 or QuickTime, Matroska or WebM, or raw AAC."""
    return head[4:8] in (b"ftyp", b"moov", b"mdat") or head.startswith((b"\x1aE\xdf\xa3", *AAC))


def probe_with_av(file: BinaryIO | Path) -> tuple[int, int]:
    """Samples per channel and sample rate (Hz). The whole file is decoded to count them if its header has no length.

    Raises:
        AvError: if PyAV is missing, or the file has no audio stream or cannot be decoded.
    """
    with _opened(file) as sound:
        total = _length(sound)
        if total is None:
            total = 0
            for at, part in _parts(sound):
                total = at + part.shape[1]
        return total, sound.rate


def channels_with_av(file: BinaryIO | Path) -> int:
    """Number of channels of a recording; raises AvError as `probe_with_av` does."""
    with _opened(file) as sound:
        return int(sound.stream.codec_context.layout.nb_channels)


def decode_with_av(file: BinaryIO | Path, start: float, end: float) -> Part:
    """The span `start` to `end` (seconds) as (channels, samples); fewer samples if the recording ends earlier.

    Only the span and a little audio before it are decoded.

    Raises:
        AvError: as `probe_with_av` does.
    """
    with _opened(file) as sound:
        first = round(start * sound.rate)
        if first:
            place = max(0.0, start - LEAD_SECONDS) / sound.stream.time_base
            sound.container.seek(int(place) + max(0, sound.stream.start_time or 0), stream=sound.stream)
        parts = list(_span(sound, first, round(end * sound.rate)))
        return np.concatenate(parts, axis=1) if parts else np.zeros((1, 0), np.float32)


def stream_with_av(file: BinaryIO | Path, num_frames: int, size: int) -> Iterator[Part]:
    """Yield the first `num_frames` samples in parts of (channels, at least `size`); the last part may be smaller.

    There are fewer samples in all if the recording ends earlier.

    Raises:
        AvError: as `probe_with_av` does; for damage in the middle, when it is reached.
    """
    with _opened(file) as sound:
        parts: list[Part] = []
        held = 0
        for part in _span(sound, 0, num_frames):
            parts.append(part)
            held += part.shape[1]
            if held >= size:
                yield np.concatenate(parts, axis=1)
                parts, held = [], 0
        if parts:
            yield np.concatenate(parts, axis=1)


@dataclass(slots=True)
class _Sound:
    """A file's first audio stream, and its sample rate (Hz)."""

    container: Any
    stream: Any
    rate: int
    resampler: Any


@contextmanager
def _opened(file: BinaryIO | Path) -> Iterator[_Sound]:
    """The file's audio stream; decoding errors are raised as AvError."""
    try:
        av: Any = importlib.import_module("av")
    except ImportError:
        raise AvError("has a format that needs PyAV", "install whispertune[av]") from None
    try:
        with av.open(file if not isinstance(file, Path) else str(file), metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise AvError("has no audio stream")
            stream = container.streams.audio[0]
            if stream.codec_context is None:  # its attributes would raise AttributeError
                raise AvError("uses an unknown audio codec")
            rate = int(stream.rate or 0)
            if rate <= 0:
                raise AvError("has no sample rate")
            yield _Sound(container, stream, rate, av.AudioResampler(format="fltp", rate=rate))
    except AvError:
        raise
    except (av.FFmpegError, ValueError, OverflowError, MemoryError) as error:
        raise AvError(f"cannot be decoded ({' '.join(str(error).split())[:120]})") from None


def _length(sound: _Sound) -> int | None:
    """Samples per channel according to the header, if it has a reliable length."""
    stream, container = sound.stream, sound.container
    kind = container.format.name
    # FFmpeg silently estimates it from the bit rate: of raw AAC, and of Matroska without a length where the codec has
    # a constant bit rate (PCM, AC-3).
    if kind == "aac" or (kind.startswith("matroska") and stream.bit_rate):
        return None
    if stream.duration is not None:
        seconds = float(stream.duration * stream.time_base)
        return round(seconds * sound.rate)
    if container.duration is not None:
        microseconds = float(container.duration)
        return round(microseconds / 1e6 * sound.rate)
    return None


def _span(sound: _Sound, first: int, last: int) -> Iterator[Part]:
    """Yield samples `first` to `last`, decoding from the current position."""
    left = None
    for at, part in _parts(sound):
        end = at + part.shape[1]
        if left is None:
            if end <= first:
                continue
            left = last - max(first, at)
            part = part[:, max(0, first - at) :]
        if left <= 0:
            return
        yield part[:, :left]
        left -= part.shape[1]
        if end >= last:
            return


def _parts(sound: _Sound) -> Iterator[tuple[int, Part]]:
    """Yield (position in samples, part) for each frame from the current position on."""
    origin = max(0, sound.stream.start_time or 0)  # the decoder skips what lies below 0
    at = channels = 0
    for frame in sound.container.decode(sound.stream):
        if frame.pts is not None:
            at = round(float((frame.pts - origin) * frame.time_base) * sound.rate)
        for resampled in sound.resampler.resample(frame):
            part = resampled.to_ndarray()
            channels = channels or len(part)
            if len(part) != channels:
                raise AvError("changes its number of channels")
            yield at, part
            at += part.shape[1]
