"""Normalise text for the normalised error rates."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import cache, lru_cache

from whispertune.errors import RecipeError
from whispertune.text.languages import WRITTEN_WITHOUT_SPACES, is_language_code, language_code

UNHEARD = frozenset("\u00ad\u200b\u200e\u200f\u2060\ufeff")
"""Soft hyphen, zero-width space, direction marks, word joiner, byte order mark (but no joiners of letters)."""


def basic_normalize(text: str) -> str:
    """Whisper's basic normaliser, except that combining marks stay on the letter they belong to.

    Lower case, NFKC; text in [], <> and () dropped; symbols and punctuation become spaces (Radford et
    al. 2022, appendix C). Whisper's own turns marks (Unicode category M) into spaces as well, which cuts
    words of Hindi, Tamil, Bengali, Thai or vocalised Arabic to pieces. Invisible characters are dropped. On text
    without these and, after NFKC, without marks the two are equal, down to a space at either end.
    """
    text = text.lower().replace("i\u0307", "i")  # Python's lower case of the Turkish 'İ'
    text = re.sub(r"[<\[][^>\]]*[>\]]", "", text)
    text = re.sub(r"\(([^)]+?)\)", "", text)
    kept: list[str] = []
    for char in unicodedata.normalize("NFKC", text):
        category = unicodedata.category(char)
        if char in UNHEARD or _is_variation_selector(char):
            continue  # they affect line breaks, direction or glyphs, not the words
        # A mark whose base was dropped (the ring around a symbol) would be left as a word of its own.
        orphan = category[0] == "M" and (not kept or kept[-1].isspace())
        kept.append(" " if category[0] in "SP" or category == "Me" or orphan else char)
    return re.sub(r"\s+", " ", "".join(kept).lower())


def normalizer_for(language: str) -> Callable[[str], str]:
    """The normaliser of a language: Whisper's English one for English, `basic_normalize` for all others.

    The result has no space at either end, and may be empty (text that is punctuation only). The English
    one is exactly Whisper's, even where it leaves a full stop of 'Well...' as a word of its own. `language` is a name
    or a code, possibly one that Whisper does not have; anything else raises RecipeError.
    """
    normalize = _english() if _known_code(language) == "en" else basic_normalize
    return lambda text: normalize(text).strip()


def leads_with_cer(language: str) -> bool:
    """Whether the language is written without spaces, so that its words can't be counted: lead with CER.

    Chinese, Cantonese, Japanese, Thai, Lao and Burmese (Radford et al. 2022, appendix C; openai-whisper).
    """
    return _known_code(language) in WRITTEN_WITHOUT_SPACES


@lru_cache(maxsize=1024)
def _known_code(language: str) -> str | None:
    """Whisper's code; None for a language that it does not have and that borrows another's token."""
    if is_language_code(language):  # a model's own code need not be ISO's
        try:
            return language_code(language)
        except RecipeError:
            return None
    return language_code(language)


def _is_variation_selector(char: str) -> bool:
    return "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef"


@cache
def _english() -> Callable[[str], str]:
    from whisper_normalizer.english import EnglishTextNormalizer  # slow to import; only English needs it

    normalize: Callable[[str], str] = EnglishTextNormalizer()
    return normalize
