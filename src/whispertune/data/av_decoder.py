"""Recordings that libsndfile cannot read (m4a, mp4, webm, mkv, aac), through FFmpeg by way of PyAV."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

AAC = (b"\xff\xf1", b"\xff\xf9", b"\xff\xf0", b"\xff\xf8")  # ADTS
LEAD_SECONDS = 0.2  # decoded before a span: a codec's frames lean on those before them


class AvError(Exception):
    """Why a recording cannot be decoded; `remedy` if there is one besides converting it."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem)
        self.remedy = remedy


def needs_av(head: bytes) -> bool:
    """Whether a file that begins with these (12) bytes is MP4 or QuickTime, Matroska or WebM, or bare AAC."""
    return head[4:8] in (b"ftyp", b"moov", b"mdat") or head.startswith((b"\x1aE\xdf\xa3", *AAC))


def probe_with_av(file: BinaryIO | Path) -> tuple[int, int]:
    """Samples per channel and sample rate; all of it is decoded if the file does not say.

    Raises:
        AvError: if it can't be told.
    """
    _, rate, num_frames = decode_with_av(file, None, 0.0)
    return num_frames, rate


def decode_with_av(
    file: BinaryIO | Path, start: float | None, end: float | None
) -> tuple[npt.NDArray[np.float32], int, int]:
    """The span `start` to `end` (seconds) as (channels, samples), the sample rate, and the samples in the whole file.

    Decoding begins shortly before the span. A `start` of None decodes nothing, if the file gives its length.

    Raises:
        AvError: if PyAV is missing, or the file has no sound, or cannot be decoded.
    """
    try:
        av: Any = importlib.import_module("av")
    except ImportError:
        raise AvError("is of a kind that needs PyAV", "install whispertune[av]") from None
    try:
        with av.open(file if not isinstance(file, Path) else str(file), metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise AvError("holds no sound")
            stream = container.streams.audio[0]
            if stream.codec_context is None:  # then its attributes raise AttributeError
                raise AvError("holds sound in an unknown codec")
            rate = int(stream.rate or 0)
            if rate <= 0:
                raise AvError("gives no sample rate")
            total = _length(container, stream, rate)
            if start is None and total is not None:
                return np.zeros((1, 0), np.float32), rate, total
            first = round((start or 0.0) * rate)
            last = None if end is None or start is None or total is None else round(end * rate)
            if first:
                place = max(0.0, (start or 0.0) - LEAD_SECONDS) / stream.time_base
                container.seek(int(place) + max(0, stream.start_time or 0), stream=stream)
            samples, reached = _decode(av, container, stream, rate, first, last)
            return samples, rate, total if total is not None else reached
    except AvError:
        raise
    except (av.FFmpegError, ValueError, OverflowError, MemoryError) as error:
        raise AvError(f"cannot be decoded ({' '.join(str(error).split())[:120]})") from None


def _length(container: Any, stream: Any, rate: int) -> int | None:
    if stream.duration is not None:
        seconds = float(stream.duration * stream.time_base)
        return round(seconds * rate)
    if container.duration is not None:
        microseconds = float(container.duration)
        return round(microseconds / 1e6 * rate)
    return None


def _decode(
    av: Any, container: Any, stream: Any, rate: int, first: int, last: int | None
) -> tuple[npt.NDArray[np.float32], int]:
    """Samples `first` to `last` of the stream, (channels, samples), and where decoding came to."""
    resampler = av.AudioResampler(format="fltp", rate=rate)
    blocks: list[npt.NDArray[np.float32]] = []
    origin = max(0, stream.start_time or 0)  # below 0 lies what the decoder skips
    begin = position = None
    for frame in container.decode(stream):
        at = position or 0 if frame.pts is None else round(float((frame.pts - origin) * frame.time_base) * rate)
        for part in resampler.resample(frame):
            block = part.to_ndarray()
            if at + block.shape[1] > first:
                if begin is None:
                    begin = at
                blocks.append(block)
            at += block.shape[1]
        position = at
        if last is not None and at >= last:
            break
    if begin is None or not blocks or any(len(block) != len(blocks[0]) for block in blocks):
        return np.zeros((1, 0), np.float32), position or 0
    samples = np.concatenate(blocks, axis=1)
    skip = max(0, first - begin)
    return samples[:, skip : None if last is None else skip + last - max(first, begin)], position or 0
