"""Rows that the user wants left out: a list of ids, marked on a report's page or written by hand."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from whispertune.data.readers.manifest import JSON_LINES, ending_of, json_records, opened_text
from whispertune.data.remote import as_path
from whispertune.data.rows import shown
from whispertune.data.segments import Rows
from whispertune.errors import ManifestError, refuse
from whispertune.system.console import printable
from whispertune.system.counts import counted

CHUNK_ROWS = 8192
MOST_NAMED = 5
"""Ids that a message names."""
NO_ID = "give it the column id, as the file that a report's page saves has"


@dataclass(slots=True)
class MarkedRows:
    """marks: for each id, the marked transcripts (None: any) and reasons. matched: ids that rows had so far."""

    path: Path
    marks: dict[str, list[tuple[str | None, str]]]
    matched: set[str] = field(default_factory=set)

    def reasons(self, rows: Rows) -> dict[int, str]:
        """Why each marked row is left out, by its index; these ids are `matched` from now on.

        White space may differ, and ids and texts may be as a page shows them, with unprintable characters escaped.
        """
        found = {}
        for begin in range(0, len(rows), CHUNK_ROWS):
            ids, _, texts = rows.strings(range(begin, min(begin + CHUNK_ROWS, len(rows))))
            for index, (id_, text) in enumerate(zip(ids, texts, strict=True), start=begin):
                for marked, reason in self.marks.get(printable(id_), ()):
                    if marked is None or marked in (_one_line(text), _one_line(printable(text))):
                        found[index] = f"{reason} ({self.path.name})"
                        self.matched.add(printable(id_))
        return found

    def unmatched(self) -> str | None:
        """A line about the ids that no row had, or None. Call it when all rows have been looked at."""
        ids = [id_ for id_ in self.marks if id_ not in self.matched]
        if not ids:
            return None
        named = ", ".join(map(shown, ids[:MOST_NAMED])) + (", …" if len(ids) > MOST_NAMED else "")
        return (
            f"{self.path}: {len(ids):,} of {counted(len(self.marks), 'marked id')} without a row that has this "
            f"transcript (it may have been corrected since): {named}"
        )


def read_marked(path: str) -> MarkedRows:
    """Read a CSV, TSV or JSONL with the column id and, optionally, text and reason.

    Raises:
        ManifestError: if it cannot be read, or a row has no id.
    """
    found = MarkedRows(as_path(path), {})
    for number, row in _rows(found.path):
        id_ = row.get("id")
        if id_ is None or not str(id_).strip():
            raise ManifestError(f"the row has no id; {NO_ID}", file=path, row=number, field="id")
        text, reason = row.get("text"), row.get("reason")
        mark = (_one_line(str(text)) if text else None, _one_line(str(reason)) if reason else "marked as wrong")
        found.marks.setdefault(printable(str(id_).strip()), []).append(mark)
    return found


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _rows(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    with opened_text(path) as file:
        if ending_of(path) in JSON_LINES:
            yield from json_records(str(path), file, refuse)
            return
        header = file.readline()
        delimiter = next((one for one in ",;\t" if "id" in _cells(header, one)), None)
        if delimiter is None:
            raise ManifestError(f"no column is called id; {NO_ID}", file=path, row=1)
        names, reader = _cells(header, delimiter), csv.reader(file, delimiter=delimiter)
        try:
            for values in reader:
                if any(value.strip() for value in values):
                    yield reader.line_num + 1, dict(zip(names, values, strict=False))
        except csv.Error as error:
            raise ManifestError(f"bad quoting ({error})", file=path, row=reader.line_num + 1) from None


def _cells(line: str, delimiter: str) -> Sequence[str]:
    return [cell.strip().strip('"') for cell in line.split(delimiter)]
