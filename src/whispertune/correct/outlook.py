"""What going on is expected to bring: how many of the segments left would be changed, by those that were done last."""

from __future__ import annotations

from collections.abc import Mapping
from heapq import nlargest
from typing import Any

from whispertune.correct.session import Session

RECENT = 20
"""Segments, the last that were done, whose share of changed ones is taken for that of the segments left."""
FEWEST = 5
"""Segments that must be done before anything is expected."""


def outlook(session: Session, original: Mapping[str, str]) -> dict[str, Any]:
    """looked: the last segments that were done, at most 20. changed: how many of them have another text than at first.

    expected: changes in the segments left to do, at this rate; None before 5 are done, and with none left. at_most:
    whether there should be fewer, as the most doubtful come first. original: the texts at first, by id.
    """
    done = (segment for segment in session.segments.values() if segment.status == "done")
    last = nlargest(RECENT, done, key=lambda segment: session.changed_at.get(segment.id, 0))
    changed = sum(segment.text.strip() != original.get(segment.id) for segment in last)
    todo = session.counts["todo"]
    at_most = any(segment.score is not None for segment in session.segments.values())
    expected = round(todo * changed / len(last)) if len(last) >= FEWEST and todo else None
    return {"looked": len(last), "changed": changed, "expected": expected, "at_most": at_most}
