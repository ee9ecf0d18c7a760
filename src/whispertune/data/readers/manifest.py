"""Manifests: one row per utterance, as CSV, TSV or JSON lines.

    utterances = read_manifest(Path("train.csv"))

SpeechBrain CSV, Common Voice TSV, Hugging Face audiofolder `metadata.csv` and NeMo JSONL load as they are.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TextIO

from whispertune.data.plain_rows import CHUNK_ROWS, add_plain_rows
from whispertune.data.readers.nested import SEGMENTS, nested_rows
from whispertune.data.readers.tables import DELIMITERS, Line, open_table
from whispertune.data.reading import AS_USUAL, TEXT_COLUMNS, Reading, choose_columns
from whispertune.data.rows import Row, exists, shown
from whispertune.data.text_files import EMPTY, decode_text, opened_bytes, refuse_first_bad_byte, require_readable
from whispertune.data.utterances import Utterance as Utterance
from whispertune.data.utterances import Utterances
from whispertune.errors import ManifestError, refuse

ReportFault = Callable[[ManifestError], None]
JSON_LINES = (".jsonl", ".ndjson", ".json-lines", ".json")


def ending_of(path: Path) -> str:
    """The ending that determines the format, ignoring a final .gz."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def is_manifest(path: Path) -> bool:
    """Whether the file's ending is that of a manifest."""
    return ending_of(path) in DELIMITERS or ending_of(path) in JSON_LINES


def read_manifest(path: Path) -> Utterances:
    """The utterances of `path`, in its order; its ending determines the format.

    Audio files are not opened. Raises ManifestError with file, row, field and remedy.
    """
    path = Path(path)
    if not is_manifest(path) and not path.is_dir():
        endings = ", ".join((*DELIMITERS, *JSON_LINES))
        raise ManifestError(f"{path}: unknown ending {path.suffix.lower()!r}; use one of {endings}")
    utterances = Utterances()
    add_manifest(path, utterances)
    require_unique_ids(utterances)
    return utterances


def require_unique_ids(utterances: Utterances) -> None:
    """Raises ManifestError if two utterances have the same id."""
    repeated = utterances.repeated_id()
    if repeated is not None:
        raise repeated_id(*(utterances[index] for index in repeated))


def repeated_id(first: Utterance, second: Utterance) -> ManifestError:
    """The error for the second of two utterances with the same id."""
    # An id that was made from the audio's path is corrected there.
    field = "audio" if second.id.split("#")[0].endswith(second.audio.name) else "id"
    other = "" if first.source == second.source else f" of {first.source}"
    problem = f"the id {shown(second.id)} is repeated; row {first.row}{other} already has it"
    remedy = "give each utterance an id of its own"
    if field == "audio" and "#" not in second.id:
        remedy += ", or segments of one recording their times (--columns start=NAME,end=NAME)"
    return ManifestError(f"{problem}; {remedy}", file=second.source, row=second.row, field=field)


def add_manifest(path: Path, utterances: Utterances, reading: Reading = AS_USUAL) -> None:
    """Add the rows of a manifest."""
    base, clips = reading.base(path.absolute().parent), None
    if reading.audio_root is None and exists(str(path.absolute().parent / "clips")):
        clips = str(path.absolute().parent / "clips")
    with opened_text(path, lenient=utterances.faults is not None) as file:
        if ending_of(path) in JSON_LINES:
            for row in _json_rows(path, file, reading, utterances.report):
                row.add_to(utterances, base, clips=clips)
            return
        table = open_table(path, file, reading, utterances.report)
        for chunk in _in_chunks(table.lines):
            numbers, values = zip(*chunk, strict=True)
            fields = dict(zip(table.header, zip(*values, strict=True), strict=True))
            if not add_plain_rows(utterances, str(path), numbers, fields, table.columns, base, clips):
                for line in chunk:
                    table.row(*line).add_to(utterances, base, clips=clips)


