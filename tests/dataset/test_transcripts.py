"""Targets with timestamps and previous texts: what a decoder reads from them is what was said, and when."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whispertune.data.utterances import TimedText, Utterance
from whispertune.dataset.transcripts import TextSettings, timed_ids
from whispertune.dataset.windows import Window
from whispertune.text.targets import IGNORE_INDEX, Target
from whispertune.text.tokenizer import Tokenizer

RATE = 16_000
BEGIN = 1000
"""<|0.00|> of the arithmetic alone."""


def utterance(name: str, text: str, **fields: object) -> Utterance:
    return Utterance(id=name, audio=Path("a.wav"), text=text, **fields)  # type: ignore[arg-type]


def read_target(target: Target, tokenizer: Tokenizer) -> list[TimedText]:
    """The segments that a target says, in seconds, read as openai-whisper reads a model's output."""
    found: list[TimedText] = []
    ids = list(target.input_ids[target.prompt_length :])
    while ids:
        assert ids[0] >= tokenizer.timestamp_begin
        end = next(i for i, token in enumerate(ids[1:], 1) if token >= tokenizer.timestamp_begin)
        times = [0.02 * (ids[i] - tokenizer.timestamp_begin) for i in (0, end)]
        found.append(TimedText(*times, tokenizer.decode(ids[1:end])))
        ids = ids[end + 1 :]
    return found


SPANS = st.lists(st.tuples(st.floats(0, 31), st.floats(0, 31)), max_size=12)


@given(SPANS)
def test_timestamps_never_go_back_and_stay_within_30_seconds(spans: list[tuple[float, float]]) -> None:
    """Whatever the spans are; those in the order of time are rounded to 0.02 s."""
    ids = timed_ids([(start, end, [7]) for start, end in spans], BEGIN)
    stamps = [token - BEGIN for token in ids if token != 7]
    assert len(stamps) == 2 * len(spans)
    assert all(0 <= a <= b <= 1500 for a, b in pairwise(stamps))
    assert all(end > start or end == 1500 for start, end in zip(stamps[::2], stamps[1::2], strict=True))
    assert ids[1::3] == [7] * len(spans)


ORDERED = st.lists(st.floats(0, 30), min_size=2, max_size=16, unique=True).map(sorted)


@given(ORDERED)
def test_known_times_are_off_by_rounding_alone(times: list[float]) -> None:
    spans = [(a, b) for a, b in zip(times[::2], times[1::2], strict=False) if b - a > 0.04]
    spans = [span for before, span in zip([(0.0, -1.0), *spans], spans, strict=False) if span[0] - before[1] > 0.04]
    stamps = [token - BEGIN for token in timed_ids([(*span, []) for span in spans], BEGIN)]
    for index, time in zip(stamps, (time for span in spans for time in span), strict=True):
        assert abs(0.02 * index - time) <= 0.01 + 1e-9


TEXTS = st.lists(
    st.text(st.characters(codec="ascii", categories=["L"]), min_size=1, max_size=12), min_size=2, max_size=6
)


