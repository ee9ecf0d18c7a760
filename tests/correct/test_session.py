"""Edits, undo and redo, whatever their order."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whispertune.correct.segments import SHORTEST, EditError, Recording, Segment, Word, kept_words
from whispertune.correct.session import Session

RECORDINGS = [Recording("/a.wav", 10.0), Recording("/b.wav", 4.0)]


def fresh() -> Session:
    segments = [
        Segment("a1", 0, 0.0, 2.0, "uno due", "x", words=(Word(0.1, 0.9, "uno", 0.9), Word(1.0, 1.8, "due", 0.4))),
        Segment("a2", 0, 2.5, 5.0, "tre quattro", "x"),
        Segment("a3", 0, 3.0, 6.0, "altro", "y"),
        Segment("a4", 0, 6.0, 10.0, "cinque", "x"),
        Segment("b1", 1, 0.0, 4.0, "สวัสดี"),
    ]
    return Session(RECORDINGS, segments)


seconds = st.floats(-1, 12, allow_nan=False)
edits = st.one_of(
    st.fixed_dictionaries(
        {"op": st.just("edit")},
        optional={
            "text": st.text(max_size=12),
            "note": st.text(max_size=5),
            "start": seconds,
            "end": seconds,
            "status": st.sampled_from(["todo", "done", "skip", "unusable", "other"]),
            "speaker": st.text(max_size=2),
        },
    ),
    st.fixed_dictionaries(
        {"op": st.just("split"), "at": seconds, "texts": st.lists(st.text(max_size=5), min_size=1, max_size=3)}
    ),
    st.fixed_dictionaries({"op": st.just("join")}),
    st.fixed_dictionaries({"op": st.just("add"), "start": seconds, "end": seconds}),
    st.fixed_dictionaries({"op": st.sampled_from(["undo", "redo"])}),
)


def take(session: Session, edit: dict[str, Any]) -> bool:
    try:
        step = session.step_of(edit)
    except EditError:
        return False
    session.take(step, edit["op"])
    return True


def require_sound(session: Session) -> None:
    for segment in session.segments.values():
        assert 0 <= segment.start < segment.end <= RECORDINGS[segment.recording].duration
        assert segment.end - segment.start >= SHORTEST - 1e-6
    for recording in range(len(RECORDINGS)):
        found = session.of_recording(recording)
        assert [s.start for s in found] == sorted(s.start for s in found)
        for speaker in {s.speaker for s in found}:
            pairs = [s for s in found if s.speaker == speaker]
            if speaker in ("x", "y"):
                assert all(a.end <= b.start for a, b in pairwise(pairs))
    assert sum(session.counts.values()) == len(session.segments)


@given(st.lists(st.tuples(edits, st.integers(0, 30)), max_size=25))
def test_as_many_undos_give_the_original_and_redos_the_result(drawn: list[tuple[dict[str, Any], int]]) -> None:
    session, original, renamed = fresh(), fresh().segments, False
    for edit, place in drawn:
        ids = sorted(session.segments)
        renamed |= take(session, {**edit, "id": ids[place % len(ids)]}) and "speaker" in edit
        if not renamed:  # one who is given another name may have been speaking meanwhile
            require_sound(session)
    result, undone = dict(session.segments), 0
    while session.can_undo:
        assert take(session, {"op": "undo"})
        undone += 1
    assert session.segments == original
    assert undone <= len(drawn)
    for _ in range(undone):
        assert take(session, {"op": "redo"})
    while take(session, {"op": "redo"}):
        undone += 1
        result = dict(session.segments)
    assert session.segments == result


def test_boundaries_stop_at_neighbours_of_the_same_speaker_and_at_the_end() -> None:
    session = fresh()
    take(session, {"op": "edit", "id": "a1", "end": 4.0})
    assert session.segments["a1"].end == 2.5
    take(session, {"op": "edit", "id": "a4", "end": 99.0, "start": 5.5})
    assert (session.segments["a4"].start, session.segments["a4"].end) == (5.5, 10.0)
    with pytest.raises(EditError, match="lasts"):
        session.step_of({"op": "edit", "id": "a2", "start": 4.99})


def test_split_and_join_are_inverse() -> None:
    session = fresh()
    take(session, {"op": "split", "id": "a1", "at": 0.95, "texts": ["uno ", "due"]})
    assert [(s.text, s.start, s.end) for s in session.of_recording(0)][:2] == [("uno", 0, 0.95), ("due", 0.95, 2.0)]
    assert [word.text for word in session.segments["a1~2"].words] == ["due"]
    take(session, {"op": "join", "id": "a1"})
    assert session.segments == fresh().segments


def test_what_a_model_said_of_the_whole_does_not_stand_at_its_parts() -> None:
    judged = Segment("a1", 0, 0.0, 2.0, "uno due", confidence=0.9, hypothesis="uno tue", rank=3)
    session = Session(RECORDINGS, [judged, replace(judged, id="a2", start=2.0, end=4.0, rank=1)])
    take(session, {"op": "split", "id": "a1", "at": 1.0, "texts": ["uno", "due"]})
    take(session, {"op": "join", "id": "a1~2"})
    left, joined = session.of_recording(0)
    assert [(one.confidence, one.hypothesis) for one in (left, joined)] == [(None, None)] * 2
    assert (left.rank, joined.rank) == (3, 1)


@pytest.mark.parametrize("field", ["text", "note"])
def test_what_would_be_too_long_is_not_joined(field: str) -> None:
    session = fresh()
    for id_ in ("a1", "a2"):
        take(session, {"op": "edit", "id": id_, field: "a" * 6_000})
    with pytest.raises(EditError, match="longer than"):
        session.step_of({"op": "join", "id": "a1"})


def test_scripts_without_spaces_are_joined_without_one() -> None:
    session = fresh()
    take(session, {"op": "split", "id": "b1", "at": 2.0, "texts": ["สวัส", "ดี"]})
    take(session, {"op": "join", "id": "b1"})
    assert session.segments["b1"].text == "สวัสดี"


def test_words_that_were_changed_lose_their_times() -> None:
    words = (Word(0, 1, "la", 0.9), Word(1, 2, "casa", 0.5), Word(2, 3, "nuova", 0.9))
    old = "la casa nuova"

    def kept(new: str) -> list[str]:
        return [word.text for word in kept_words(words, old, new)]

    assert kept("la cassa nuova") == ["la", "nuova"]
    assert kept("la casa nuovamente") == ["la", "casa"]
    assert kept("La casa nuova") == ["casa", "nuova"]
    assert kept("la bella casa nuova") == ["la", "casa", "nuova"]
    assert kept("") == []


@pytest.mark.parametrize(
    "edit",
    [
        {"op": "edit", "id": "zz", "text": "a"},
        {"op": "edit", "id": "a1"},
        {"op": "undo"},
        {"op": "what", "id": "a1"},
        {"op": "edit", "id": ["a1"], "text": "a"},
        {"op": "edit", "id": "a1", "text": 7},
        {"op": "edit", "id": "a1", "start": True},
        {"op": "edit", "id": "a1", "text": "a" * 10_001},
        {"op": "edit", "id": "a1", "end": float("nan")},
        {"op": "split", "id": "a1", "at": 2.0, "texts": ["a", "b"]},
        {"op": "join", "id": "a4"},
        {"op": "add", "id": "a1", "start": 1, "end": 3},
    ],
)
def test_impossible_edits(edit: dict[str, Any]) -> None:
    with pytest.raises(EditError):
        fresh().step_of(edit)


def test_lines_and_control_characters_become_spaces() -> None:
    session = fresh()
    take(session, {"op": "edit", "id": "a1", "text": "uno\ndue\u2028tre\x00\ud800"})
    assert session.segments["a1"].text == "uno due tre  "
