"""Words that matter to the user, from a text file."""

from __future__ import annotations

from pathlib import Path

from whispertune.data.text_files import read_text
from whispertune.errors import RecipeError

REMEDY = "write one word or phrase a line"


def read_glossary(path: str) -> list[str]:
    """The words and phrases of a text file, one a line; empty lines, and lines that begin with #, are ignored.

    Raises:
        UserError: if it cannot be read as text, or has no words.
    """
    lines = [" ".join(line.split()) for line in read_text(Path(path), empty=REMEDY).splitlines()]
    words = list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if not words:
        raise RecipeError(f"{path} has no words; {REMEDY}", field="glossary")
    return words
