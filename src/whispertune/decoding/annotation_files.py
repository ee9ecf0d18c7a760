"""Transcripts of recordings as annotations: Praat's TextGrid, ELAN's .eaf, Audacity's labels, openai-whisper's TSV."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from whispertune.decoding.long_form import Segment, Transcript
from whispertune.decoding.options import SubtitleOptions
from whispertune.decoding.transcript_files import LINE_ENDS, WRITERS
from whispertune.decoding.words import Word

Span = tuple[int, int, str]
"""Start and end in milliseconds, and the text."""
NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML document may hold."""
DEFAULT_TIER = "transcript"
WORD_TIER = "words"


def as_textgrid(transcript: Transcript) -> str:
    """Praat's long text format: a tier of intervals for each speaker, or several where they overlap, and of words."""
    spans = [(name, those) for name, _, those in _tiers(transcript)]
    last = max([round(transcript.duration * 1000), *(span[1] for _, those in spans for span in those)])
    lines = [
        'File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {_seconds(last)}",
        "tiers? <exists>", f"size = {len(spans)}", "item []:",
    ]  # fmt: skip
    for number, (name, those) in enumerate(spans, start=1):
        filled = list(_without_gaps(those, last))
        lines += [
            f"    item [{number}]:", '        class = "IntervalTier"', f"        name = {_quoted(name)}",
            "        xmin = 0", f"        xmax = {_seconds(last)}", f"        intervals: size = {len(filled)}",
        ]  # fmt: skip
        for place, (start, end, text) in enumerate(filled, start=1):
            lines += [
                f"        intervals [{place}]:", f"            xmin = {_seconds(start)}",
                f"            xmax = {_seconds(end)}", f"            text = {_quoted(text)}",
            ]  # fmt: skip
    return "\n".join(lines) + "\n"


def as_eaf(transcript: Transcript, audio: Path, folder: Path) -> str:
    """An annotation document of ELAN's (format 3.0), for a file in `folder`; each speaker is a tier's participant."""
    tiers = list(_tiers(transcript))
    times = sorted({time for *_, spans in tiers for span in spans for time in span[:2]})
    slots = {time: f"ts{number}" for number, time in enumerate(times, start=1)}
    url = quoteattr(audio.absolute().as_uri())
    beside = quoteattr(Path(os.path.relpath(audio.absolute(), folder.absolute())).as_posix())
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<ANNOTATION_DOCUMENT AUTHOR="" DATE="{datetime.now(UTC).isoformat(timespec="seconds")}" FORMAT="3.0" '
        'VERSION="3.0" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
        'xsi:noNamespaceSchemaLocation="http://www.mpi.nl/tools/elan/EAFv3.0.xsd">',
        '<HEADER MEDIA_FILE="" TIME_UNITS="milliseconds">',
        f'<MEDIA_DESCRIPTOR MEDIA_URL={url} MIME_TYPE="audio/*" RELATIVE_MEDIA_URL={beside}/>',
        "</HEADER>",
        "<TIME_ORDER>",
        *(f'<TIME_SLOT TIME_SLOT_ID="{slot}" TIME_VALUE="{time}"/>' for time, slot in slots.items()),
        "</TIME_ORDER>",
    ]
    number = 0
    for name, speaker, spans in tiers:
        participant = "" if speaker is None else f" PARTICIPANT={quoteattr(NO_XML.sub('', speaker))}"
        lines.append(f'<TIER LINGUISTIC_TYPE_REF="default-lt"{participant} TIER_ID={quoteattr(NO_XML.sub("", name))}>')
        for start, end, text in spans:
            number += 1
            lines.append(
                f'<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a{number}" TIME_SLOT_REF1="{slots[start]}" '
                f'TIME_SLOT_REF2="{slots[end]}"><ANNOTATION_VALUE>{escape(NO_XML.sub("", text))}</ANNOTATION_VALUE>'
                "</ALIGNABLE_ANNOTATION></ANNOTATION>"
            )
        lines.append("</TIER>")
    lines += [
        '<LINGUISTIC_TYPE GRAPHIC_REFERENCES="false" LINGUISTIC_TYPE_ID="default-lt" TIME_ALIGNABLE="true"/>',
        "</ANNOTATION_DOCUMENT>",
    ]
    return "\n".join(lines) + "\n"


