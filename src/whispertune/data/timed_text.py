"""Times in a text, as Whisper's own tokens: `<|0.00|> Ciao.<|1.20|><|1.80|> Come stai?<|3.00|>`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

TOKEN = re.compile(r"<\|[^<>|]{1,80}\|>")
"""What is written as Whisper's special tokens are."""
TIME = re.compile(r"<\|([0-9]{1,2}\.[0-9]{2})\|>")
LATEST = 30.0


class TimedText(NamedTuple):
    """What is said from `start` to `end` (seconds from the start of what it is a part of)."""

    start: float
    end: float
    text: str


def parse_times(text: str) -> tuple[str, tuple[TimedText, ...]]:
    """The text without the times in it, and what is said when; the text as it is, and nothing, where there are none.

    Every part of the text stands between two times, which rise from 0.00 to at most 30.00; one time may end a part and
    begin the next. Where that is not so the tokens stay, for `transcripts` to tell of.
    """
    if "<|" not in text:
        return text, ()
    before, *rest = TIME.split(text)
    times, parts = [float(time) for time in rest[::2]], [part.strip() for part in rest[1::2]]
    if not times or before.strip() or parts[-1] or times != sorted(times) or times[-1] > LATEST:
        return text, ()
    segments = tuple(TimedText(*found) for found in zip(times, times[1:], parts, strict=False) if found[2])
    if any(segment.end <= segment.start for segment in segments):
        return text, ()
    return " ".join(segment.text for segment in segments), segments


def plain_text(text: str) -> str:
    """The text without the times in it."""
    return parse_times(text)[0]


def write_times(segments: Iterable[TimedText]) -> str:
    """Segments as a text that `parse_times` takes apart again."""
    return "".join(f"<|{start:.2f}|>{text}<|{end:.2f}|>" for start, end, text in segments)
