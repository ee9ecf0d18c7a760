"""A message is one line that a terminal can show, whatever stands in the user's files."""

from __future__ import annotations

import pickle

from hypothesis import given
from hypothesis import strategies as st

from whispertune.errors import MOST_CHARACTERS, CheckpointError, ManifestError, RecipeError, UserError, WhispertuneError


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


def test_an_error_carries_its_field_and_what_is_wrong_with_it() -> None:
    recipe = RecipeError("is 0; it must be at least 1", field="search.beam_size")
    assert str(recipe) == "search.beam_size is 0; it must be at least 1"
    row = ManifestError("-1 is negative", file="a.csv", row=3, field="start")
    assert str(row) == "a.csv, row 3, field 'start': -1 is negative"
    model = CheckpointError("m: is damaged", remedy="copy it again")
    assert str(model) == "m: is damaged; copy it again"
    for error, carried in (
        (recipe, {"field": "search.beam_size", "problem": "is 0; it must be at least 1"}),
        (row, {"file": "a.csv", "row": 3, "field": "start", "problem": "-1 is negative"}),
        (model, {"problem": "m: is damaged", "remedy": "copy it again"}),
    ):
        again = pickle.loads(pickle.dumps(error))  # as it goes from one process to another
        assert (str(again), type(again)) == (str(error), type(error))
        assert carried.items() <= vars(error).items()
        assert vars(again) == vars(error)