@settings(deadline=None)
@given(TEXTS, st.data())
def test_a_stitched_target_says_texts_and_times(
    text: TextSettings, tokenizer: Tokenizer, texts: list[str], data: st.DataObject
) -> None:
    lengths = data.draw(st.lists(st.integers(RATE // 4, 3 * RATE), min_size=len(texts), max_size=len(texts)))
    count = len(texts) - 1
    pauses = data.draw(st.lists(st.floats(0, 1), min_size=count, max_size=count))
    lead = data.draw(st.floats(0, 1))
    members = tuple(utterance(f"u{n}", words) for n, words in enumerate(texts))
    window = Window("w", members, tuple(pauses), lead, tuple(lengths), timestamps=True)
    target = text.target(window)
    assert list(target.input_ids[: target.prompt_length]) == tokenizer.prompt_tokens("it", timestamps=True)
    assert tokenizer.no_timestamps not in target.input_ids
    found = read_target(target, tokenizer)
    assert [segment.text for segment in found] == [f" {words}" for words in texts]
    at = lead
    for segment, pause, length in zip(found, (0.0, *pauses), lengths, strict=True):
        assert segment.start == pytest.approx(at + pause, abs=0.011)
        assert segment.end == pytest.approx(at + pause + length / RATE, abs=0.011)
        at += pause + length / RATE
    plain = text.target(Window("w", members, tuple(pauses), lead, tuple(lengths)))
    # Text in both, the prompt's <|notimestamps|> in one, and two timestamps for each segment in the other.
    assert len(target.input_ids) == len(plain.input_ids) - 1 + 2 * len(texts)
    assert target.num_target_tokens == plain.num_target_tokens + 2 * len(texts)
    assert target.labels[-1] == tokenizer.eot


def test_joined_segments_keep_their_own_times(text: TextSettings, tokenizer: Tokenizer) -> None:
    segments = (TimedText(0.0, 1.0, "uno"), TimedText(1.5, 2.0, ""), TimedText(2.5, 4.01, "due"))
    joined = utterance("talk+2", "uno due", start=10.0, end=14.01, segments=segments)
    window = Window("talk+2", (joined,), num_samples=(4 * RATE,), timestamps=True)
    assert [(s.start, s.end, s.text) for s in window.segments()] == [(0.0, 1.0, "uno"), (2.5, 4.0, "due")]
    found = read_target(text.target(window), tokenizer)
    assert found == [(0.0, 1.0, " uno"), (pytest.approx(2.5), pytest.approx(4.0), " due")]
    # Played at 0.8 times the speed, all of it takes 1.25 times as long.
    assert [s[:2] for s in window.segments([5 * RATE])] == [(0.0, 1.25), (3.125, 5.0)]
    # Behind another utterance it begins later.
    pair = Window("w", (utterance("u", "prima"), joined), (0.5,), 0.25, (RATE, 4 * RATE), True)
    assert [s[:2] for s in pair.segments()] == [(0.25, 1.25), (1.75, 2.75), (4.25, 5.75)]
    assert [s[:2] for s in pair.segments([2 * RATE, 4 * RATE])] == [(0.25, 2.25), (2.75, 3.75), (5.25, 6.75)]


def test_timestamps_that_do_not_fit_are_left_out(text: TextSettings, tokenizer: Tokenizer) -> None:
    def target(letters: int) -> Target:
        members = (utterance("a", "a" * letters), utterance("b", "b" * 200))
        return text.target(Window("w", members, (0.1,), 0.0, (RATE, RATE), timestamps=True))

    fits, too_long = target(200), target(239)
    assert tokenizer.no_timestamps not in fits.input_ids
    assert tokenizer.no_timestamps in too_long.input_ids
    assert max(too_long.input_ids) < tokenizer.timestamp_begin
    assert len(too_long.input_ids) == 4 + 240 + 201


@settings(deadline=None)
@given(st.integers(1, 600), st.integers(1, 440), st.booleans())
def test_a_previous_text_is_cut_at_its_beginning(
    text: TextSettings, tokenizer: Tokenizer, before: int, said: int, timestamps: bool
) -> None:
    """At most 223 tokens, within 448 in all, without loss; the end of it stands right before the start."""
    previous = "".join(chr(97 + n % 26) for n in range(before))
    window = Window(
        "w", (utterance("u", "x" * said),), num_samples=(RATE,), timestamps=timestamps, previous_text=previous
    )
    target = text.target(window)
    start = target.input_ids.index(tokenizer.sot)
    ids = list(target.input_ids[:start])
    plain = text.target(Window("w", window.utterances, num_samples=(RATE,), timestamps=timestamps))
    assert target.input_ids[start:] == plain.input_ids
    assert target.num_target_tokens == plain.num_target_tokens
    assert set(target.labels[:start]) <= {IGNORE_INDEX}
    room = min(223, 448 - len(plain.input_ids) - 1)
    if room <= 0:
        assert ids == []
    else:
        assert ids == [tokenizer.sot_prev, *tokenizer.encode(f" {previous}")[-room:]]
    assert len(target.input_ids) == len(target.labels) <= 448


def test_a_rows_own_prompt_goes_before_a_previous_text(text: TextSettings, tokenizer: Tokenizer) -> None:
    own = Window("w", (utterance("u", "detto", prompt="mio"),), previous_text="altro")
    assert tokenizer.decode(list(text.target(own).input_ids[:5])) == " mio"
    members = (utterance("u", "detto", prompt="mio"), utterance("v", "poi"))
    stitched = Window("w", members, (0.1,), previous_text="altro")
    ids = list(text.target(stitched).input_ids)
    assert tokenizer.decode(ids[: ids.index(tokenizer.sot)]) == " altro"
