"""Read SRT and WebVTT subtitles.

Of WebVTT (W3C recommendation) notes, styles, regions, cue settings and tags are ignored; `<v NAME>` is the speaker.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from whispertune.data.rows import shown
from whispertune.errors import ManifestError, refuse

TIME = r"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})"
TIMES = re.compile(rf"\s*{TIME}\s*-->\s*{TIME}(?:\s.*)?", re.ASCII)
SPEAKER = re.compile(r"<v(?:\.[^\s>]*)?\s+([^>]+)>")
TAG = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")  # WebVTT's and SRT's <i>; SRT's {\an8}
BLOCK = re.compile(r"(NOTE|STYLE|REGION)(\s.*)?")  # of WebVTT, up to the next blank line


@dataclass(frozen=True, slots=True)
class Cue:
    """One subtitle. row: the line of its times. start, end: in seconds."""

    row: int
    start: float
    end: float
    text: str
    speaker: str | None


def read_cues(source: str, content: str, report: Callable[[ManifestError], None] = refuse) -> Iterator[Cue]:
    """The cues of an SRT or WebVTT file; those without text are skipped.

    report: called with each fault (malformed or reversed times, text without times); it may raise it.
    """
    lines = [line.rstrip("\r") for line in content.split("\n")]
    number = 0
    webvtt = lines[0].startswith("WEBVTT")
    if webvtt:
        while number < len(lines) and lines[number].strip() and "-->" not in lines[number]:
            number += 1
    while number < len(lines):
        line = lines[number]
        if webvtt and BLOCK.fullmatch(line):
            while number < len(lines) and lines[number].strip():
                number += 1
        elif "-->" in line:
            begin = number + 1
            number = begin
            while number < len(lines) and lines[number].strip() and "-->" not in lines[number]:
                number += 1
            # Some programs write no blank line; the next cue's number then stands at the end of this one's text.
            if (
                number < len(lines)
                and "-->" in lines[number]
                and number > begin
                and lines[number - 1].strip().isdigit()
            ):
                yield from _cue(source, begin, line, lines[begin : number - 1], report)
            else:
                yield from _cue(source, begin, line, lines[begin:number], report)
        elif line.strip() and not (number + 1 < len(lines) and "-->" in lines[number + 1]):
            problem = (
                f"{shown(line.strip())} is outside any subtitle; put it below its times, such as "
                "00:00:01,000 --> 00:00:03,500, without a blank line between"
            )
            report(ManifestError(problem, file=source, row=number + 1))
            while number < len(lines) and lines[number].strip() and "-->" not in lines[number]:
                number += 1  # one report per block
        else:
            number += 1


def _cue(source: str, row: int, times: str, lines: list[str], report: Callable[[ManifestError], None]) -> Iterator[Cue]:
    match = TIMES.fullmatch(times)
    if match is None:
        problem = f"{shown(times.strip())} is not a pair of times; write 00:00:01,000 --> 00:00:03,500"
        report(ManifestError(problem, file=source, row=row, field="start"))
        return
    start, end = _seconds(*match.groups()[:4]), _seconds(*match.groups()[4:])
    if end <= start:
        problem = f"the end, {end:g} s, is not after the start, {start:g} s; correct the times"
        report(ManifestError(problem, file=source, row=row, field="end"))
        return
    joined = " ".join(line.strip() for line in lines)
    speaker = SPEAKER.search(joined)
    text = " ".join(html.unescape(TAG.sub("", joined)).split())
    if text:
        yield Cue(row, start, end, text, html.unescape(speaker[1]).strip() if speaker else None)


def _seconds(hours: str | None, minutes: str, seconds: str, fraction: str) -> float:
    return round(int(hours or 0) * 3600 + int(minutes) * 60 + int(seconds) + float(f"0.{fraction}"), 3)
