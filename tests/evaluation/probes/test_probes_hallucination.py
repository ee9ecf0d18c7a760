"""What is counted as hallucination, by hand and with a random model."""

from __future__ import annotations

import pytest

from whispertune.decoding.rules import Hypothesis
from whispertune.evaluation.probes.hallucination import Hallucination, SoundResult, count_stuck


def test_words_an_hour_by_hand() -> None:
    sounds = [SoundResult("hum", 60.0, 3, 12, ["a b", "c"]), SoundResult("clicks", 60.0, 0, 0, ["", ""])]
    found = Hallucination(sounds, 4, 1, 2)
    assert [sound.words_per_hour for sound in sounds] == [180.0, 0.0]
    assert found.insertions_per_hour == 90.0
    summary = found.summary()
    assert (summary["repetition_rate"], summary["capped_rate"]) == (0.25, 0.5)
    assert summary["sounds"]["hum"]["insertions_per_hour"] == 180.0
    assert summary["sounds"]["hum"]["texts"] == ["a b", "c"]


@pytest.mark.parametrize(
    ("tokens", "loops"),
    [
        ([7] * 16, True),
        ([1, 2, 3, *[7] * 16, 4, 5], True),  # it came out of it again
        ([1, 2, 3, 4, 5] * 4, True),
        ([7] * 15, False),
        ([1, 2, 3, 4, 5] * 3, False),
        (list(range(100)), False),
        ([], False),
    ],
)
def test_a_loop_counts_wherever_it_stands(tokens: list[int], loops: bool) -> None:
    assert Hypothesis(tuple(tokens), 0.0).repeats == loops


def test_loops_and_caps_are_counted_apart() -> None:
    hypotheses = [
        Hypothesis((7,) * 20, 0.0),
        Hypothesis((7,) * 20, 0.0, ended=False),
        Hypothesis((7,), 0.0, ended=False, looped=True),
        Hypothesis((1, 2, 3), 0.0),
        Hypothesis((1, 2, 3), 0.0, ended=False),
    ]
    assert count_stuck(hypotheses) == (3, 2)
