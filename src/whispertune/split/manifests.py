"""The files of a split: manifests, what was left out, and the record that keeps the next split stable."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

from whispertune.check.cleaned import EXCLUDED, Records, audio_path, manifest_row, utterance_fields
from whispertune.check.written import require_replaceable, writing
from whispertune.data.sources import read_utterances
from whispertune.data.utterances import Utterances
from whispertune.errors import RunFolderError
from whispertune.split.division import Division, Plan
from whispertune.split.wishes import SIDES, TEST, TRAIN, VALID

CHUNK_ROWS = 50_000
COMMAND = "split"
RECORD = "split.json"
NAMES = {side: f"{name}.jsonl" for side, name in enumerate(SIDES)}


def require_ours(folder: Path, inputs: Collection[Path], *, overwrite: bool) -> None:
    """Refuse a folder with files of the names of a split that no split wrote, or that were changed since.

    overwrite: whether the user wants to have them replaced. Inputs are refused even then.

    Raises:
        RunFolderError: with the file.
    """
    names = [*NAMES.values(), EXCLUDED, RECORD]
    if overwrite:
        read = {path.resolve() for path in inputs}
        for name in names:
            if (folder / name).resolve() in read:
                raise RunFolderError(
                    f"--output: {folder / name} is read and would be overwritten; choose another folder"
                )
        return
    try:
        require_replaceable("--output", folder, names, inputs, COMMAND)
    except RunFolderError as error:
        raise RunFolderError(f"{error}, or --overwrite true") from None


def earlier_split(folder: Path, plan: Plan) -> tuple[list[tuple[int, Utterances]], dict[str, Any]]:
    """(side, rows) of the manifests that an earlier split wrote to the folder, test first, and its record.

    Nothing if there is none, or it was planned otherwise; the record is empty only if there is none.
    """
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        same = record["plan"] == as_record(plan)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return [], {}
    found = []
    for side in (TEST, VALID, TRAIN) if same else ():
        path = folder / NAMES[side]
        if path.exists() and path.stat().st_size:
            found.append((side, read_utterances("data", str(path), faults=[])))
    return found, record


def as_record(plan: Plan) -> dict[str, Any]:
    """A plan as JSON."""
    wishes = {SIDES[side]: wish.text for side, wish in sorted(plan.wishes.items())}
    return {"by": plan.by, "texts": plan.texts, "seed": plan.seed, **wishes}


def write_split(
    found: Division,
    folder: Path,
    figures: dict[str, Any],
    *,
    overwrite: bool,
    advance: Callable[[int], None] = lambda _: None,
) -> dict[int, Path]:
    """Write a manifest for each side that has rows, excluded.jsonl and split.json; returns the manifests.

    All columns are kept. Audio paths are relative to the folder, or absolute if symbolic links would make them lead
    elsewhere. What an earlier split wrote for a side that is no longer wished for is removed.
    """
    files = {side: folder / NAMES[side] for side in range(len(SIDES)) if (found.sides == side).any()}
    encode = json.JSONEncoder(ensure_ascii=False).encode
    with ExitStack() as opened:

        def opening(path: Path) -> TextIO:
            return opened.enter_context(writing(path, COMMAND, overwrite=overwrite))

        opening(folder / RECORD).write(json.dumps(figures, indent=2, ensure_ascii=False) + "\n")  # replaced last
        excluded = opening(folder / EXCLUDED)
        manifests = {side: opening(path) for side, path in files.items()}
        for number, (side, source, line, row) in enumerate(_lines(found, folder)):
            if side in manifests:
                manifests[side].write(encode(row) + "\n")
            else:
                reason = found.reasons[number]
                left = {"split": None, "id": row["id"], "file": source, "row": line, "reason": reason}
                excluded.write(encode(left) + "\n")
            if number % 1000 == 999:
                advance(1000)
        advance(len(found.rows) % 1000)
    for side, name in NAMES.items():
        if side not in files:
            (folder / name).unlink(missing_ok=True)
    return files


def _lines(found: Division, folder: Path) -> Iterator[tuple[int, str, int, dict[str, Any]]]:
    """(side, source, row there, the row of a manifest in `folder`) of each utterance; a million in half a minute."""
    rows = found.rows
    records = Records(rows)
    kinds, sides, timed = rows.kind_numbers.tolist(), found.sides.tolist(), rows.has_segments
    for begin in range(0, len(rows), CHUNK_ROWS):
        part = range(begin, min(begin + CHUNK_ROWS, len(rows)))
        ids, paths, texts = rows.strings(part)
        starts, ends = (column.tolist() for column in rows.spans(part))
        for place, number, line in zip(range(len(part)), part, rows.numbers(part), strict=True):
            kind = rows.kinds[kinds[number]]
            fields = {
                "id": ids[place], "audio": audio_path(paths[place], folder), "text": texts[place],
                "start": starts[place] or None, "end": None if ends[place] < 0 else ends[place],
                "language": kind.language, "task": kind.task, "speaker": kind.speaker, "prompt": kind.prompt,
                "channel": kind.channel,
            }  # fmt: skip
            if timed:  # `strings` leaves out the times
                fields["text"] = utterance_fields(rows[number], folder)["text"]
            given = records.of(kind.source, line)
            yield sides[number], kind.source, line, manifest_row(fields, given)