def as_labels(transcript: Transcript) -> str:
    """A label track of Audacity: seconds and text, separated by tabs."""
    return "".join(f"{start / 1000:.6f}\t{end / 1000:.6f}\t{text}\n" for start, end, text in _named(transcript))


def as_tsv(transcript: Transcript) -> str:
    """As openai-whisper writes it: milliseconds and text, under a header."""
    return "start\tend\ttext\n" + "".join(f"{start}\t{end}\t{text}\n" for start, end, text in _named(transcript))


_ANNOTATIONS: dict[str, Callable[[Transcript], str]] = {
    "textgrid": as_textgrid,
    "audacity": as_labels,
    "tsv": as_tsv,
}
"""Formats that need nothing but the transcript."""


def written_as(kind: str, transcript: Transcript, audio: Path, folder: Path, subtitles: SubtitleOptions) -> str:
    """A transcript in any of `FORMATS` but JSON, for a file in `folder`."""
    if kind == "eaf":
        return as_eaf(transcript, audio, folder)
    return _ANNOTATIONS[kind](transcript) if kind in _ANNOTATIONS else WRITERS[kind](transcript, subtitles)


def _spans(transcript: Transcript) -> Iterator[tuple[str | None, Span]]:
    """The speaker and the span of each segment with text, at least a millisecond long."""
    for segment in transcript.segments:
        yield from ((segment.speaker, span) for span in _span(segment))


def _span(spoken: Segment | Word) -> Iterator[Span]:
    if text := LINE_ENDS.sub(" ", spoken.text.strip()).replace("\t", " "):
        start = round(spoken.start * 1000)
        yield start, max(round(spoken.end * 1000), start + 1), text


def _words(transcript: Transcript) -> Iterator[tuple[str | None, Span]]:
    """The speaker and the span of each word; one without a duration delays the next by a millisecond."""
    done: dict[str | None, int] = {}
    for segment in transcript.segments:
        for word in segment.words:
            for start, end, text in _span(word):
                start = max(start, done.get(segment.speaker, 0))
                done[segment.speaker] = end = max(end, start + 1)
                yield segment.speaker, (start, end, text)


def _named(transcript: Transcript) -> Iterator[Span]:
    """The spans, each text after the name of its channel."""
    for speaker, (start, end, text) in _spans(transcript):
        yield start, end, text if speaker is None else f"{speaker}: {text}"


def _tiers(transcript: Transcript) -> Iterator[tuple[str, str | None, list[Span]]]:
    """(name, speaker, spans in order) of a tier for each speaker, or of several where spans overlap; then likewise of
    their words, where they are known."""
    tiers: dict[str, tuple[str | None, list[Span]]] = {}
    for found, kind in ((_spans(transcript), ""), (_words(transcript), WORD_TIER)):
        for speaker, span in sorted(found, key=lambda one: one[1][:2]):
            base, copy = " ".join(filter(None, [speaker, kind])) or DEFAULT_TIER, 1
            name = base
            while name in tiers and tiers[name][1][-1][1] > span[0]:
                copy += 1
                name = f"{base} {copy}"
            tiers.setdefault(name, (speaker, []))[1].append(span)
    for name, (speaker, spans) in tiers.items():
        yield name, speaker, spans
    if not tiers:
        yield DEFAULT_TIER, None, []


def _without_gaps(spans: list[Span], last: int) -> Iterator[Span]:
    """The spans with empty ones between them, as Praat wants them."""
    at = 0
    for span in spans:
        if span[0] > at:
            yield at, span[0], ""
        yield span
        at = span[1]
    if at < last or not spans:
        yield at, max(last, at + 1), ""


def _seconds(milliseconds: int) -> str:
    return f"{milliseconds / 1000:.3f}"


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
