"""Times in a text, as Whisper's own tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whispertune.data.segments import merge_segments
from whispertune.data.timed_text import TimedText, parse_times, write_times
from whispertune.data.utterances import Utterance, Utterances


@pytest.mark.parametrize(
    ("text", "plain", "segments"),
    [
        ("<|0.00|>uno<|2.00|>", "uno", [(0, 2, "uno")]),
        (" <|0.00|> uno <|1.00|><|1.50|> due tre<|30.00|> ", "uno due tre", [(0, 1, "uno"), (1.5, 30, "due tre")]),
        ("<|0.00|> uno<|1.00|> due<|2.00|>", "uno due", [(0, 1, "uno"), (1, 2, "due")]),
        ("<|0.00|> uno<|1.00|><|1.00|>", "uno", [(0, 1, "uno")]),  # a window that goes on
        ("<|0.00|><|2.00|>", "", []),
        ("<|0.00|> <|it|> uno<|1.00|>", "<|it|> uno", [(0, 1, "<|it|> uno")]),
    ],
)
def test_times_that_parse(text: str, plain: str, segments: list[tuple[float, float, str]]) -> None:
    assert parse_times(text) == (plain, tuple(TimedText(*segment) for segment in segments))


@pytest.mark.parametrize(
    "text",
    [
        "uno", "a < b | c", "<|it|>uno", "<|0.00|>uno", "uno<|1.00|>", "<|2.00|>uno<|1.00|>", "<|1.00|>uno<|1.00|>",
        "<|0.00|>uno<|31.00|>", "<|0.0|>uno<|1.0|>", "<|0.00|>uno<|1.00|>due",
    ],
)  # fmt: skip
def test_a_text_whose_times_do_not_parse_stays_as_it_is(text: str) -> None:
    assert parse_times(text) == (text, ())


@given(st.lists(st.tuples(st.integers(1, 140), st.integers(0, 100), st.text("abcèß ", min_size=1)), max_size=8))
def test_written_times_parse_to_the_same(parts: list[tuple[int, int, str]]) -> None:
    segments, at = [], 0
    for length, pause, text in parts:
        segments.append(TimedText((at + pause) / 50, (at + pause + length) / 50, text.strip() or "x"))
        at += pause + length
    segments = [segment for segment in segments if segment.end <= 30]
    found = parse_times(write_times(segments))[1]
    assert [(f"{s.start:.2f}", f"{s.end:.2f}", s.text) for s in found] == [
        (f"{s.start:.2f}", f"{s.end:.2f}", s.text) for s in segments
    ]


def test_utterances_come_with_their_segments_and_without_the_times() -> None:
    timed = Utterance(
        id="a", audio=Path("a"), text="<|0.00|>uno<|1.00|><|1.50|>due<|2.00|>", prompt="<|0.00|>o<|1.00|>"
    )
    plain = Utterance(id="b", audio=Path("b"), text="tre")
    rows = Utterances([timed, plain])
    assert (rows[0].text, rows[0].prompt, rows[0].segments) == ("uno due", "o", parse_times(timed.text)[1])
    assert rows.strings(range(2))[2] == ["uno due", "tre"]
    assert rows.strings(range(1, 2))[2] == ["tre"]
    assert (rows.has_segments, Utterances([plain]).has_segments) == (True, False)
    assert Utterances(rows) == rows
    assert Utterances.from_columns(rows.columns()) == rows


def test_joined_rows_keep_the_times_within_each() -> None:
    texts = ["<|0.50|>uno<|1.00|><|1.50|>due<|2.00|>", "tre", "<|0.20|>quattro<|0.80|>"]
    rows = Utterances(
        Utterance(id=str(n), audio=Path("a"), text=text, start=3.0 * n, end=3.0 * n + 2.0)
        for n, text in enumerate(texts)
    )
    (joined,) = merge_segments(rows, 30.0, lambda _: True)
    assert joined.text == "uno due tre quattro"
    assert joined.segments == ((0.5, 1, "uno"), (1.5, 2, "due"), (3, 5, "tre"), (6.2, 6.8, "quattro"))