def manifest_rows(
    path: Path, report: ReportFault = refuse, reading: Reading = AS_USUAL, *, lenient: bool = False
) -> Iterator[Row]:
    """The rows of a CSV, TSV or JSONL, before their values are checked.

    report: called with the fault of each row that is skipped. lenient: as in `opened_text`.
    """
    with opened_text(path, lenient=lenient) as file:
        if ending_of(path) in DELIMITERS:
            table = open_table(path, file, reading, report)
            yield from (table.row(*line) for line in table.lines)
        else:
            yield from _json_rows(path, file, reading, report)


def _in_chunks(lines: Iterator[Line]) -> Iterator[list[Line]]:
    """Yield lists of rows; an error in the file is raised after the rows before it, so that their faults come first."""
    fault: Exception | None = None
    while fault is None:
        chunk = []
        try:
            for line in islice(lines, CHUNK_ROWS):
                chunk.append(line)
        except (ManifestError, UnicodeDecodeError, OSError, EOFError, zlib.error) as error:
            fault = error
        if chunk:
            yield chunk
        elif fault is None:
            return
    raise fault


@contextmanager
def opened_text(path: Path, *, lenient: bool = False) -> Iterator[TextIO]:
    """Open a manifest as text, decompressed if its name ends in .gz; line ends are kept.

    lenient: bytes that are not UTF-8 become lone surrogates, which `Row` reports row by row.

    Raises:
        ManifestError: if it does not exist, is a folder, is not text or not UTF-8, or is empty.
    """
    require_readable(path)
    try:
        with opened_bytes(path) as raw:
            if not any(chunk.strip(b" \t\r\n\xef\xbb\xbf") for chunk in iter(lambda: raw.read(1 << 16), b"")):
                raise ManifestError(f"{path}: is empty; {EMPTY}")
            raw.seek(0)
            head = raw.read(1024)
            if lenient and (b"\0" in head or head.startswith((b"\xff\xfe", b"\xfe\xff"))):
                decode_text(str(path), head)  # raises: UTF-16 and binary data have no rows to report one by one
            raw.seek(0)
            errors = "surrogateescape" if lenient else "strict"
            newline = "" if ending_of(path) in DELIMITERS else "\n"  # csv requires ""; JSON lines end at \n only
            with io.TextIOWrapper(raw, encoding="utf-8-sig", errors=errors, newline=newline) as file:
                yield file
    except UnicodeDecodeError:
        refuse_first_bad_byte(path)
        raise
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ManifestError(f"{path}: cannot be decompressed ({error}); fetch or write it again") from None


def json_records(source: str, file: Iterable[str], report: ReportFault) -> Iterator[tuple[int, dict[str, object]]]:
    """(line, object) of JSON lines; report: called with the fault of each invalid line."""
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        remedy = 'write one object per line, such as {"audio": "a.wav", "text": "Ciao."}'
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", "a number too long or nesting too deep")
            problem = f"{shown(line.strip())} is not JSON ({reason})"
            report(ManifestError(f"{problem}; {remedy}", file=source, row=number))
            continue
        if not isinstance(record, dict):
            report(ManifestError(f"{shown(record)} is not a JSON object; {remedy}", file=source, row=number))
            continue
        yield number, record


def _json_rows(path: Path, file: Iterable[str], reading: Reading, report: ReportFault) -> Iterator[Row]:
    # A column that one row lacks may be present in another, so missing columns are an error only at the end.
    found: dict[str, None] = {}
    everywhere: dict[str, None] = {}
    for number, record in json_records(str(path), file, report):
        found.update(dict.fromkeys(record))
        row = Row(str(path), number, record, choose_columns(tuple(record), reading.columns))
        if row.columns.audio is None and not everywhere:
            with opened_text(path, lenient=True) as again:
                others = json_records(str(path), again, lambda _: None)
                everywhere = dict.fromkeys(name for _, other in others for name in other)
            _require_json_columns(path, everywhere, reading)
        try:
            yield from nested_rows(row)
        except ManifestError as fault:
            report(fault)
    if found:
        _require_json_columns(path, found, reading)


def _require_json_columns(path: Path, found: Iterable[str], reading: Reading) -> None:
    names = list(found)
    if any(name in names for name in SEGMENTS):
        names.append(TEXT_COLUMNS[0])
    reading.require_columns(path, 1, names)
