"""How the transcripts of an export are scored, and what is shown of those that differ."""

from __future__ import annotations

import numpy as np
import pytest

from whispertune.evaluation.verification import MOST_CHARACTERS, Clip, differing_stretches, scored

WORDS = [f"word{number}" for number in range(60)]


@pytest.mark.parametrize(("task", "wer"), [("translate", 0.0), ("transcribe", 2 / 4)])
def test_transcripts_are_normalised_as_the_language_they_are_written_in(task: str, wer: float) -> None:
    """A translation is English, where "don't" is "do not"; in Italian the apostrophe parts two words, "don" and "t"."""
    clip = Clip("a", np.zeros(1, np.float32), "it", "I don't know")
    assert scored([clip], ["I do not know"], task).wer == wer


def text(**changed: str) -> str:
    return " ".join(changed.get(word, word) for word in WORDS)


def test_short_texts_are_shown_whole() -> None:
    assert differing_stretches("one two", "one too") == ("one two", "one too")


@pytest.mark.parametrize(
    ("changed", "shown"),
    [
        ({"word30": "other"}, ("… word28 word29 word30 word31 word32 …", "… word28 word29 other word31 word32 …")),
        ({"word0": "other"}, ("word0 word1 word2 …", "other word1 word2 …")),
        ({"word59": "other"}, ("… word57 word58 word59", "… word57 word58 other")),
        (
            {"word30": "one more"},
            ("… word28 word29 word30 word31 word32 …", "… word28 word29 one more word31 word32 …"),
        ),
    ],
)
def test_long_texts_are_shown_where_they_differ(changed: dict[str, str], shown: tuple[str, str]) -> None:
    assert differing_stretches(text(), text(**changed)) == shown
    assert differing_stretches(text(**changed), text()) == shown[::-1]


def test_a_text_that_goes_on_where_the_other_ends() -> None:
    assert differing_stretches(text(), f"{text()} and more") == ("… word58 word59", "… word58 word59 and more")


def test_what_is_shown_is_bounded() -> None:
    one, other = differing_stretches(text(), " ".join(["loop"] * 400))
    assert one.startswith("word0 word1")
    assert other.startswith("loop loop")
    assert max(len(one), len(other)) < MOST_CHARACTERS + 10
