"""Question marks in place of letters (`sar? esattamente`), told from those that end a question.

Software that writes a text in an encoding without its letters puts a question mark for each. A row alone often can't
say which of the two a question mark is; the words of its manifest can: `sar` stands nowhere else, `stai` may.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

LETTER = r"[^\W\d_]"
WORDS = re.compile(rf"{LETTER}+")
SUSPECT = re.compile(rf"\?\s*{LETTER}|{LETTER}\?")
"""A text without this holds no question mark that may stand for a letter."""
INSIDE, AT_END = re.compile(rf"{LETTER}\?+({LETTER})"), re.compile(rf"{LETTER}\?+$")
TOKENS = re.compile(r"\S+")
MASKED = re.compile(r"(?:[^\x00-\x7f]|\?)+")
EDGES = "\"'.,;:!()«»“”\u2018\u2019„…-\u2013\u2014¿¡"
VOCABULARY_ROWS = 100_000
"""Rows of a manifest whose words are counted."""

_KNOWN = {
    "it": "sarà avrà potrà dovrà andrà verrà dirà può così perché poiché finché affinché benché più già "
    "giù cioè ciò città metà età libertà verità realtà società qualità quantità attività università possibilità novità "
    "difficoltà velocità lunedì martedì mercoledì giovedì venerdì caffè papà lassù laggiù quaggiù",
    "es": "está esté así aquí allí ahí todavía café mamá sofá jamás quizá también",
    "pt": "você está até já café avó avô amanhã irmã manhã alô",
    "fr": "voilà déjà delà café été",
    "ca": "això allò perquè també però demà",
}
"""Frequent words whose beginning, without the last letter, is no word."""
SPACED = ("fr", "br")
"""Languages that put a space before a question mark."""

Verdict = Literal["lost", "unclear"]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Of one manifest. words: how often each stands in texts, except beside a question mark. masked: their masks.
    spaced, joined: how many texts end in a question mark behind a space, and behind a letter."""

    words: Counter[str]
    masked: dict[str, str]
    spaced: int
    joined: int

    def completes(self, token: str, language: str | None) -> str:
        """A word that `token` becomes if letters that are not ASCII stand for each `?` in it; or ""."""
        mask = _mask(token)
        return next((known[mask] for known in (self.masked, *_known(language)) if mask in known), "")

    def has(self, token: str) -> bool:
        """Whether every part of a token between its question marks is a word."""
        return all(word in self.words for word in WORDS.findall(token.lower()))


def vocabulary(texts: Iterable[str]) -> Vocabulary:
    """Of these texts."""
    words: Counter[str] = Counter()
    spaced = joined = 0
    for text in texts:
        if "?" in text:
            spaced += text.rstrip().endswith(" ?")
            joined += re.search(rf"{LETTER}\?\W*$", text) is not None
            text = " ".join(token for token in text.split() if "?" not in token)
        words.update(WORDS.findall(text.lower()))
    return Vocabulary(words, {_mask(word): word for word in words if not word.isascii()}, spaced, joined)


def _mask(word: str) -> str:
    """A word with one question mark for letters that are not ASCII."""
    return MASKED.sub("?", word.lower())


@cache
def _known(language: str | None) -> list[dict[str, str]]:
    """Masks of frequent words of a language, or of all of them."""
    return [{_mask(word): word for word in words.split()} for code, words in _KNOWN.items() if language in (code, None)]


def lost_letters(text: str, language: str | None, known: Vocabulary) -> tuple[Verdict, str] | None:
    """Whether a question mark in a text stands for a letter, and which one is meant.

    language: a code, or None if unknown. None where all are question marks.
    """
    unclear = None
    for token, following in _marked(text):
        found = _judge(token, following, text, language, known)
        if found is not None and found[0] == "lost":
            return found
        unclear = unclear or found
    return unclear


def _marked(text: str) -> Iterator[tuple[str, str]]:
    """(token, the first letter of what follows it) of each token with a question mark."""
    tokens = TOKENS.findall(text)
    for number, token in enumerate(tokens):
        if "?" in token and "/" not in token and "=" not in token:  # no address
            yield token.strip(EDGES), next((char for char in "".join(tokens[number + 1 :]) if char.isalpha()), "")


def _judge(
    token: str, following: str, text: str, language: str | None, known: Vocabulary
) -> tuple[Verdict, str] | None:
    goes_on = following.islower()
    if not token.strip("?"):
        if token != "?" or not goes_on or text.lstrip().startswith("?") or known.spaced:
            return None
        if language in SPACED and not known.joined:
            return None
        # Nobody here puts a space before a question mark.
        clear = known.joined > 0 or (language is not None and text.rstrip().endswith("."))
        return ("lost" if clear else "unclear"), "'?' stands alone in mid-sentence"
    word = known.completes(token, language)
    inside = INSIDE.search(token)
    if inside is not None:
        return (
            ("lost", _describe(token, word)) if inside.group(1).islower() and (word or not known.has(token)) else None
        )
    if token.startswith("?"):
        if token[1:2].islower() and (word or not known.has(token)):
            return "lost", _describe(token, word)
        if language == "es" and text.count("?") > 1:
            return "lost", f"{token!r}: '?' in place of '¿'"
        return None
    if AT_END.search(token):
        if word and not known.has(token):
            return "lost", _describe(token, word)
        if goes_on and not known.has(token):
            return "unclear", f"{token!r} in mid-sentence"
    return None


def _describe(token: str, word: str) -> str:
    return f"{token!r}: '?' in place of a letter" + (f" (of {word!r}?)" if word else "")
