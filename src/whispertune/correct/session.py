"""The state of a correction: segments, and the edits that lead from one state to the next, to be undone and redone.

A session holds no files: `journal.py` stores its steps, and replays them.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from whispertune.correct.segments import (
    SHORTEST,
    STATUSES,
    EditError,
    Recording,
    Segment,
    clean_text,
    clean_time,
    joined_texts,
    kept_words,
)

Change = tuple[str, Segment | None, Segment | None]
"""A segment's id, and the segment before and after an edit; None where it does not exist."""


@dataclass(frozen=True, slots=True)
class Step:
    """An edit that was made. focus: the id of the segment to show after it."""

    changes: tuple[Change, ...]
    focus: str

    def reversed(self) -> Step:
        """The step that undoes it."""
        changed = tuple((id_, after, before) for id_, before, after in reversed(self.changes))
        focus = next((id_ for id_, _, after in changed if after is not None), self.focus)
        return Step(changed, focus)


class Session:
    """Segments by id, with undo and redo. number: of steps taken so far, those of undo and redo counted."""

    def __init__(self, recordings: Sequence[Recording], segments: Sequence[Segment]) -> None:
        self.recordings = recordings
        self.segments: dict[str, Segment] = {}
        self.number = 0
        self.changed_at: dict[str, int] = {}
        self._undo: list[Step] = []
        self._redo: list[Step] = []
        self._in_time: dict[int, list[tuple[float, float, str]]] = {}
        self._counts: Counter[str] = Counter()
        for segment in segments:
            self._put(segment)

    @property
    def counts(self) -> dict[str, int]:
        """Number of segments of each status."""
        return {status: self._counts[status] for status in STATUSES}

    @property
    def can_undo(self) -> bool:
        return bool(self._undo)

    @property
    def can_redo(self) -> bool:
        return bool(self._redo)

    def of_recording(self, recording: int) -> list[Segment]:
        """The segments of a recording, in order of time."""
        return [self.segments[id_] for _, _, id_ in self._in_time.get(recording, [])]

    def ranked(self) -> list[Segment]:
        """All segments, those to correct first before the others."""
        return sorted(self.segments.values(), key=lambda segment: (segment.rank, segment.start, segment.id))

    def step_of(self, edit: Mapping[str, Any]) -> Step:
        """The step that an edit from the page makes; nothing is changed yet.

        Raises:
            EditError: if it cannot be made.
        """
        made = {"edit": self._edited, "split": self._split, "join": self._joined, "add": self._added}
        if edit.get("op") == "undo":
            if not self._undo:
                raise EditError("nothing to undo")
            return self._undo[-1].reversed()
        if edit.get("op") == "redo":
            if not self._redo:
                raise EditError("nothing to redo")
            return self._redo[-1]
        if (make := made.get(str(edit.get("op")))) is None:
            raise EditError("unknown operation")
        return make(self._segment(edit.get("id")), edit)

    def take(self, step: Step, kind: str) -> None:
        """Make a step; kind: undo, redo, or that of any edit."""
        for id_, _, after in step.changes:
            self._drop(id_)
            if after is not None:
                self._put(after)
        self.number += 1
        self.changed_at.update((id_, self.number) for id_, _, _ in step.changes)
        if kind == "undo":
            self._redo.append(self._undo.pop())
        elif kind == "redo":
            self._undo.append(self._redo.pop())
        else:
            self._undo.append(step)
            self._redo.clear()

    def _put(self, segment: Segment) -> None:
        self.segments[segment.id] = segment
        insort(self._in_time.setdefault(segment.recording, []), (segment.start, segment.end, segment.id))
        self._counts[segment.status] += 1

    def _drop(self, id_: str) -> None:
        old = self.segments.pop(id_, None)
        if old is not None:
            self._in_time[old.recording].remove((old.start, old.end, old.id))
            self._counts[old.status] -= 1

    def _segment(self, id_: object) -> Segment:
        found = self.segments.get(id_) if isinstance(id_, str) else None
        if found is None:
            raise EditError("no such segment; it may have been joined to another one")
        return found

    def _edited(self, old: Segment, edit: Mapping[str, Any]) -> Step:
        new = old
        if "text" in edit:
            text = clean_text(edit["text"])
            new = replace(new, text=text, words=kept_words(old.words, old.text, text))
        if "note" in edit:
            new = replace(new, note=clean_text(edit["note"]))
        if "speaker" in edit:
            new = replace(new, speaker=clean_text(edit["speaker"]).strip() or None)
        if "status" in edit:
            if edit["status"] not in STATUSES:
                raise EditError("unknown status")
            new = replace(new, status=edit["status"])
        if "start" in edit or "end" in edit:
            new = self._moved(new, edit)
        if new == old:
            raise EditError("nothing is changed")
        return Step(((old.id, old, new),), old.id)

    def _moved(self, segment: Segment, edit: Mapping[str, Any]) -> Segment:
        """The segment with other times: within its recording, and not over neighbours of the same speaker."""
        low, high = self._room(segment)
        start = max(low, clean_time(edit["start"])) if "start" in edit else segment.start
        end = min(high, clean_time(edit["end"])) if "end" in edit else segment.end
        if end - start < SHORTEST - 1e-6:
            raise EditError(f"a segment lasts {SHORTEST} s at least")
        words = tuple(word for word in segment.words if word.start < end and word.end > start)
        return replace(segment, start=start, end=end, words=words)

    def _room(self, segment: Segment) -> tuple[float, float]:
        """From where to where a segment may reach, in seconds."""
        low, high = 0.0, self.recordings[segment.recording].duration
        for other in self.of_recording(segment.recording):
            if other.id != segment.id and other.speaker == segment.speaker:
                if other.end <= segment.start:
                    low = max(low, other.end)
                elif other.start >= segment.end:
                    high = min(high, other.start)
        return low, high

    def _split(self, old: Segment, edit: Mapping[str, Any]) -> Step:
        at = clean_time(edit.get("at"))
        if not old.start + SHORTEST <= at <= old.end - SHORTEST:
            raise EditError("the place to split is not inside the segment")
        texts = edit.get("texts")
        if not isinstance(texts, list) or len(texts) != 2:
            raise EditError("two texts are needed to split a segment")
        left, right = (clean_text(text).strip() for text in texts)
        first = replace(
            old, end=at, text=left, words=tuple(word for word in old.words if word.start < at),
            hypothesis=None, confidence=None,
        )  # fmt: skip
        second = replace(
            old, id=self._new_id(old.id), start=at, text=right, note="",
            words=tuple(word for word in old.words if word.start >= at), hypothesis=None, confidence=None,
        )  # fmt: skip
        return Step(((old.id, old, first), (second.id, None, second)), second.id)

    def _joined(self, first: Segment, edit: Mapping[str, Any]) -> Step:
        """Joined with the next one of the same speaker; to do again, unless both have the same status."""
        later = [
            other for other in self.of_recording(first.recording)
            if other.id != first.id and other.speaker == first.speaker
            and (other.start, other.end) >= (first.start, first.end)
        ]  # fmt: skip
        if not later:
            raise EditError("there is no segment of the same speaker behind it")
        second = later[0]
        joined = replace(
            first, end=max(first.end, second.end), text=clean_text(joined_texts(first.text, second.text)),
            words=(*first.words, *second.words), note=clean_text(joined_texts(first.note, second.note)),
            hypothesis=None, confidence=None,
            status=first.status if first.status == second.status else "todo", rank=min(first.rank, second.rank),
        )  # fmt: skip
        return Step(((second.id, second, None), (first.id, first, joined)), first.id)

    def _added(self, beside: Segment, edit: Mapping[str, Any]) -> Step:
        """A new one with other times in the recording of a segment, for speech that was missed."""
        start, end = clean_time(edit.get("start")), clean_time(edit.get("end"))
        start, end = max(0.0, start), min(end, self.recordings[beside.recording].duration)
        if end - start < SHORTEST - 1e-6:
            raise EditError(f"a segment lasts {SHORTEST} s at least")
        same = (other for other in self.of_recording(beside.recording) if other.speaker == beside.speaker)
        if any(other.start < end and other.end > start for other in same):
            raise EditError("there is a segment of the same speaker already")
        new = Segment(
            self._new_id(beside.id), beside.recording, start, end, "", beside.speaker, beside.language,
            rank=beside.rank, further=beside.further,
        )  # fmt: skip
        return Step(((new.id, None, new),), new.id)

    def _new_id(self, id_: str) -> str:
        """An id that no segment has, or had: an undone step may come back."""
        number = 2
        while f"{id_}~{number}" in self.segments or f"{id_}~{number}" in self.changed_at:
            number += 1
        return f"{id_}~{number}"
