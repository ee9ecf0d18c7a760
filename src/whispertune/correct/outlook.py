"""What going on is expected to bring: how many of the segments left would be changed, by those that were done last."""

from __future__ import annotations

from collections.abc import Mapping
from heapq import nlargest
from typing import Any

from whispertune.correct.segments import Segment
from whispertune.correct.session import Session

RECENT = 20
"""Segments, the last that were done, whose share of changed ones is taken for that of the segments left."""
FEWEST = 5
"""Segments that must be done before anything is expected."""


def outlook(session: Session, original: Mapping[str, Segment]) -> dict[str, Any]:
    """looked: the last segments that were done, at most 20. changed: how many of them have another text, or other
    times, than at first.

    expected: changes in the segments left to do, at this rate; None before 5 are done, and with none left. at_most:
    whether there should be fewer, as the most doubtful were done first. original: the segments at first, by id.
    """
    done = [segment for segment in session.segments.values() if segment.status == "done"]
    left = [segment for segment in session.segments.values() if segment.status == "todo"]
    last = nlargest(RECENT, done, key=lambda segment: session.changed_at.get(segment.id, 0))
    changed = sum(_content(segment) != _content(original.get(segment.id)) for segment in last)
    expected = round(len(left) * changed / len(last)) if len(last) >= FEWEST and left else None
    scored = any(segment.score is not None for segment in left)
    in_order = max((segment.rank for segment in done), default=0) <= min((segment.rank for segment in left), default=0)
    return {
        "looked": len(last), "changed": changed, "expected": expected, "at_most": bool(expected and scored and in_order)
    }  # fmt: skip


def _content(segment: Segment | None) -> tuple[str, float, float] | None:
    return None if segment is None else (segment.text.strip(), segment.start, segment.end)
