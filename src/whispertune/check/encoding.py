"""Detect text that was damaged by a wrong encoding: è as Ã¨, or a replacement character."""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import numpy.typing as npt

from whispertune.check.scripts import LAST

QUOTES = frozenset("\u2018\u2019\u201a\u201c\u201d\u201e\u2039\u203a«»\u2013\u2014\u2026")
"""These also follow letters in intact text (`Spaß“`), so they are evidence only after Â, Ã and â."""
SURE_LEADS = frozenset("ÂÃâ")
LOST_SPACE = re.compile(r"[a-z]Ã(?![a-zÀ-ÿ])")
"""à is C3 A0: Ã and a no-break space, which is often replaced by a plain space or stripped."""


def _characters(codec: str, first: int, last: int) -> frozenset[str]:
    """The characters that the bytes `first` to `last` are decoded to; undefined bytes become control characters."""
    return frozenset(bytes([byte]).decode(codec, "ignore") or chr(byte) for byte in range(first, last + 1))


# Lead and continuation bytes of UTF-8 as decoded by each codec. For the old PC and Mac encodings only the lead byte of
# Latin letters (C3, a box or a root sign), as the others are quotes and letters that occur together in intact text.
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
    """Bit masks by code point, one bit per codec: whether it is a lead, and whether it is a continuation."""
    tables = np.zeros((2, LAST), np.uint8)
    for bit, codec in enumerate(LEADS):
        for table, characters in zip(tables, (LEADS[codec], CONTINUATIONS[codec]), strict=True):
            table[[ord(char) for char in characters]] |= 1 << bit
    return tables[0], tables[1]


def looks_misread(codes: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
    """(n,) for code points (n,): whether a lead is followed by a continuation of the same codec, or it is Ã."""
    leads, continuations = _tables()
    found: npt.NDArray[np.bool_] = codes == ord("Ã")
    found[:-1] |= (leads[codes[:-1]] & continuations[codes[1:]]) != 0
    return found


def encoding_damage(text: str) -> str:
    """Describe how a wrong encoding has damaged a text; "" if it has not.

    Detects characters that no text should hold (replacement, private use, controls), and UTF-8 decoded as another
    encoding, whose bytes then decode as UTF-8 again.
    """
    for char in text:
        if char == "\ufffd" or "\ue000" <= char <= "\uf8ff":
            return f"holds {char!r} (U+{ord(char):04X}), in place of a character that was lost"
    for codec in LEADS:
        mended = [(i, char) for i in range(len(text) - 1) if (char := _mended(text, i, codec))]
        # The leads of cp1251 are Cyrillic letters, so a quarter of the non-ASCII text must be such pairs.
        if mended and (codec != "cp1251" or 4 * len(mended) >= sum(char > "\x7f" for char in text)):
            at, char = mended[0]
            return f"{text[at : at + len(char.encode())]!r} was {char!r}, until UTF-8 was read as {codec}"
    if lost := LOST_SPACE.search(text):
        return f"{lost.group()!r}: UTF-8 was read as cp1252"
    return next((f"holds the control character {char!r}" for char in text if "\x80" <= char < "\xa0"), "")


def _mended(text: str, at: int, codec: str) -> str:
    """The character whose UTF-8 bytes, decoded as `codec`, start at `at`; "" if there is none."""
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
    # Chance pairs of a letter and a sign end up in rare scripts, which are therefore ignored.
    likely = "\xa0" <= char <= "\u024f" or "\u0370" <= char <= "\u06ff" or char >= "\u0900"
    return char if likely else ""


def _byte(char: str, codec: str) -> bytes:
    try:
        return char.encode(codec)
    except UnicodeEncodeError:
        return char.encode("latin-1")
