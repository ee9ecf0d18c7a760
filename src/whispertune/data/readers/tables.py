"""Read CSV and TSV as Python, SpeechBrain, Common Voice and spreadsheets write them."""

from __future__ import annotations

import csv
import io
import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from whispertune.data.reading import ALL_COLUMNS, Columns, Reading, choose_columns
from whispertune.data.rows import WINDOWS_DRIVE, Row, drive_remedy, shown
from whispertune.errors import ManifestError, refuse
from whispertune.system.counts import counted

DELIMITERS = {".csv": ",", ".tsv": "\t"}
"""By the file's ending; the header may show another one."""
OTHERS = (",", ";", "\t", "|")
SEPARATOR = re.compile(r"\"?sep=([,;|\t])\"?\r?\n?")  # Excel's first line
NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}

Line = tuple[int, list[str]]
ReportFault = Callable[[ManifestError], None]


@dataclass(frozen=True, slots=True)
class Table:
    """An opened table: its header, the columns used, and the lines that follow with their row numbers."""

    source: str
    header: list[str]
    columns: Columns
    lines: Iterator[Line]
    decimal_comma: bool

    def row(self, number: int, values: Sequence[str]) -> Row:
        record = dict(zip(self.header, values, strict=True))
        return Row(self.source, number, record, self.columns, decimal_comma=self.decimal_comma)


def open_table(path: Path, file: TextIO, reading: Reading, report: ReportFault = refuse) -> Table:
    """The table in a file whose name ends in .csv or .tsv (and possibly .gz).

    The delimiter is that of the ending, unless the header has columns for audio and text only with another one.

    report: called with the fault of each row of `lines` that is skipped.

    Raises:
        ManifestError: for a header without the required columns.
    """
    ending = Path(path.name.lower().removesuffix(".gz")).suffix
    first, skipped = _first_line(file)
    delimiter = DELIMITERS[ending]
    if (given := SEPARATOR.fullmatch(first)) is not None:
        delimiter, skipped = given[1], skipped + 1
        first = file.readline()
    else:
        fits = [one for one in (delimiter, *OTHERS) if _has_columns(first, one, reading)]
        fits += [one for one in OTHERS if len(_split(first, one)) > 1]
        delimiter = fits[0] if fits else delimiter
    # A TSV has no quoting, and Common Voice's sentences contain stray quotes.
    quoted = not (delimiter == "\t" and ending == ".tsv")
    lines = _lines(str(path), itertools.chain([first], file), delimiter, quoted, skipped, reading, report)
    _, header = next(lines, (0, []))
    return Table(str(path), header, choose_columns(tuple(header), reading.columns), lines, delimiter != ",")


def _first_line(file: TextIO) -> tuple[str, int]:
    """The first line that is not blank ("" if there is none), and the number of lines before it."""
    for skipped in itertools.count():
        line = file.readline()
        if not line or line.strip(" \t\r\n;,"):
            return line, skipped
    raise AssertionError


def _split(line: str, delimiter: str) -> list[str]:
    try:
        return [value.strip() for value in next(csv.reader(io.StringIO(line), delimiter=delimiter), [])]
    except csv.Error:
        return []


def _has_columns(line: str, delimiter: str, reading: Reading) -> bool:
    columns = choose_columns(tuple(_split(line, delimiter)), reading.columns)
    return columns.audio is not None and columns.text is not None


def _lines(
    source: str, file: Iterator[str], delimiter: str, quoted: bool, skipped: int, reading: Reading, report: ReportFault
) -> Iterator[Line]:
    """Yield the header, then each row with as many values, each with the number of its first line."""
    if quoted:
        # SpeechBrain's files may have a space after the comma. strict: otherwise a quote that is never closed
        # would silently swallow the rest of the file.
        reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
    else:
        reader = csv.reader(file, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    header: list[str] = []
    width = -1
    while True:
        number = reader.line_num + 1 + skipped
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            report(ManifestError(_explained(error), file=source, row=number))
            continue
        if len(values) == width and values[0][:1].strip():  # the usual case
            yield number, values
            continue
        if not "".join(values).strip():
            continue
        if not header:
            header = [value.strip() for value in values]
            try:
                _require_columns(source, number, header, reading)
            except ManifestError as fault:
                raise _with_drive(fault, next(reader, []), reading) from None
            width = len(header)
            yield number, header
            continue
        if len(values) != len(header):
            if any(value.strip() for value in values[len(header) :]):
                what = NAMES[delimiter]
                remedy = f"quote texts that hold {what}" if quoted else f"remove the {what} inside texts"
                problem = f"has {counted(len(values), 'field')}, the header has {len(header)}"
                report(ManifestError(f"{problem}; {remedy}", file=source, row=number))
                continue
            values = (values + [""] * (len(header) - len(values)))[: len(header)]
        yield number, values


def _explained(error: csv.Error) -> str:
    if "field limit" in str(error):
        limit = f"more than {csv.field_size_limit():,} characters"
        return f"a field of {limit}; is a quote in it never closed? If not, shorten the text"
    remedy = 'put a text that holds a quote in quotes and double it inside: "say ""yes"""'
    return f"bad quoting ({error}); {remedy}"


def _with_drive(fault: ManifestError, values: Sequence[str], reading: Reading) -> ManifestError:
    """What is wrong with a header, and with the paths in the first row, which would be the next to be refused."""
    drive = next((value.strip() for value in values if WINDOWS_DRIVE.match(value.strip())), None)
    if drive is None or os.name == "nt" or reading.audio_root is not None:
        return fault
    problem = f"{fault.problem}; {shown(drive)} is on a Windows drive: {drive_remedy(drive)}"
    return ManifestError(problem, file=fault.file, row=fault.row, field=fault.field)


def _require_columns(source: str, number: int, header: list[str], reading: Reading) -> None:
    reading.require_columns(source, number, header)
    named = {name for _, name in reading.columns}
    for name in header:
        if name in ALL_COLUMNS | named and header.count(name) > 1:
            raise ManifestError("the column is repeated; remove one", file=source, row=number, field=name)
