"""What is corrected: segments of recordings, as values that are checked when they are made."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, Literal, get_args

Status = Literal["todo", "done", "skip", "unusable"]
STATUSES: tuple[str, ...] = get_args(Status)
SHORTEST = 0.02
"""Seconds that a segment lasts at least."""
MOST_CHARACTERS = 10_000
"""Of a text or note."""
UNPRINTABLE = re.compile("[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")
"""Control characters, line ends and lone surrogates, which a manifest cannot hold."""
SPACELESS = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uff60]")
"""Thai, Lao, Burmese, Khmer, Chinese and Japanese: written without spaces between words."""


class EditError(ValueError):
    """An edit that cannot be made; the message is shown on the page."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word with its times (seconds in the recording) and the model's confidence in it, 0 to 1, if known."""

    start: float
    end: float
    text: str
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Recording:
    """audio: absolute path. duration: seconds. fault: why it cannot be played, if so."""

    audio: str
    duration: float
    channel: int | None = None
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a recording and its transcript.

    recording: its index. start, end: seconds. confidence: of the model in the text, 0 to 1. rank: place in the order
    of correction, which the parts of a divided segment share; score: what that order follows from. hypothesis: what a
    model transcribes. further: other columns of its row, which are kept.
    """

    id: str
    recording: int
    start: float
    end: float
    text: str
    speaker: str | None = None
    language: str | None = None
    words: tuple[Word, ...] = ()
    confidence: float | None = None
    hypothesis: str | None = None
    note: str = ""
    status: Status = "todo"
    rank: int = 0
    score: float | None = None
    further: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """All fields that differ from their defaults, as JSON."""
        return {name: value for name, value in asdict(self).items() if name not in DEFAULTS or value != DEFAULTS[name]}


FIELDS = tuple(entry.name for entry in fields(Segment))
DEFAULTS: dict[str, Any] = {"further": {}} | {
    entry.name: entry.default for entry in fields(Segment) if entry.default is not MISSING
}


def segment_of(values: Mapping[str, Any]) -> Segment:
    """The inverse of `as_json`."""
    words = tuple(word if isinstance(word, Word) else Word(**word) for word in values.get("words", ()))
    return Segment(**{**{name: values[name] for name in FIELDS if name in values}, "words": words})


def clean_text(given: object) -> str:
    """A text or note from outside, on one line.

    Raises:
        EditError: if it is no text, or too long.
    """
    if not isinstance(given, str):
        raise EditError("the text is not a string")
    if len(given) > MOST_CHARACTERS:
        raise EditError(f"the text is longer than {MOST_CHARACTERS:,} characters")
    return UNPRINTABLE.sub(" ", given)


def clean_time(given: object) -> float:
    """A time from outside, in seconds rounded to milliseconds.

    Raises:
        EditError: if it is no finite number.
    """
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
        raise EditError("the time is not a number")
    return round(float(given), 3)


def joined_texts(first: str, second: str) -> str:
    """Two texts as one, with a space between them unless their script has none."""
    first, second = first.rstrip(), second.lstrip()
    spaceless = bool(first and second and SPACELESS.match(first[-1]) and SPACELESS.match(second[0]))
    return first + second if spaceless or not first or not second else f"{first} {second}"


def places_of(words: Sequence[Word], text: str) -> list[tuple[int, int, Word]]:
    """(begin, end, word) of the words that stand in the text, in their order; offsets in characters."""
    found, at = [], 0
    for word in words:
        bare = word.text.strip()
        begin = text.find(bare, at) if bare else -1
        if begin >= 0:
            at = begin + len(bare)
            found.append((begin, at, word))
    return found


def kept_words(words: Sequence[Word], old: str, new: str) -> tuple[Word, ...]:
    """The words outside the stretch in which two texts differ; those that were changed lose time and confidence."""
    if not words or old == new:
        return tuple(words)
    shorter = min(len(old), len(new))
    head = next((n for n in range(shorter) if old[n] != new[n]), shorter)
    tail = next((n for n in range(shorter - head) if old[-1 - n] != new[-1 - n]), shorter - head)
    behind = len(old) - tail

    def stays(begin: int, end: int) -> bool:
        if end <= head:  # not where letters were added to its end
            return end < head or not new[head : head + 1].isalnum()
        return begin >= behind and (begin > behind or not new[len(new) - tail - 1 : len(new) - tail].isalnum())

    return tuple(word for begin, end, word in places_of(words, old) if stays(begin, end))
