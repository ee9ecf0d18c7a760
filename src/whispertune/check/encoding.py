"""Text that a wrong encoding has spoilt: è as Ã¨, or a replacement character."""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import numpy.typing as npt

from whispertune.check.scripts import LAST

QUOTES = frozenset("\u2018\u2019\u201a\u201c\u201d\u201e\u2039\u203a«»\u2013\u2014\u2026")
"""Stand behind a letter in sound text too (`Spaß“`), so they prove something only behind Â, Ã and â."""
SURE_LEADS = frozenset("ÂÃâ")
LOST_SPACE = re.compile(r"[a-z]Ã(?![a-zÀ-ÿ])")
"""à is C3 A0, Ã and a no-break space, which is often made a plain one or stripped."""


def _characters(codec: str, first: int, last: int) -> frozenset[str]:
    """What the bytes `first` to `last` are read as; those that a codec leaves undefined come through as controls."""
    return frozenset(bytes([byte]).decode(codec, "ignore") or chr(byte) for byte in range(first, last + 1))


# Lead bytes and continuation bytes of UTF-8, as each codec reads them. Of the old PC and Mac encodings only the lead
# of Latin letters (C3, a box or a root sign): their others are quotes and letters that stand together in sound text.
LEADS = {
    "cp1252": _characters("cp1252", 0xC2, 0xF4),
    "cp1251": _characters("cp1251", 0xD0, 0xD1),
    "cp437": frozenset("├"),
    "mac_roman": frozenset("√"),
}
CONTINUATIONS = {codec: _characters(codec, 0x80, 0xBF) for codec in LEADS}
CONTINUATIONS["cp1252"] |= _characters("latin-1", 0x80, 0xBF)


@cache
def _tables() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """A bit a codec: whether a code point is its lead, or its continuation."""
    tables = np.zeros((2, LAST), np.uint8)
    for bit, codec in enumerate(LEADS):
        for table, characters in zip(tables, (LEADS[codec], CONTINUATIONS[codec]), strict=True):
            table[[ord(char) for char in characters]] |= 1 << bit
    return tables[0], tables[1]


def looks_misread(codes: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
    """Of code points (n,): where a lead is followed by a continuation of the same codec, or Ã stands."""
    leads, continuations = _tables()
    found: npt.NDArray[np.bool_] = codes == ord("Ã")
    found[:-1] |= (leads[codes[:-1]] & continuations[codes[1:]]) != 0
    return found


def encoding_damage(text: str) -> str:
    """What a wrong encoding has done to a text, or "".

    Characters that no text holds (replacement, private use, controls); or UTF-8 read as another encoding, which
    shows in that its bytes decode as UTF-8 once more.
    """
    for char in text:
        if char == "\ufffd" or "\ue000" <= char <= "\uf8ff":
            return f"holds {char!r} (U+{ord(char):04X}), which stands for a character that was lost"
    for codec in LEADS:
        mended = [(i, char) for i in range(len(text) - 1) if (char := _mended(text, i, codec))]
        # The leads of cp1251 are Cyrillic letters themselves: there most of the text must be such pairs.
        if mended and (codec != "cp1251" or 4 * len(mended) >= sum(char > "\x7f" for char in text)):
            at, char = mended[0]
            return f"{text[at : at + len(char.encode())]!r} was {char!r}, until UTF-8 was read as {codec}"
    if lost := LOST_SPACE.search(text):
        return f"{lost.group()!r}: UTF-8 was read as cp1252"
    return next((f"holds the control character {char!r}" for char in text if "\x80" <= char < "\xa0"), "")


def _mended(text: str, at: int, codec: str) -> str:
    """The character whose UTF-8 bytes, read as `codec`, begin at `at`; "" if none do."""
    if text[at] not in LEADS[codec] or text[at + 1] not in CONTINUATIONS[codec]:
        return ""
    if text[at + 1] in QUOTES and text[at] not in SURE_LEADS and codec == "cp1252":
        return ""
    try:
        first = _byte(text[at], codec)[0]
        size = 2 if first < 0xE0 else 3 if first < 0xF0 else 4
        char = b"".join(_byte(letter, codec) for letter in text[at : at + size]).decode("utf-8")
    except (UnicodeEncodeError, UnicodeDecodeError):
        return ""
    # Not the scripts that nobody's corpus is likely to hold: there chance pairs of letter and sign end up.
    likely = "\xa0" <= char <= "\u024f" or "\u0370" <= char <= "\u06ff" or char >= "\u0900"
    return char if likely else ""


def _byte(char: str, codec: str) -> bytes:
    try:
        return char.encode(codec)
    except UnicodeEncodeError:
        return char.encode("latin-1")
