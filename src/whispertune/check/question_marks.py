"""Distinguish question marks in place of letters (`sar? esattamente`) from those that end a question.

Software that writes text in an encoding without some of its letters replaces each by a question mark. A single row is
often ambiguous, but the words of its manifest help: `sar` occurs nowhere else, `stai` may.
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
"""Only texts that match this may hold a question mark in place of a letter."""
INSIDE, AT_END = re.compile(rf"{LETTER}\?+({LETTER})"), re.compile(rf"{LETTER}\?+$")
TOKENS = re.compile(r"\S+")
MASKED = re.compile(r"(?:[^\x00-\x7f]|\?)+")
EDGES = "\"'.,;:!()«»“”\u2018\u2019„…-\u2013\u2014¿¡"
VOCABULARY_ROWS = 100_000
"""Most rows of a manifest whose words are counted."""

_KNOWN = {
    "it": "sarà avrà potrà dovrà andrà verrà dirà può così perché poiché finché affinché benché più già "
    "giù cioè ciò città metà età libertà verità realtà società qualità quantità attività università possibilità novità "
    "difficoltà velocità lunedì martedì mercoledì giovedì venerdì caffè papà lassù laggiù quaggiù",
    "es": "está esté así aquí allí ahí todavía café mamá sofá jamás quizá también",
    "pt": "você está até já café avó avô amanhã irmã manhã alô",
    "fr": "voilà déjà delà café été",
    "ca": "això allò perquè també però demà",
}
"""Frequent words that are not words without their last letter."""
SPACED = ("fr", "br")
"""Languages that put a space before a question mark."""

Verdict = Literal["lost", "unclear"]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The vocabulary of one manifest.

    words: counts, without words next to a question mark. masked: their masks. spaced, joined: number of texts that end
    in a question mark after a space, and after a letter.
    """

    words: Counter[str]
    masked: dict[str, str]
    spaced: int
    joined: int

    def completes(self, token: str, language: str | None) -> str:
        """A word that `token` becomes if each `?` in it is replaced by letters that are not ASCII; or ""."""
        mask = _mask(token)
        return next((known[mask] for known in (self.masked, *_known(language)) if mask in known), "")

    def has(self, token: str) -> bool:
        """Whether all parts of a token between question marks are words."""
        return all(word in self.words for word in WORDS.findall(token.lower()))


def vocabulary(texts: Iterable[str]) -> Vocabulary:
    """The vocabulary of these texts."""
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
    """The word with each run of letters that are not ASCII replaced by a question mark."""
    return MASKED.sub("?", word.lower())


@cache
def _known(language: str | None) -> list[dict[str, str]]:
    """Masks of frequent words of a language, or of all languages."""
    return [{_mask(word): word for word in words.split()} for code, words in _KNOWN.items() if language in (code, None)]


def lost_letters(text: str, language: str | None, known: Vocabulary) -> tuple[Verdict, str] | None:
    """Whether a question mark in a text is in place of a letter, with a description; None if none is.

    language: a code, or None if unknown.
    """
    unclear = None
    for token, following in _marked(text):
        found = _judge(token, following, text, language, known)
        if found is not None and found[0] == "lost":
            return found
        unclear = unclear or found
    return unclear


def _marked(text: str) -> Iterator[tuple[str, str]]:
    """(token, first letter after it) for each token with a question mark."""
    tokens = TOKENS.findall(text)
    for number, token in enumerate(tokens):
        if "?" in token and "/" not in token and "=" not in token:  # not a URL
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
        # In this manifest nobody puts a space before a question mark.
        clear = known.joined > 0 or (language is not None and text.rstrip().endswith("."))
        return ("lost" if clear else "unclear"), "'?' is alone in mid-sentence"
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
