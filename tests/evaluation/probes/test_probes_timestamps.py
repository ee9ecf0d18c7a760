"""Timestamps of outputs: their grammar, and their distance from known boundaries, computed by hand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whispertune.data.utterances import TimedText, Utterance
from whispertune.dataset.splits import Split
from whispertune.dataset.transcripts import TextSettings
from whispertune.dataset.windows import single_windows
from whispertune.evaluation.error_rates import score_corpus
from whispertune.evaluation.probes.timestamps import (
    TimestampResult,
    boundary_errors,
    read_output,
    windows_with_boundaries,
)
from whispertune.text.tokenizer import Tokenizer

RATE = 16_000


def tokens(tokenizer: Tokenizer, *parts: float | str) -> list[int]:
    """Numbers are timestamps, seconds; strings are text."""
    return [
        token
        for part in parts
        for token in (tokenizer.encode(part) if isinstance(part, str) else [tokenizer.timestamp(part)])
    ]


@pytest.mark.parametrize(
    ("parts", "broken"),
    [
        ((0.0, " uno", 2.0, 2.5, " due", 5.0), None),
        ((0.0, " uno", 2.0, 2.0), None),  # more follows behind the window
        ((), None),
        ((0.0,), None),
        ((0.0, " uno"), "paired"),
        ((" uno",), "paired"),
        ((0.0, " uno", 2.0, " due", 3.0), "paired"),
        ((0.0, 1.0, " uno", 2.0), "paired"),
        ((3.0, " uno", 2.0), "monotonic"),
        ((0.0, " uno", 9.0, 8.0, " due", 9.5), "monotonic"),
        ((0.0, " uno", 10.08), None),  # at the edge
        ((0.0, " uno", 10.12), "inside"),
    ],
)
def test_what_makes_an_output_valid(tokenizer: Tokenizer, parts: tuple[float | str, ...], broken: str | None) -> None:
    output = read_output(tokens(tokenizer, *parts), tokenizer, 10.0)
    kept = {"monotonic": output.monotonic, "paired": output.paired, "inside": output.inside}
    assert [name for name, holds in kept.items() if not holds] == ([broken] if broken else [])
    assert output.valid == (broken is None)


def test_segments_are_read_with_their_texts(tokenizer: Tokenizer) -> None:
    output = read_output(tokens(tokenizer, 0.5, " uno", 2.0, 2.5, " due tre", 5.0, 5.0, " e"), tokenizer, 10.0)
    assert [(round(s.start, 2), round(s.end, 2), s.text) for s in output.segments] == [
        (0.5, 2.0, "uno"), (2.5, 5.0, "due tre")
    ]  # fmt: skip


def test_boundary_errors_by_hand() -> None:
    known = [TimedText(0.0, 2.0, ""), TimedText(3.0, 5.0, ""), TimedText(6.0, 9.0, "")]
    predicted = [TimedText(0.1, 2.3, ""), TimedText(3.7, 9.0, "")]
    errors, found = boundary_errors(known, predicted)
    # Starts 0.1 and 0.7 off, ends 0.3 and 0.0; of the six known ones 0.0, 2.0 and 9.0 have one within half a second.
    assert sorted(errors) == pytest.approx([0.0, 0.1, 0.3, 0.7])
    assert found == 3
    nothing, found = boundary_errors(known, [])
    assert (len(nothing), found) == (0, 0)


@given(st.lists(st.floats(0, 30), min_size=2, max_size=12).map(sorted))
def test_what_is_known_exactly_has_no_error(times: list[float]) -> None:
    known = [TimedText(a, b, "") for a, b in zip(times[::2], times[1::2], strict=False)]
    errors, found = boundary_errors(known, known)
    assert found == 2 * len(known) == len(errors)
    assert not errors.any()


def test_the_summary_is_of_all_windows(tokenizer: Tokenizer) -> None:
    outputs = [read_output(tokens(tokenizer, *parts), tokenizer, 10.0) for parts in ((0.0, " a", 1.0), (0.0, " a"))]
    errors, _ = boundary_errors([TimedText(0, 1.5, "a")], outputs[0].segments)
    score = score_corpus(["1", "2"], ["a", "a"], ["a", "b"], ["it", "it"])
    summary = TimestampResult(outputs, errors, 0.25, score).summary()
    assert summary["valid"] == summary["paired"] == 0.5
    assert summary["monotonic"] == summary["inside"] == 1.0
    assert summary["boundary_error_mean"] == summary["boundary_error_median"] == pytest.approx(0.25)
    assert (summary["wer"], summary["boundaries_found"], summary["boundaries"]) == (0.5, 0.25, 2)
    silent = TimestampResult(outputs, errors[:0], 0.0, score).summary()
    assert silent["boundary_error_mean"] is silent["boundary_error_median"] is None


def split_of(text: TextSettings, seconds: list[float], languages: list[str]) -> Split:
    utterances = [
        Utterance(id=f"u{n}", audio=Path("a.wav"), text=f"frase {n}", language=language)
        for n, language in enumerate(languages)
    ]
    windows = single_windows(utterances)
    targets = [text.target(window) for window in windows]
    samples = [round(RATE * s) for s in seconds]
    return Split("data", windows, samples, targets, languages, {}, [], len(windows))


@given(
    st.lists(st.tuples(st.floats(0.1, 30), st.sampled_from(["it", "de"])), min_size=1, max_size=30), st.integers(0, 99)
)
def test_every_clip_stands_in_one_window(text: TextSettings, clips: list[tuple[float, str]], seed: int) -> None:
    split = split_of(text, [seconds for seconds, _ in clips], [language for _, language in clips])
    windows = windows_with_boundaries(split, text, seed)
    members = [utterance.id for window in windows for utterance in window.utterances]
    assert Counter(members) == Counter(window.id for window in split.windows)
    for window in windows:
        assert len({utterance.language for utterance in window.utterances}) == 1
        assert window.total_samples <= (29 if len(window.utterances) > 1 else 30) * RATE
        assert all(0.3 <= pause <= 1.5 for pause in window.pauses)
        assert 0 <= window.lead <= 1
        assert len(window.segments()) == len(window.utterances)
    assert windows == windows_with_boundaries(split, text, seed)


def test_windows_are_filled(text: TextSettings) -> None:
    windows = windows_with_boundaries(split_of(text, [2.0] * 90, ["it"] * 90), text, 0)
    assert 9 <= len(windows) <= 11  # 2 s and 0.9 s of pause each
