"""The audio that the page plays: a stretch of a recording, decoded, as a WAV of 16 kHz.

What is sent is always decoded samples, never a file as it is; all formats that can be trained on are played, the
chosen channel alone, and a time on the page is the same sample as in training.
"""

from __future__ import annotations

import io
import re
import wave
from functools import lru_cache
from pathlib import Path

import numpy as np

from whispertune.correct.segments import EditError, Recording
from whispertune.data.audio.waveforms import SAMPLE_RATE, load_waveform

MOST_SECONDS = 300.0
"""Longest stretch that is sent at once: 10 MB."""
HEADER_BYTES = 44
RANGE = re.compile(r"bytes=([0-9]{0,15})-([0-9]{0,15})")


@lru_cache(maxsize=4)
def wav_of(recording: Recording, start: float, end: float) -> bytes:
    """The stretch from `start` to `end` (seconds), within the recording, as a WAV file.

    Raises:
        EditError: if it is longer than `MOST_SECONDS` or outside the recording.
        AudioError: if it cannot be decoded.
    """
    end = min(end, recording.duration)
    if not 0 <= start < end or end - start > MOST_SECONDS + 0.001:  # but for rounding
        raise EditError("no such stretch of the recording")
    whole = end >= recording.duration - 0.001
    waveform = load_waveform(Path(recording.audio), start, None if whole else end, channel=recording.channel)
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((waveform.clip(-1, 1) * 32_767).astype("<i2").tobytes())
    return content.getvalue()


def peaks_of(wav: bytes, count: int) -> list[float]:
    """The largest magnitude in each of `count` parts of a WAV, 0 to 1."""
    samples = np.abs(np.frombuffer(wav, "<i2", offset=HEADER_BYTES).astype(np.int32))
    begins = np.unique(np.linspace(0, len(samples), count, endpoint=False).astype(int))
    return [round(peak / 32_768, 4) for peak in np.maximum.reduceat(samples, begins).tolist()]


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """(first, last + 1) of the bytes that a Range header asks for; None for all, as several ranges are not served.

    Raises:
        EditError: if they are outside.
    """
    match = RANGE.fullmatch((header or "").replace(" ", ""))
    if match is None or match[1] == match[2] == "":
        return None
    if match[1] == "":
        first, last = max(0, size - int(match[2])), size
    else:
        first, last = int(match[1]), min(size, int(match[2]) + 1) if match[2] else size
    if first >= last:
        raise EditError("no such bytes")
    return first, last
