"""Tiers of annotations, as in Praat and ELAN: which of them holds the transcript, and who speaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from whispertune.data.readers.subtitles import Cue
from whispertune.data.reading import Reading
from whispertune.errors import ManifestError

MOST_NAMED = 12
"""Most tiers named in an error."""


@dataclass(slots=True)
class Tier:
    """A tier. spans: in the file's order, those without text too. participant: the speaker, where the file says so."""

    name: str
    spans: list[Cue] = field(default_factory=list)
    participant: str | None = None


def tier_cues(
    source: str, tiers: Sequence[Tier], reading: Reading, report: Callable[[ManifestError], None]
) -> Iterator[Cue]:
    """The utterances of the tier that the user names, or of the only one with text.

    `tier` may be a pattern (`*_utt`), or several separated by semicolons. `speaker` is `participant` (ELAN), `tier`
    (its name), or the name of a tier that says who speaks when; by default the participant or, of several tiers, the
    tier.
    Spans without text are skipped; overlapping ones are utterances of their own. report: called with each fault.

    Raises:
        ManifestError: if no such tier exists, or several have text and none is named.
    """
    chosen = _chosen(source, tiers, reading)
    who = None
    if reading.speaker is not None and reading.speaker not in ("participant", "tier"):
        who = next((tier for tier in tiers if tier.name == reading.speaker), None)
        if who is None:
            names = _named(tiers)
            raise ManifestError(f"has no tier {reading.speaker!r} for speakers; its tiers are {names}", file=source)
    for tier in chosen:
        for span in tier.spans:
            text = " ".join(span.text.split())
            if not text:
                continue
            if span.end <= span.start:
                problem = f"the end, {span.end:g} s, is not after the start, {span.start:g} s; correct the times"
                report(ManifestError(problem, file=source, row=span.row, field="end"))
                continue
            if who is not None:
                speaker = _speaking(who, span)
            elif reading.speaker == "tier" or (reading.speaker is None and not tier.participant and len(chosen) > 1):
                speaker = tier.name
            else:
                speaker = tier.participant
            yield Cue(span.row, round(span.start, 6), round(span.end, 6), text, speaker or None)


def _chosen(source: str, tiers: Sequence[Tier], reading: Reading) -> list[Tier]:
    if reading.tier is not None:
        patterns = [name.strip() for name in reading.tier.split(";")]
        found = [tier for tier in tiers if any(tier.name == name or fnmatchcase(tier.name, name) for name in patterns)]
        if not found:
            raise ManifestError(f"has no tier {reading.tier!r}; its tiers are {_named(tiers)}", file=source)
        return found
    found = [tier for tier in tiers if any(span.text.strip() for span in tier.spans)]
    if len(found) > 1:
        problem = (
            f"several tiers hold text: {_named(found)}; say which is the transcript: '{source} [tier={found[0].name}]'"
        )
        raise ManifestError(problem, file=source)
    return found


def _named(tiers: Sequence[Tier]) -> str:
    names = [f"{tier.name} ({len([span for span in tier.spans if span.text.strip()])})" for tier in tiers]
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return (", ".join(names[:MOST_NAMED]) or "none") + more


def _speaking(who: Tier, span: Cue) -> str | None:
    """The text of the span of a tier that overlaps most with another."""
    best, longest = None, 0.0
    for other in who.spans:
        overlap = min(other.end, span.end) - max(other.start, span.start)
        if overlap > longest and other.text.strip():
            best, longest = other.text.strip(), overlap
    return best
