"""Times in a text, as Whisper's own tokens: `<|0.00|> Ciao.<|1.20|><|1.80|> Come stai?<|3.00|>`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

TOKEN = re.compile(r"<\|[^<>|]{1,80}\|>")
"""Anything that looks like one of Whisper's special tokens."""
TIME = re.compile(r"<\|([0-9]{1,2}\.[0-9]{2})\|>")
LATEST = 30.0


class TimedText(NamedTuple):
    """Text spoken from `start` to `end`, in seconds from the start of the utterance or window it belongs to."""

    start: float
    end: float
    text: str


def parse_times(text: str) -> tuple[str, tuple[TimedText, ...]]:
    """The text without its timestamp tokens, and its timed parts (empty if it has no timestamps).

    Every part of the text must stand between two times, which rise from 0.00 to at most 30.00; one time may end a part
    and begin the next. Otherwise the text is returned as it is, tokens included, and `transcripts` reports it.
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
    """The text without its timestamp tokens."""
    return parse_times(text)[0]


def write_times(segments: Iterable[TimedText]) -> str:
    """Segments as one text with timestamp tokens; the inverse of `parse_times`."""
    return "".join(f"<|{start:.2f}|>{text}<|{end:.2f}|>" for start, end, text in segments)
