"""Read ELAN's annotation files (.eaf), with the line of each annotation.

(pympi-ling 1.71 gives no lines, ends in KeyError or a bare Exception where a file is damaged, and leaves the times of
annotations without a time of their own to the caller.)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import PurePosixPath
from urllib.parse import unquote
from xml.parsers import expat

from whispertune.data.readers.subtitles import Cue
from whispertune.data.readers.tiers import Tier
from whispertune.errors import ManifestError

Attributes = dict[str, str]


@dataclass(slots=True)
class _Annotation:
    """start, end: ids of time slots; parent: id of the annotation that it depends on, in place of them."""

    row: int
    start: str = ""
    end: str = ""
    parent: str = ""
    text: str = ""


@dataclass(slots=True)
class _Document:
    slots: dict[str, float | None] = field(default_factory=dict)
    tiers: list[tuple[Attributes, dict[str, _Annotation]]] = field(default_factory=list)
    media: list[str] = field(default_factory=list)


def read_eaf(source: str, content: bytes) -> list[Tier]:
    """The tiers, with times in seconds.

    An annotation that depends on another has its times; several of one parent are one text. Times that are not set are
    spread evenly between those that are.

    Raises:
        ManifestError: if it is no annotation document of ELAN's, or a time or an annotation that is named is missing.
    """
    document = _parsed(source, content)
    annotations = {id_: found for _, those in document.tiers for id_, found in those.items()}
    times: dict[str, tuple[float, float]] = {}
    for _, those in document.tiers:
        _place(source, [(id_, found) for id_, found in those.items() if not found.parent], document.slots, times)

    def span(id_: str, row: int, depth: int = 0) -> tuple[float, float]:
        if id_ in times:
            return times[id_]
        found = annotations.get(id_)
        if found is None or depth > len(document.tiers):
            problem = f"an annotation depends on {id_!r}, which does not exist; open it in ELAN and save it again"
            raise ManifestError(problem, file=source, row=row)
        return span(found.parent, found.row, depth + 1)

    tiers: list[Tier] = []
    for attributes, those in document.tiers:
        tier = Tier(attributes.get("TIER_ID", ""), participant=attributes.get("PARTICIPANT") or None)
        joined: dict[str, Cue] = {}
        for id_, found in those.items():
            start, end = span(id_, found.row)
            if found.parent in joined:
                first = joined[found.parent]
                joined[found.parent] = Cue(first.row, start, end, f"{first.text} {found.text}", None)
            else:
                joined[found.parent or id_] = Cue(found.row, start, end, found.text, None)
        tier.spans.extend(joined.values())
        tiers.append(tier)
    return tiers


def media_names(content: bytes) -> list[str]:
    """File names of the recordings that a document names; nothing if it cannot be read."""
    try:
        media = _parsed("", content).media
    except ManifestError:
        return []
    return list(dict.fromkeys(PurePosixPath(unquote(url).replace("\\", "/")).name for url in media if url))


def _parsed(source: str, content: bytes) -> _Document:
    document = _Document()
    path: list[str] = []
    current: list[_Annotation] = []

    def start(name: str, attributes: Attributes) -> None:
        if not path and name != "ANNOTATION_DOCUMENT":
            raise ManifestError(
                "is not an annotation document of ELAN's; open it in ELAN and save it again", file=source
            )
        path.append(name)
        if name == "TIME_SLOT":
            value = attributes.get("TIME_VALUE")
            document.slots[attributes.get("TIME_SLOT_ID", "")] = _seconds(source, value, parser.CurrentLineNumber)
        elif name == "TIER":
            document.tiers.append((attributes, {}))
        elif name == "MEDIA_DESCRIPTOR":
            document.media += [attributes.get("MEDIA_URL", ""), attributes.get("RELATIVE_MEDIA_URL", "")]
            if attributes.get("TIME_ORIGIN", "0") not in ("", "0"):
                problem = "the recording has a time offset (TIME_ORIGIN); cut it in ELAN or remove the offset"
                raise ManifestError(problem, file=source, row=parser.CurrentLineNumber)
        elif name in ("ALIGNABLE_ANNOTATION", "REF_ANNOTATION") and document.tiers:
            keys = ("TIME_SLOT_REF1", "TIME_SLOT_REF2", "ANNOTATION_REF")
            found = _Annotation(parser.CurrentLineNumber, *(attributes.get(key, "") for key in keys))
            document.tiers[-1][1][attributes.get("ANNOTATION_ID", "")] = found
            current.append(found)

    def text(characters: str) -> None:
        if current and path[-1] == "ANNOTATION_VALUE":
            current[-1].text += characters

    def refuse_entities(*_: object) -> None:
        raise ManifestError(
            "declares entities, as no file of ELAN's does; open it in ELAN and save it again", file=source
        )

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: path.pop() and None
    parser.CharacterDataHandler = text
    parser.EntityDeclHandler = refuse_entities
    try:
        parser.Parse(content, True)
    except expat.ExpatError as error:
        problem = f"is not XML ({expat.ErrorString(error.code)}); open it in ELAN and save it again"
        raise ManifestError(problem, file=source, row=error.lineno) from None
    return document


def _seconds(source: str, value: str | None, row: int) -> float | None:
    if value is None:
        return None
    if not value.isascii() or not value.isdigit() or len(value) > 12:
        raise ManifestError(f"{value[:20]!r} is not a time in milliseconds; correct it", file=source, row=row)
    return int(value) / 1000


def _place(
    source: str,
    annotations: list[tuple[str, _Annotation]],
    slots: dict[str, float | None],
    times: dict[str, tuple[float, float]],
) -> None:
    """Add the times of a tier's annotations; slots without a time lie evenly between their neighbours in the tier."""
    for _, found in annotations:
        for slot in (found.start, found.end):
            if slot not in slots:
                problem = f"the time slot {slot!r} does not exist; open it in ELAN and save it again"
                raise ManifestError(problem, file=source, row=found.row)
    chain: list[str] = []
    for _, found in annotations:
        chain += [slot for slot in (found.start, found.end) if not chain or chain[-1] != slot]
    known = [place for place, slot in enumerate(chain) if slots[slot] is not None]
    values = dict(slots)
    for before, after in pairwise(known):
        first, last = slots[chain[before]] or 0.0, slots[chain[after]] or 0.0
        for place in range(before + 1, after):
            values[chain[place]] = first + (last - first) * (place - before) / (after - before)
    for id_, found in annotations:
        start, end = values[found.start], values[found.end]
        if start is None or end is None:
            raise ManifestError("an annotation has no time; give it one in ELAN", file=source, row=found.row)
        times[id_] = (start, end)
