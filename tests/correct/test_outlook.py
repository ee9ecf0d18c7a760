"""What going on is expected to bring, counted by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from whispertune.correct.outlook import RECENT, outlook
from whispertune.correct.segments import Recording, Segment
from whispertune.correct.session import Session


def corrected(num: int, changed: int, done: int, score: float | None = None) -> Session:
    """`num` segments of which the first are done; of these the last few are changed."""
    segments = [replace(segment, score=score, rank=n) for n, segment in enumerate(at_first(num).values())]
    session = Session([Recording("/a.wav", float(num))], segments)
    for n in range(done):
        edit = {"op": "edit", "id": f"s{n}", "status": "done"}
        if n >= done - changed:
            edit["text"] = f"altro {n}"
        session.take(session.step_of(edit), "edit")
    return session


def at_first(num: int) -> dict[str, Segment]:
    return {f"s{n}": Segment(f"s{n}", 0, float(n), n + 1.0, f"testo {n}") for n in range(num)}


@pytest.mark.parametrize(
    ("num", "changed", "done", "score", "expected"),
    [
        (10, 1, 4, None, {"looked": 4, "changed": 1, "expected": None, "at_most": False}),  # too few to tell
        (15, 2, 5, None, {"looked": 5, "changed": 2, "expected": 4, "at_most": False}),
        (15, 0, 5, 0.5, {"looked": 5, "changed": 0, "expected": 0, "at_most": False}),  # fewer than none?
        (15, 1, 5, 0.5, {"looked": 5, "changed": 1, "expected": 2, "at_most": True}),
        (5, 3, 5, None, {"looked": 5, "changed": 3, "expected": None, "at_most": False}),  # nothing is left
        (130, 30, 30, None, {"looked": RECENT, "changed": 20, "expected": 100, "at_most": False}),
        (130, 10, 30, 0.1, {"looked": RECENT, "changed": 10, "expected": 50, "at_most": True}),
    ],
)
def test_outlook(num: int, changed: int, done: int, score: float | None, expected: dict[str, object]) -> None:
    assert outlook(corrected(num, changed, done, score), at_first(num)) == expected


def test_fewer_are_expected_only_if_the_most_doubtful_were_done() -> None:
    """Not if the list was followed in order of time."""
    session = corrected(15, 2, 5, 0.5)
    session.take(session.step_of({"op": "edit", "id": "s14", "status": "done"}), "edit")
    found = outlook(session, at_first(15))
    assert (found["expected"], found["at_most"]) == (3, False)


def test_moved_and_split_segments_are_changes() -> None:
    session = corrected(9, 0, 5)
    session.take(session.step_of({"op": "split", "id": "s0", "at": 0.5, "texts": ["te", "sto 0"]}), "split")
    session.take(session.step_of({"op": "edit", "id": "s3", "end": 3.5}), "edit")
    found = outlook(session, at_first(9))
    assert (found["looked"], found["changed"]) == (6, 3)
