"""Classes of characters (letter of a script, digit, symbol, damage), and the scripts of languages."""

from __future__ import annotations

import unicodedata
from functools import cache

import numpy as np
import numpy.typing as npt

SCRIPTS: dict[str, tuple[tuple[int, int], ...]] = {
    "Latin": ((0x41, 0x24F), (0x250, 0x2AF), (0x1D00, 0x1DBF), (0x1E00, 0x1EFF), (0x2C60, 0x2C7F), (0xA720, 0xA7FF),
              (0xFB00, 0xFB06), (0xFF21, 0xFF5A)),
    "Greek": ((0x370, 0x3FF), (0x1F00, 0x1FFF)),
    "Cyrillic": ((0x400, 0x52F), (0x1C80, 0x1C8F), (0x2DE0, 0x2DFF), (0xA640, 0xA69F)),
    "Armenian": ((0x530, 0x58F),),
    "Hebrew": ((0x590, 0x5FF), (0xFB1D, 0xFB4F)),
    "Arabic": ((0x600, 0x6FF), (0x750, 0x77F), (0x8A0, 0x8FF), (0xFB50, 0xFDFF), (0xFE70, 0xFEFC)),
    "Thaana": ((0x780, 0x7BF),),
    "Devanagari": ((0x900, 0x97F), (0xA8E0, 0xA8FF)),
    "Bengali": ((0x980, 0x9FF),),
    "Gurmukhi": ((0xA00, 0xA7F),),
    "Gujarati": ((0xA80, 0xAFF),),
    "Oriya": ((0xB00, 0xB7F),),
    "Tamil": ((0xB80, 0xBFF),),
    "Telugu": ((0xC00, 0xC7F),),
    "Kannada": ((0xC80, 0xCFF),),
    "Malayalam": ((0xD00, 0xD7F),),
    "Sinhala": ((0xD80, 0xDFF),),
    "Thai": ((0xE00, 0xE7F),),
    "Lao": ((0xE80, 0xEFF),),
    "Tibetan": ((0xF00, 0xFFF),),
    "Myanmar": ((0x1000, 0x109F), (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F)),
    "Georgian": ((0x10A0, 0x10FF), (0x1C90, 0x1CBF), (0x2D00, 0x2D2F)),
    "Hangul": ((0x1100, 0x11FF), (0x3130, 0x318F), (0xAC00, 0xD7FF)),
    "Ethiopic": ((0x1200, 0x139F), (0x2D80, 0x2DDF)),
    "Cherokee": ((0x13A0, 0x13FF),),
    "Khmer": ((0x1780, 0x17FF),),
    "Mongolian": ((0x1800, 0x18AF),),
    "Tifinagh": ((0x2D30, 0x2D7F),),
    "Kana": ((0x3040, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9D)),
    "Han": ((0x3005, 0x3007), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF)),
}  # fmt: skip
"""Blocks of the Unicode standard that hold a script's letters."""

NAMES = ("", *SCRIPTS, "another")
"""By class number: 1 to N are letters of a script, the last one letters of any other script."""
OTHER = len(NAMES) - 1
ANY, DIGIT, SYMBOL, BRACKET, DAMAGE = 60, 61, 62, 63, 64
"""Letters and marks of any script (º, combining accents); digits; symbols; []<>{}; damaged characters."""
LAST = 0x323B0

_LANGUAGES = {
    "Cyrillic": "ru uk bg mk be kk mn tg tt ba sr bs uz tk az ky",
    "Latin": "sr bs uz tk az ms ha kk",
    "Greek": "el",
    "Armenian": "hy",
    "Hebrew": "he yi",
    "Arabic": "ar fa ur ps sd ms ha pa az",
    "Devanagari": "hi mr ne sa sd",
    "Bengali": "bn as",
    "Gurmukhi": "pa",
    "Gujarati": "gu",
    "Tamil": "ta",
    "Telugu": "te",
    "Kannada": "kn",
    "Malayalam": "ml",
    "Sinhala": "si",
    "Thai": "th",
    "Lao": "lo",
    "Tibetan": "bo",
    "Myanmar": "my",
    "Georgian": "ka",
    "Hangul": "ko",
    "Ethiopic": "am",
    "Khmer": "km",
    "Mongolian": "mn",
    "Kana": "ja",
    "Han": "ja zh yue ko",
}

FASTEST = {"Han": 13.0, "Kana": 20.0, "Hangul": 15.0, "Ethiopic": 18.0, "": 35.0}
"""Letters per second that are impossible over a whole utterance. Pellegrino et al. 2019 found 4 to 9 syllables per
second in 17 languages; a Han or Hangul character is about one syllable, one of Ethiopic or kana a little less, and
alphabets take 2 to 4 letters per syllable."""


def scripts_of(language: str) -> frozenset[int]:
    """Class numbers of the scripts that a language of Whisper's (a code) is written in."""
    named = [script for script, codes in _LANGUAGES.items() if language in codes.split()]
    return frozenset(NAMES.index(script) for script in named or ["Latin"])


@cache
def classes() -> npt.NDArray[np.uint8]:
    """Class of each code point up to U+323AF; 0 for space and punctuation."""
    table = np.zeros(LAST, np.uint8)
    script = np.full(LAST, OTHER, np.uint8)
    for number, blocks in enumerate(SCRIPTS.values(), start=1):
        for first, last in blocks:
            script[first : last + 1] = number
    for code in range(0xFFFE):
        table[code] = _class(code, int(script[code]))
    for code in (*range(0x10000, 0x20000),):
        table[code] = SYMBOL if 0x1F000 <= code < 0x1FB00 else OTHER if chr(code).isalpha() else 0
    table[0x20000:LAST] = script[0x20000:LAST]
    return table


def _class(code: int, script: int) -> int:
    category = unicodedata.category(chr(code))
    if chr(code) in "<>[]{}":
        return BRACKET
    if category[0] == "L":
        return ANY if category == "Lm" or code in (0xAA, 0xBA, 0xB5) else script
    if category[0] == "M":
        return ANY if script == OTHER else script
    if category == "Nd":
        return DIGIT
    if code == 0xFFFD or category in ("Co", "Cs", "Cn") or 0x80 <= code < 0xA0:
        return DAMAGE
    # Not Sk: modifier symbols are used as accents and apostrophes in hand-typed text.
    return SYMBOL if category in ("Sm", "Sc", "So") or chr(code) in "%&@#*/\\_" else 0


@cache
def lower() -> npt.NDArray[np.uint32]:
    """Lower-case code point of each code point."""
    table = np.arange(LAST, dtype=np.uint32)
    for code in range(0x1E944):
        small = chr(code).lower()
        if len(small) == 1:
            table[code] = ord(small)
    return table
