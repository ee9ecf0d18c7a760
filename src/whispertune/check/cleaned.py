"""Write cleaned manifests: all rows without errors, with all their columns; and the other rows with the reasons."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whispertune.check.findings import Finding, Source
from whispertune.check.written import writing
from whispertune.data.readers.manifest import is_manifest, manifest_rows
from whispertune.data.reading import KINDS, Columns
from whispertune.data.remote import as_path
from whispertune.data.rows import Row
from whispertune.data.sources import holds_cuts, reading_of
from whispertune.data.timed_text import write_times
from whispertune.data.utterances import Utterance, Utterances
from whispertune.errors import DataError, RecipeError

if TYPE_CHECKING:
    from whispertune.check.results import CheckResults  # imports PyTorch

EXCLUDED = "excluded.jsonl"
CHUNK_ROWS = 4_000
NAMES = {
    name: KINDS[name]
    for name in ("id", "audio", "text", "start", "end", "language", "task", "speaker", "prompt", "channel")
}
"""Fields of a cleaned row, and their possible names in the original manifest."""


def require_expressible(path: Path | str, rows: Utterances, flag: str = "--fix") -> None:
    """Refuse a source that a manifest cannot express. flag: the one that asks for a manifest.

    Raises:
        RecipeError: with the source.
    """
    if rows.inside_archives:
        raise RecipeError(f"{flag}: {path} has recordings inside archives, which a manifest cannot name; unpack them")
    if len(rows.weights) > 1:
        raise RecipeError(
            f"{flag}: {path} joins sources of several weights, which a manifest can't hold; give each alone"
        )
    for begin in range(0, len(rows), CHUNK_ROWS):
        for name in rows.strings(range(begin, min(begin + CHUNK_ROWS, len(rows))))[1]:
            if not name.isascii() and any("\udc80" <= char <= "\udcff" for char in name):
                raise RecipeError(f"{flag}: {name}: the name is not UTF-8, so a manifest cannot hold it; rename it")


def cleaned_names(sources: Sequence[Source]) -> list[str]:
    """File names of the cleaned manifests."""
    names: list[str] = []
    for source in sources:
        stem = source.path.resolve().name
        stem = source.role or stem.removesuffix("".join(source.path.suffixes)) or "data"
        name = f"{stem}.jsonl"
        while name in names or name == EXCLUDED:
            stem = f"{stem}-{len(names) + 1}"
            name = f"{stem}.jsonl"
        names.append(name)
    return names


def write_cleaned(report: CheckResults, folder: Path) -> list[Path]:
    """Write a JSONL manifest for each source without the rows that have errors, and excluded.jsonl with the reasons.

    Audio paths are relative to `folder`, or absolute if symbolic links would make them lead elsewhere. Unknown columns
    are kept.
    """
    reasons: dict[int, list[Finding]] = {}
    for finding in report.findings:
        if finding.severity == "error":
            reasons.setdefault(finding.row, []).append(finding)
    written = [folder / name for name in cleaned_names(report.sources)]
    for source, path in zip(report.sources, written, strict=True):
        given = Records(source.rows)
        with writing(path) as file:
            for number, row in enumerate(source.rows, start=source.first):
                record = given.of(row.source, row.row)
                if number not in reasons:
                    kept = manifest_row(utterance_fields(row, folder), record)
                    file.write(json.dumps(kept, ensure_ascii=False) + "\n")
    with writing(folder / EXCLUDED) as file:
        for excluded in _excluded_rows(report, reasons):
            file.write(json.dumps(excluded, ensure_ascii=False) + "\n")
    return written


def _excluded_rows(report: CheckResults, reasons: Mapping[int, Sequence[Finding]]) -> Iterator[dict[str, Any]]:
    for source, fault in report.faults():
        yield {
            "split": source.role or source.name, "id": None, "file": fault.file, "row": fault.row,
            "reason": f"bad_row: {fault.problem}",
        }  # fmt: skip
    for number, found in sorted(reasons.items()):
        row, source = report.utterance(number), report.source_of(number)
        yield {
            "split": source.role or source.name, "id": row.id, "file": row.source, "row": row.row,
            "reason": "; ".join(f"{f.kind}: {f.detail}" for f in found),
        }  # fmt: skip


class Records:
    """The original rows of the manifests, which are read again in parallel with the utterances."""

    def __init__(self, utterances: Utterances) -> None:
        self._utterances = utterances
        self._source = ""
        self._rows: Iterator[Row] | None = None
        self._last: Row | None = None

    def of(self, source: str, number: int) -> Row | None:
        """The row of this number (`Utterance.row`) of a source; None if that is not a manifest."""
        if source != self._source:
            path = as_path(source)
            is_read = path.is_file() and is_manifest(path) and not holds_cuts(path)
            self._source, self._last = source, None
            reading = reading_of(self._utterances, path)
            self._rows = manifest_rows(path, lambda _: None, reading, lenient=True) if is_read else None
        if self._rows is not None and (self._last is None or self._last.number != number):
            self._last = next((found for found in self._rows if found.number == number), None)
            if self._last is None:
                raise DataError(f"{source}, row {number}: was changed meanwhile; give the command again")
        return self._last


def utterance_fields(row: Utterance, folder: Path) -> dict[str, Any]:
    """The fields of an utterance as a row of a manifest in `folder`."""
    fields: dict[str, Any] = {name: getattr(row, name) for name in NAMES}
    fields["audio"] = audio_path(str(row.audio), folder)
    fields["start"] = row.start or None
    fields["text"] = write_times(row.segments) if row.segments else row.text
    return fields


def manifest_row(fields: Mapping[str, Any], given: Row | None) -> dict[str, Any]:
    """These fields without empty ones, and what else is in the original row."""
    if given is None:
        return {name: value for name, value in fields.items() if value is not None}
    further, always = _further(tuple(given.record), given.columns)
    kept = {name: value for name, value in fields.items() if value is not None or name in always}
    return kept | {name: given.record[name] for name in further}


@lru_cache(maxsize=1024)
def _further(present: tuple[str, ...], columns: Columns) -> tuple[list[str], list[str]]:
    """The columns that are not used, and the fields that are written even if they are empty."""
    further = [name for name in present if name not in columns]
    return further, written_if_empty(further)


def written_if_empty(further: Collection[str]) -> list[str]:
    """The fields of a row that are written even if they are empty, as one of these other columns would be used in
    their place."""
    return [name for name, others in NAMES.items() if any(other in further for other in others)]


def audio_path(audio: str, folder: Path) -> str:
    """`audio` relative to `folder`, or absolute if a symbolic link on the way would make that lead elsewhere."""
    parent, _, name = audio.rpartition("/")
    where = _absolute(parent) if parent or not audio.startswith("/") else "/"
    beside = _relative(where, str(folder))
    return f"{where}/{name}" if beside is None else f"{beside}{name}"


@lru_cache(maxsize=1024)
def _absolute(folder: str) -> str:
    return str(Path(folder).absolute())


@lru_cache(maxsize=1024)
def _relative(audio_folder: str, folder: str) -> str | None:
    """The way from `folder` to another, with a slash at its end; None if a link on it would make it lead elsewhere."""
    folder = _absolute(folder)
    relative = os.path.relpath(audio_folder, folder)
    # `..` of a symbolic link is the parent of its target.
    same = os.path.realpath(f"{folder}/{relative}") == os.path.realpath(audio_folder)
    return None if not same else "" if relative == "." else f"{relative}/"
