"""Manifests: one row per utterance, as CSV, TSV or JSON lines.

    utterances = read_manifest(Path("train.csv"))

SpeechBrain CSV, Common Voice TSV, Hugging Face audiofolder `metadata.csv` and NeMo JSONL load as they are.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import reprlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from whispertune.errors import ManifestError

# The first of these columns that is present counts.
AUDIO_COLUMNS = ("audio", "audio_filepath", "wav", "path", "file_name")
TEXT_COLUMNS = ("text", "wrd", "sentence", "transcription", "transcript")
ID_COLUMNS = ("id", "ID")
LANGUAGE_COLUMNS = ("language", "locale")
TASK_COLUMNS = ("task",)
START_COLUMNS = ("start", "offset")
END_COLUMNS = ("end",)
DURATION_COLUMNS = ("duration",)
SPEAKER_COLUMNS = ("speaker", "client_id")
PROMPT_COLUMNS = ("prompt",)
ALL_COLUMNS = frozenset(
    AUDIO_COLUMNS + TEXT_COLUMNS + ID_COLUMNS + LANGUAGE_COLUMNS + TASK_COLUMNS + START_COLUMNS
    + END_COLUMNS + DURATION_COLUMNS + SPEAKER_COLUMNS + PROMPT_COLUMNS
)  # fmt: skip

DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson", ".json-lines", ".json")

# float() alone would also take "1_000", "infinity" and digits of other scripts.
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")  # tab and line ends are fine in a text
CONTROL_OR_LINE_END = re.compile(r"[\x00-\x1f\x7f]")
PLACEHOLDER = re.compile(r"(\$\{\w+\}|\$\w+(?=[/\\])|\{\w+\}(?=[/\\]))")  # SpeechBrain's $data_root/…
URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")


@dataclass(frozen=True, kw_only=True, slots=True)
class Utterance:
    """A span of an audio file and what is said in it."""

    id: str
    audio: Path
    text: str
    """As written, surrounding white space removed; "" if the row has none."""
    start: float = 0.0
    """Seconds."""
    end: float | None = None
    """Seconds; None is the end of the file."""
    language: str | None = None
    task: str | None = None
    speaker: str | None = None
    prompt: str | None = None
    source: str = ""
    """The manifest."""
    row: int = 0
    """The line in the manifest where the row starts, as an editor counts (a CSV's header is line 1)."""


def read_manifest(path: Path) -> list[Utterance]:
    """The utterances of `path`, in its order; the format follows from the ending.

    Audio files are not opened. Raises ManifestError, in one line that names file, row, field and remedy.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in DELIMITERS and ending not in JSON_LINES and not path.is_dir():
        endings = ", ".join((*DELIMITERS, *JSON_LINES))
        raise ManifestError(f"{path}: unknown ending {ending!r}; name the file as what it is: {endings}")
    content = _read_text(path)
    if ending in DELIMITERS:
        rows = list(_delimited_rows(path, content, DELIMITERS[ending]))
    else:
        rows = list(_json_rows(path, content))
        _require_columns(path, list(dict.fromkeys(name for row in rows for name in row.record)))

    clips = path.absolute().parent / "clips"
    has_clips = clips.is_dir()
    utterances: list[Utterance] = []
    first_rows: dict[str, int] = {}
    for row in rows:
        utterance = row.utterance(clips if has_clips else None)
        first_row = first_rows.setdefault(utterance.id, utterance.row)
        if first_row != utterance.row:
            name = row.column(ID_COLUMNS) or row.column(AUDIO_COLUMNS) or "id"
            remedy = f"row {first_row} has it already; give each utterance an id of its own"
            raise row.fault(name, f"the id {_shown(utterance.id)} is repeated", remedy)
        utterances.append(utterance)
    return utterances


@dataclass(frozen=True, slots=True)
class _Row:
    """A row before its values are checked."""

    path: Path
    number: int
    record: dict[str, object]

    def fault(self, field: str, problem: str, remedy: str) -> ManifestError:
        return ManifestError(f"{self.path}, row {self.number}, field {field!r}: {problem}; {remedy}")

    def column(self, names: Iterable[str]) -> str | None:
        return next((name for name in names if name in self.record), None)

    def string(self, names: tuple[str, ...], *, numbers: bool = False, one_line: bool = False) -> str:
        """The value, stripped; "" if there is none. `numbers`: JSON integers will do, as in `"id": 17`."""
        name = self.column(names)
        value = self.record[name] if name else None
        if name is None or value is None:
            return ""
        if numbers and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            raise self.fault(name, f"{_shown(value)} is no text", "write it as a string, in double quotes")
        value = value.strip()
        control = (CONTROL_OR_LINE_END if one_line else CONTROL).search(value)
        if control:
            problem = f"{_shown(value)} holds the control character {control.group()!r}"
            raise self.fault(name, problem, "remove it")
        try:
            value.encode()
        except UnicodeEncodeError:
            problem = f"{_shown(value)} holds half of a surrogate pair"
            raise self.fault(name, problem, "write the character itself, as UTF-8") from None
        return value

    def seconds(self, names: tuple[str, ...]) -> float | None:
        """The value in seconds, finite and not negative; None if there is none."""
        name = self.column(names)
        value = self.record[name] if name else None
        if name is None or value is None:
            return None
        text = value.strip() if isinstance(value, str) else str(value)
        if not text:
            return None
        remedy = "give seconds as a plain number, such as 3.25"
        if isinstance(value, (bool, list, dict)):
            raise self.fault(name, f"{_shown(value)} is no number", remedy)
        seconds = float(text) if NUMBER.fullmatch(text) else math.nan
        if not math.isfinite(seconds):
            raise self.fault(name, f"{_shown(value)} is no finite number", remedy)
        if seconds < 0:
            raise self.fault(name, f"{_shown(value)} is negative", "give seconds from the file's beginning")
        return seconds

    def span(self) -> tuple[float, float | None]:
        """Start and end in seconds."""
        start = self.seconds(START_COLUMNS) or 0.0
        end = self.seconds(END_COLUMNS)
        if end is not None and end <= start:
            problem = f"the end, {end:g} s, is not after the start, {start:g} s"
            raise self.fault("end", problem, "both count from the file's beginning, in seconds")
        if end is None:
            duration = self.seconds(DURATION_COLUMNS)
            if duration is not None:
                end = round(start + duration, 6)  # 1.1 + 2.2 is 3.3, not 3.3000000000000003
                if end <= start:
                    raise self.fault("duration", f"{duration:g} s is no duration", "give seconds above 0")
        return start, end

    def utterance(self, clips: Path | None) -> Utterance:
        audio = self.string(AUDIO_COLUMNS, one_line=True)
        name = self.column(AUDIO_COLUMNS) or AUDIO_COLUMNS[0]
        if not audio:
            raise self.fault(name, "no audio file is given", "fill it in or delete the row")
        placeholder = PLACEHOLDER.match(audio)
        if placeholder:
            problem = f"{_shown(audio)} holds the placeholder {placeholder.group()!r}"
            raise self.fault(name, problem, "replace it by the folder that it stands for")
        if URL.match(audio):
            raise self.fault(name, f"{_shown(audio)} is a URL", "download the file and give its path")

        start, end = self.span()
        id_ = self.string(ID_COLUMNS, numbers=True, one_line=True)
        if not id_:
            id_ = audio
            if start > 0 or end is not None:
                id_ = f"{audio}#{_id_seconds(start)}-{'' if end is None else _id_seconds(end)}"
        audio_path = self.path.absolute().parent / audio
        # Common Voice keeps its audio in clips/, beside the manifest, and does not say so.
        if clips and not Path(audio).is_absolute() and not _exists(audio_path) and _exists(clips / audio):
            audio_path = clips / audio
        return Utterance(
            id=id_,
            audio=audio_path,
            text=self.string(TEXT_COLUMNS),
            start=start,
            end=end,
            language=self.string(LANGUAGE_COLUMNS, one_line=True) or None,
            task=self.string(TASK_COLUMNS, one_line=True) or None,
            speaker=self.string(SPEAKER_COLUMNS, numbers=True, one_line=True) or None,
            prompt=self.string(PROMPT_COLUMNS) or None,
            source=str(self.path),
            row=self.number,
        )


def _read_text(path: Path) -> str:
    try:
        if path.is_dir():
            raise ManifestError(f"{path}: is a folder; give the manifest file in it")
        content = path.read_bytes()
    except FileNotFoundError:
        raise ManifestError(f"{path}: no such file; check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise ManifestError(f"{str(path)!r}: cannot be read ({reason}); check the path and its rights") from None
    try:
        text = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        raise ManifestError(f"{path}, row {line}: byte 0x{byte:02x} is not UTF-8; save the file as UTF-8") from None
    if not text.strip():
        raise ManifestError(f"{path}: is empty; write a row per utterance, with audio and text")
    return text


def _delimited_rows(path: Path, content: str, delimiter: str) -> Iterator[_Row]:
    if delimiter == "\t":
        # Common Voice's sentences hold stray quotes, and a TSV has no quoting.
        reader = csv.reader(io.StringIO(content, newline=""), delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        # SpeechBrain's files may have a space behind the comma. strict: a quote that is never closed
        # would otherwise swallow the rest of the file unseen.
        reader = csv.reader(io.StringIO(content, newline=""), skipinitialspace=True, strict=True)
    header: list[str] = []
    while True:
        number = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            remedy = 'put a text that holds a quote in quotes and double it inside: "say ""yes"""'
            raise ManifestError(f"{path}, row {number}: bad quoting ({error}); {remedy}") from None
        if not any(value.strip() for value in values):
            continue
        if not header:
            header = [value.strip() for value in values]
            _require_columns(path, header)
            continue
        if any(value.strip() for value in values[len(header) :]):
            remedy = "quote texts that hold a comma" if delimiter == "," else "remove the tabs inside texts"
            raise ManifestError(
                f"{path}, row {number}: has {len(values)} fields, the header has {len(header)}; {remedy}"
            )
        values += [""] * (len(header) - len(values))
        yield _Row(path, number, dict(zip(header, values, strict=False)))


def _json_rows(path: Path, content: str) -> Iterator[_Row]:
    # Not splitlines(): a JSON string may hold U+2028, which would count as a line end.
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, row {number}"
        remedy = 'write one object per line, such as {"audio": "a.wav", "text": "Ciao."}'
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", "a number or nesting out of bounds")
            raise ManifestError(f"{where}: {_shown(line.strip())} is no JSON ({reason}); {remedy}") from None
        if not isinstance(record, dict):
            raise ManifestError(f"{where}: {_shown(record)} is no JSON object; {remedy}")
        yield _Row(path, number, record)


def _require_columns(path: Path, columns: list[str]) -> None:
    found = ", ".join(_shown(column) for column in columns) or "none"
    for kind, names in (("audio", AUDIO_COLUMNS), ("text", TEXT_COLUMNS)):
        if not any(name in columns for name in names):
            remedy = f"name one of them {', '.join(names)}"
            if len(columns) == 1 and (";" in columns[0] or "\t" in columns[0]):
                remedy += " (is the file separated by semicolons or tabs? .csv takes commas, .tsv tabs)"
            raise ManifestError(f"{path}, row 1: no {kind} column among {found}; {remedy}")
    for name in columns:
        if name in ALL_COLUMNS and columns.count(name) > 1:
            raise ManifestError(f"{path}, row 1, field {name!r}: the column is there twice; remove one")


def _shown(value: object) -> str:
    """On one line and short, for messages."""
    text = repr(value) if isinstance(value, str) else reprlib.repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _id_seconds(seconds: float) -> str:
    text = f"{seconds:.2f}"
    return text if float(text) == seconds else repr(seconds)  # so that different spans get different ids


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long to be a file; reading it will say so
        return False
