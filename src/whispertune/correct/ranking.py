"""The order of correction: what is most likely wrong comes first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from whispertune.correct.segments import Segment


def ordered(segments: Sequence[Segment], suspicions: Sequence[float | None]) -> list[Segment]:
    """The segments with their rank and score: the highest suspicion first, then those without one, in their order.

    Segments that cannot be played come last.
    """

    def key(place: int) -> tuple[bool, bool, float, int]:
        score = suspicions[place]
        return segments[place].status == "unusable", score is None, -(score or 0.0), place

    places = sorted(range(len(segments)), key=key)
    return [
        replace(segments[place], rank=rank, score=None if (score := suspicions[place]) is None else round(score, 4))
        for rank, place in enumerate(places)
    ]


def by_confidence(segments: Sequence[Segment]) -> list[float | None]:
    """The suspicion that follows from the confidence of the model that wrote the texts: of the least certain word and
    of the whole, in equal parts."""
    found: list[float | None] = []
    for segment in segments:
        known = [word.confidence for word in segment.words if word.confidence is not None]
        if segment.confidence is None:
            found.append(None)
        else:
            found.append(1 - (segment.confidence + min(known, default=segment.confidence)) / 2)
    return found
