"""A correction on disk: every step is appended to a journal, and durable, before the page is answered.

    DIR/session.json     what is corrected; written last when a correction begins
    DIR/segments.jsonl   the segments as they were, in the order of correction
    DIR/journal.jsonl    {"number", "at", "op", "changes": {id: changed fields, or null if it was removed}}

Replaying the journal over the segments gives the state, whatever was killed when.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

from whispertune.correct.segments import EditError, Recording, Segment, segment_of
from whispertune.correct.session import Change, Session, Step
from whispertune.errors import RunFolderError
from whispertune.system.files import fsync_path, read_jsonl, write_jsonl, write_text
from whispertune.system.locks import take_lock

SESSION, SEGMENTS, JOURNAL = "session.json", "segments.jsonl", "journal.jsonl"
LOCK = ".whispertune-correct.lock"
FORMAT = 1


class StaleError(Exception):
    """An edit of a segment that has changed since the page saw it, as in another tab."""


def lock(folder: Path) -> int:
    """Keep other processes out of a folder's correction until this descriptor is closed.

    Raises:
        RunFolderError: if another one is there.
    """
    held = take_lock(folder / LOCK)
    if held is None:
        raise RunFolderError(f"{folder}: is being corrected by another process; end that one first")
    return held


def leave(folder: Path, held: int) -> None:
    """Unlock a folder in which no correction could begin, and leave nothing there."""
    with suppress(OSError):
        (folder / LOCK).unlink()
    os.close(held)


def begin(folder: Path, recordings: Sequence[Recording], segments: Sequence[Segment], facts: Mapping[str, Any]) -> None:
    """Write what a correction starts from. facts: what else is to be remembered."""
    write_jsonl(folder / SEGMENTS, (segment.as_json() for segment in segments))
    content = {"format": FORMAT, **facts, "recordings": [asdict(recording) for recording in recordings]}
    write_text(folder / SESSION, json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def is_begun(folder: Path) -> bool:
    """Whether there is a correction in a folder."""
    return (folder / SESSION).exists()


class Correction:
    """A session and its folder, which no other process may change meanwhile. Safe to use from several threads.

    facts: what `begin` was given. held: the folder's `lock`, if it has been taken; closed with the correction.

    Raises:
        RunFolderError: if the folder is in use, or its files are damaged.
    """

    def __init__(self, folder: Path, held: int | None = None) -> None:
        self.folder = folder
        self.lock = Lock()
        self._held = lock(folder) if held is None else held
        try:
            self.session = self._read()
            self._journal = self._replayed(folder / JOURNAL)
        except BaseException:
            os.close(self._held)
            raise

    def _read(self) -> Session:
        """What the correction starts from."""
        folder = self.folder
        try:
            self.facts: dict[str, Any] = json.loads((folder / SESSION).read_text(encoding="utf-8"))
            if self.facts.pop("format") != FORMAT:
                raise RunFolderError(f"{folder / SESSION}: was written by another version of whispertune")
            given = self.facts.pop("recordings")
            if any(recording.pop("within", None) for recording in given):  # written by earlier versions
                raise RunFolderError(f"{folder / SESSION}: was written by another version of whispertune")
            recordings = [Recording(**recording) for recording in given]
            self.base = [segment_of(values) for values in read_jsonl(folder / SEGMENTS)]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise RunFolderError(
                f"{folder}: its {SESSION} or {SEGMENTS} is damaged ({error}); restore them, or name another --output"
            ) from None
        return Session(recordings, self.base)

    def close(self) -> None:
        """Let others correct here."""
        if not self._journal.closed:
            self._journal.close()
            os.close(self._held)

    def apply(self, edit: Mapping[str, Any]) -> Step:
        """Make an edit from the page, on disk when this returns. `seen`: the number of steps that the page knows of.

        Raises:
            EditError: if it cannot be made; nothing is changed.
            StaleError: if its segment was changed after `seen`.
            OSError: if it cannot be written; nothing is changed.
        """
        with self.lock:
            seen, kind = edit.get("seen"), str(edit.get("op"))
            if isinstance(seen, bool) or not isinstance(seen, int):
                raise EditError("seen is missing")
            id_ = edit.get("id")
            newest = self.session.number if kind in ("undo", "redo") else self.session.changed_at.get(str(id_), 0)
            if newest > seen:
                raise StaleError
            step = self.session.step_of(edit)
            changes = {} if kind in ("undo", "redo") else dict(map(_as_json, step.changes))
            line = {
                "number": self.session.number + 1, "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "op": kind, "changes": changes, "focus": step.focus,
            }  # fmt: skip
            self._append(line)
            self.session.take(step, kind)
            return step

    def _append(self, line: Mapping[str, Any]) -> None:
        before = os.fstat(self._journal.fileno()).st_size
        content = memoryview((json.dumps(line, ensure_ascii=False) + "\n").encode())
        try:
            while content:
                content = content[self._journal.write(content) :]
            os.fsync(self._journal.fileno())
        except OSError:
            os.ftruncate(self._journal.fileno(), before)  # part of a line, on a full disk
            raise

    def _replayed(self, path: Path) -> Any:
        """Take the steps of the journal, and open it to append; a last line that was cut short never happened."""
        journal = path.open("ab+", buffering=0)
        try:
            fsync_path(path.parent)
            journal.seek(0)
            content = journal.readall() or b""
            whole = content.rfind(b"\n") + 1
            for number, line in enumerate(content[:whole].splitlines(), start=1):
                self._replay(path, number, line)
            journal.truncate(whole)
        except BaseException:
            journal.close()
            raise
        return journal

    def _replay(self, path: Path, number: int, line: bytes) -> None:
        try:
            taken = json.loads(line)
            kind = taken["op"]
            if taken["number"] != self.session.number + 1:
                raise ValueError(f"step {taken['number']} follows {self.session.number}")
            if kind in ("undo", "redo"):
                step = self.session.step_of({"op": kind})
            else:
                step = Step(tuple(self._change(id_, new) for id_, new in taken["changes"].items()), taken["focus"])
            self.session.take(step, kind)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise RunFolderError(
                f"{path}, line {number}: is damaged ({error}); restore the file, or remove this line and those after it"
            ) from None

    def _change(self, id_: str, new: Mapping[str, Any] | None) -> Change:
        before = self.session.segments.get(id_)
        if new is None:
            return id_, before, None
        if before is None:
            return id_, None, segment_of(new)
        made = segment_of({**before.as_json(), **{name: value for name, value in new.items() if name != "id"}})
        return id_, before, replace(made, id=id_)


def _as_json(change: Change) -> tuple[str, dict[str, Any] | None]:
    """A change with only the fields that differ."""
    id_, before, after = change
    if after is None:
        return id_, None
    if before is None:
        return id_, after.as_json()
    old, new = asdict(before), asdict(after)
    return id_, {name: new[name] for name in new if new[name] != old[name]}
