"""Words with times and confidence, from the times of their tokens: openai-whisper's rules (`timing.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from whispertune.decoding.alignment import TokenTimes
from whispertune.decoding.segmentation import Span
from whispertune.text.tokenizer import Tokenizer
from whispertune.text.words import split_words

BEFORE_A_WORD = "\"'“¿([{-"
AFTER_A_WORD = "\"'.。,，!！?？:：”)]}、"  # noqa: RUF001 - as written in Chinese and Japanese
"""Punctuation that belongs to the word after it, and to the word before it."""
SENTENCE_ENDS = ".。!！?？"  # noqa: RUF001
LONGEST_MEDIAN = 0.7
"""Seconds: most that the median duration of a word is taken to be. A word beside a pause lasts at most twice that."""
TRUSTED_WITHIN = 0.5
"""Seconds by which a segment's own times may differ from those of its words before they replace them."""


@dataclass(frozen=True, slots=True)
class Word:
    """start, end: seconds; text: as emitted, with its leading space and punctuation; confidence: 0 to 1, the mean
    probability of its tokens."""

    start: float
    end: float
    text: str
    confidence: float


@dataclass(slots=True)
class _Timed:
    """A word in progress; times in seconds from the beginning of its window, later from that of the recording."""

    text: str
    start: float
    end: float
    confidence: float

    @property
    def duration(self) -> float:
        return self.end - self.start


def words_of_spans(
    spans: Sequence[Span], times: TokenTimes, tokenizer: Tokenizer, language: str | None, *, begin: float, spoken: float
) -> list[tuple[float, float, tuple[Word, ...]]]:
    """Start, end (seconds) and words of each span of a window; the times of spans follow those of their words.

    times: of all text tokens of the spans. language: of the text. begin: of the window; spoken: where the speech
    before it ended; both in seconds of the recording.
    """
    timed: list[list[_Timed]] = []
    first = 0
    for span in spans:
        timed.append([])
        for text, tokens in split_words(tokenizer.text_of(span.tokens), tokenizer, language):
            last = first + len(tokens)
            confidence = float(times.probs[first:last].mean())
            timed[-1].append(_Timed(text, float(times.bounds[first]), float(times.bounds[last]), confidence))
            first = last
    every = [word for words in timed for word in words]
    durations = [word.duration for word in every if word.duration]
    median = min(LONGEST_MEDIAN, float(np.median(durations))) if durations else 0.0
    if durations:
        _shorten_at_sentence_ends(every, 2 * median)
    found: list[tuple[float, float, tuple[Word, ...]]] = []
    for span, parts in zip(spans, timed, strict=True):
        words = _with_punctuation(parts)
        for word in words:
            word.start, word.end = round(begin + word.start, 2), round(begin + word.end, 2)
        start, end = begin + span.start, begin + span.end
        if words:
            start, end = _fit(words, start, end, spoken, median)
            spoken = end
        found.append((start, end, tuple(Word(w.start, w.end, w.text, w.confidence) for w in words)))
    return found


def _shorten_at_sentence_ends(words: Sequence[_Timed], longest: float) -> None:
    """Whatever silence follows or precedes a sentence's end does not belong to the words there."""
    for before, word in pairwise(words):
        if word.duration > longest:
            if word.text in SENTENCE_ENDS:
                word.end = word.start + longest
            elif before.text in SENTENCE_ENDS:
                word.start = word.end - longest


def _with_punctuation(words: Sequence[_Timed]) -> list[_Timed]:
    """The words with the punctuation that belongs to them."""
    after = len(words) - 1
    for place in range(len(words) - 2, -1, -1):
        mark, word = words[place], words[after]
        if mark.text.startswith(" ") and mark.text.strip() in BEFORE_A_WORD:
            mark.text, word.text = "", mark.text + word.text
        else:
            after = place
    before = 0
    for place in range(1, len(words)):
        word, mark = words[before], words[place]
        if not word.text.endswith(" ") and mark.text in AFTER_A_WORD:
            mark.text, word.text = "", word.text + mark.text
        else:
            before = place
    return [word for word in words if word.text]


def _fit(words: Sequence[_Timed], start: float, end: float, spoken: float, median: float) -> tuple[float, float]:
    """Shorten words that stretch into the silence around a segment; returns the segment's start and end."""
    first, last, longest = words[0], words[-1], 2 * median
    second = words[1] if len(words) > 1 else None
    if first.end - spoken > 4 * median and (
        first.duration > longest or (second is not None and second.end - first.start > 2 * longest)
    ):
        if second is not None and second.duration > longest:
            first.end = second.start = max(second.end / 2, second.end - longest)
        first.start = max(0, first.end - longest)
    if start < first.end and start - TRUSTED_WITHIN > first.start:
        first.start = max(0, min(first.end - median, start))
    else:
        start = first.start
    if end > last.start and end + TRUSTED_WITHIN < last.end:
        last.end = max(last.start + median, end)
    else:
        end = last.end
    return start, end
