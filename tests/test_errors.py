"""A message is one line that a terminal can show, whatever stands in the user's files."""

from __future__ import annotations

import pickle

from hypothesis import given
from hypothesis import strategies as st

from whispertune.errors import MOST_CHARACTERS, ManifestError, UserError, WhispertuneError


@given(st.text(st.characters(), max_size=3 * MOST_CHARACTERS) | st.integers(0, 10**6).map(lambda n: "x\n" * n))
def test_a_message_is_one_bounded_line(message: str) -> None:
    said = str(UserError(message))
    assert len(said) <= MOST_CHARACTERS
    assert said.isprintable()
    if message.isprintable() and len(message) <= MOST_CHARACTERS:
        assert said == message


def test_of_a_long_message_file_and_remedy_are_left() -> None:
    said = str(ManifestError("a.csv, row 1: no text column among " + "column, " * 100_000 + "; rename one to text"))
    assert said.startswith("a.csv, row 1: no text column among column, ")
    assert said.endswith("; rename one to text")


def test_what_would_steer_a_terminal_is_shown_as_an_escape() -> None:
    assert str(WhispertuneError("a\x1b[2Jb\nc\udcff: no such file")) == "a\\x1b[2Jb\\nc\\udcff: no such file"
    assert str(pickle.loads(pickle.dumps(ManifestError("a\nb")))) == "a\\nb"
