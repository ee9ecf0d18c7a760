"""Rewrite transcripts by the rules of `text.*`: how the model is to write, not what is said."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from pathlib import Path

from whispertune.errors import RecipeError
from whispertune.text.languages import WRITTEN_WITHOUT_SPACES
from whispertune.text.options import TextOptions

MOST_BYTES = 16 << 20
QUOTES = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u02bc\u0060\u00b4\uff07", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb\uff02", '"')
)
"""The letter U+02BC counts as an apostrophe, as which it is mostly typed; U+02BB, the okina of Hawaiian, stays."""
SPOKEN = frozenset("%‰&@#/§")
"""Marks of punctuation, by their Unicode category, that are read aloud."""
JOINING = frozenset("'\u2019-\u2010\u2011\u00b7\u30fb\u05f3\u05f4\u05be\u0f0b")
"""Marks that belong to a word if they stand within one: apostrophes, hyphens, middle dots, geresh, tsheg."""
WITHIN = frozenset("\u055b\u055c\u055e")
"""Armenian marks that stand above a letter of the word: they leave no space."""


@dataclass(frozen=True, slots=True)
class TextRules:
    """The rules of a recipe. table: replacements, in the Unicode form of the rules."""

    options: TextOptions
    table: tuple[tuple[str, str], ...] = ()
    patterns: dict[bool, Callable[[str], str]] = field(default_factory=dict, compare=False, repr=False)
    """Cache of what replaces the table's entries, by whether longer ones have to be whole words."""

    def __call__(self, text: str, language: str) -> str:
        """The text as it is to be written, perhaps with a space at its ends. language: code of the text's language."""
        return self.applied(text, language)[0]

    def applied(self, text: str, language: str) -> tuple[str, list[str]]:
        """The same, and the names of the rules that changed the text or, of digits, apply to it."""
        names = []
        for name, rule in self._rules(language):
            before, text = text, rule(text)
            if text != before:
                names.append(name)
        if self.options.digits == "flag" and any(char.isdigit() for char in text):
            names.append("digits")
        return text, names

    def _rules(self, language: str) -> Iterator[tuple[str, Callable[[str], str]]]:
        options = self.options
        if options.unicode != "keep":
            yield "unicode", self._normalized
        if self.table:
            yield "replacements", self._replacing(words=language not in WRITTEN_WITHOUT_SPACES)
        if options.quotes == "unify":
            yield "quotes", lambda text: text.translate(QUOTES)
        if options.punctuation == "drop":
            yield "punctuation", without_punctuation
        if options.case == "lower":
            yield "case", lambda text: lower(text, language)

    def _normalized(self, text: str) -> str:
        form = self.options.unicode
        return text if form == "keep" else unicodedata.normalize(form, text)

    def _replacing(self, *, words: bool) -> Callable[[str], str]:
        if words not in self.patterns:
            table = dict(self.table)
            longest_first = sorted(table, key=len, reverse=True)
            pattern = re.compile("|".join(_entry(entry) if words else re.escape(entry) for entry in longest_first))
            self.patterns[words] = lambda text: pattern.sub(lambda match: table[match[0]], text)
        return self.patterns[words]


def lower(text: str, language: str) -> str:
    """Lower case, with the dotless i of Turkish and Azerbaijani."""
    if language in ("tr", "az"):
        text = text.replace("I", "\u0131")
    return text.replace("İ", "i").lower()


def without_punctuation(text: str) -> str:
    """Drop punctuation (Unicode category P), but not what belongs to a word or a number (see `text.punctuation`)."""
    kept: list[str] = []
    for before, char, after in zip(f" {text}", text, f"{text[1:]} ", strict=False):
        joins = char in JOINING and _in_word(before) and _in_word(after)
        in_number = before.isdigit() and after.isdigit()
        if unicodedata.category(char)[0] != "P" or char in SPOKEN or joins or in_number:
            kept.append(char)
        elif char not in WITHIN:
            kept.append(" ")
    return re.sub(r"\s+", " ", "".join(kept))


def read_rules(options: TextOptions) -> TextRules | None:
    """The rules of a recipe; None if it has none.

    Raises:
        RecipeError: if the replacements cannot be read.
    """
    if not options.changes_text and options.digits == "keep":
        return None
    rules = TextRules(options)
    if options.replacements is None:
        return rules
    return TextRules(options, tuple(_read_table(Path(options.replacements), rules._normalized)))


def _read_table(path: Path, normalized: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    def refused(problem: str) -> RecipeError:
        return RecipeError(f"is {path}; {problem}", field="text.replacements")

    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise refused(f"it is over {MOST_BYTES >> 20} MB, so it is no table of replacements")
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise refused(f"it cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise refused("it is not UTF-8; save it as UTF-8") from None
    seen: dict[str, int] = {}
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), start=1):
        if not line.strip():
            continue
        written, *rest = normalized(line).split("\t")
        if len(rest) != 1 or not written:
            raise refused(
                f"row {number} is {line[:40]!r}: write what stands in the text, one tab, and what replaces it"
            )
        if written in seen:
            raise refused(f"row {number} replaces {written[:40]!r} again, as row {seen[written]} does; remove one")
        seen[written] = number
        yield written, rest[0]
    if not seen:
        raise refused("it has no rows")


def _in_word(char: str) -> bool:
    return unicodedata.category(char)[0] in "LMN"


def _entry(entry: str) -> str:
    """Pattern for an entry of the table: of more than one character it has to be a whole word, or several."""
    if len(entry) == 1:
        return re.escape(entry)
    inside = f"[{_word_characters()}]"
    before = f"(?<!{inside})" if _in_word(entry[0]) else ""
    return before + re.escape(entry) + (f"(?!{inside})" if _in_word(entry[-1]) else "")


@cache
def _word_characters() -> str:
    """Letters, marks and digits, for a character class (Python's \\w lacks marks, which Indic words are full of)."""
    marks = (code for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code))[0] == "M")
    runs = ([code for _, code in run] for _, run in groupby(enumerate(marks), key=lambda item: item[1] - item[0]))
    return r"\w" + "".join(f"{chr(run[0])}-{chr(run[-1])}" for run in runs)
