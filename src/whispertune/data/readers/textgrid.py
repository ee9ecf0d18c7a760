"""Read Praat's TextGrids: long and short text format, UTF-8 and UTF-16.

As Praat reads them: numbers, "strings" and <flags> that stand free count, all else is a comment, so that both formats
are one. (Of a truncated file praatio 6.2 returns the part that is there; it stops at comments, without a line number.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from whispertune.data.readers.subtitles import Cue
from whispertune.data.readers.tiers import Tier
from whispertune.data.text_files import decode_text
from whispertune.errors import ManifestError

TOKEN = re.compile(
    r'"((?:[^"]|"")*)"|(?<!\S)([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)%?(?!\S)|(?<!\S)<(\w+)>(?!\S)|![^\n]*'
)
REMEDY = "save it in Praat as a text file (Save as text file…)"


def read_textgrid(source: str, content: bytes) -> list[Tier]:
    """The tiers of intervals; tiers of points have no spans, so they are left out.

    Raises:
        ManifestError: if it is no TextGrid in text form, or it ends too early, with the line.
    """
    if content.startswith(b"ooBinaryFile"):
        raise ManifestError(f"is a binary TextGrid; {REMEDY}", file=source)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = content.decode("utf-16", "replace")
    else:
        text = decode_text(source, content, empty=REMEDY)
    tokens = _Tokens(source, text)
    kind, what = tokens.string(), tokens.string()
    if not kind.startswith("ooTextFile") or what != "TextGrid":
        raise ManifestError(f"is not a TextGrid; {REMEDY}", file=source)
    tokens.number(), tokens.number()
    if tokens.flag() != "exists":
        return []
    tiers: list[Tier] = []
    for _ in range(tokens.count()):
        kind, tier = tokens.string(), Tier(tokens.string())
        if kind not in ("IntervalTier", "TextTier"):
            raise tokens.fault(f"a tier is {kind!r}, which is neither IntervalTier nor TextTier")
        tokens.number(), tokens.number()
        for _ in range(tokens.count()):
            start = tokens.number()
            row = tokens.row
            end = tokens.number() if kind == "IntervalTier" else start
            tier.spans.append(Cue(row, start, end, tokens.string(), None))
        if kind == "IntervalTier":
            tiers.append(tier)
    return tiers


class _Tokens:
    """The tokens of a text, and the line of the last one."""

    def __init__(self, source: str, text: str) -> None:
        self.row = 1
        self._source, self._at = source, 0
        self._text = text.replace("\r\n", "\n").replace("\r", "\n")
        self._found: Iterator[re.Match[str]] = TOKEN.finditer(self._text)

    def fault(self, problem: str) -> ManifestError:
        return ManifestError(f"{problem}; {REMEDY}", file=self._source, row=self.row)

    def _next(self, group: int, what: str) -> str:
        for match in self._found:
            if match.lastindex is None:  # a comment
                continue
            self.row += self._text.count("\n", self._at, match.start())
            self._at = match.start()
            if match.lastindex != group:
                raise self.fault(f"{match.group()[:40]!r} stands where {what} should")
            return match[group]
        raise self.fault(f"ends where {what} should follow: it was cut short")

    def string(self) -> str:
        return self._next(1, "a text in quotes").replace('""', '"')

    def number(self) -> float:
        return float(self._next(2, "a number"))

    def count(self) -> int:
        number = self.number()
        if number != int(number) or number < 0:
            raise self.fault(f"{number:g} is not a number of tiers or intervals")
        return int(number)

    def flag(self) -> str:
        return self._next(3, "<exists>")
