"""WebDataset shards: tar files that hold KEY.flac with KEY.txt or KEY.json.

    --train 'shards/train-{000..010}.tar'

Only headers and texts are read here; a recording is read from the tar when it is needed. Nothing is ever unpacked, so
that no name in a tar can touch a file outside of it.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from itertools import chain, product
from pathlib import Path
from typing import NoReturn

from whispertune.data.readers.transcript_folder import AUDIO
from whispertune.data.reading import AS_USUAL, KINDS, TEXT_COLUMNS, Reading
from whispertune.data.remote import as_path
from whispertune.data.rows import Row, make_row
from whispertune.data.text_files import decode_text
from whispertune.data.utterances import Utterances
from whispertune.errors import ManifestError

RANGE = re.compile(r"\{(\d{1,18})\.\.(\d{1,18})\}", re.ASCII)
MOST_SHARDS = 100_000
MOST_TEXT_BYTES = 1 << 20
KEPT = [name for kind in ("text", "id", "language", "task", "speaker", "prompt") for name in KINDS[kind]]


def expand_shards(pattern: str) -> list[Path]:
    """`a-{000..002}.tar` as a-000.tar, a-001.tar, a-002.tar; a path without a range as it is.

    Raises:
        ManifestError: for a range that goes backwards, and for more than 100,000 shards.
    """
    constants = RANGE.split(pattern)[::3]
    ranges = [(match[0], match[1], int(match[1]), int(match[2])) for match in RANGE.finditer(pattern)]
    total = 1
    for written, _, first, last in ranges:
        if not first <= last:
            raise ManifestError(f"{pattern}: {written} is not a range of shards; write it as {{000..010}}")
        total *= last - first + 1
    if total > MOST_SHARDS:
        raise ManifestError(f"{pattern}: means {total:,} shards; a source may have at most {MOST_SHARDS:,}")
    numbers = [[f"{n:0{len(width)}d}" for n in range(first, last + 1)] for _, width, first, last in ranges]
    joined = ("".join(chain.from_iterable(zip(constants, [*chosen, ""], strict=True))) for chosen in product(*numbers))
    return [as_path(path) for path in joined]


def add_shard(path: Path, utterances: Utterances, reading: Reading = AS_USUAL) -> None:
    """Add every sample of one tar, in its order. The row number is that of the tar's member.

    Raises:
        ManifestError: for a file that is not a tar, a compressed or truncated tar, names that point outside, links, and
            samples without audio or text.
    """
    reading.require_no_root(path)
    key, sample = "", _Sample(reading)
    for number, member, file in _members(path):
        name, _, ending = member.name.rpartition("/")[2].partition(".")
        sample_key = f"{member.name.rpartition('/')[0]}/{name}".removeprefix("/").removeprefix("./")
        if sample_key != key:
            sample.add_to(path, key, utterances)
            key, sample = sample_key, _Sample(reading)
        sample.row = sample.row or number
        try:
            sample.take(path, number, member, "." + ending.lower().rpartition(".")[2], file)
        except ManifestError as fault:
            utterances.report(fault)
            sample.is_at_fault = True
    sample.add_to(path, key, utterances)


class _Sample:
    """The members of one key."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.row = 0
        self.audio: tuple[int, int] | None = None
        self.name = ""
        self.text: str | None = None
        self.record: dict[str, object] = {}
        self.is_at_fault = False

    def take(self, path: Path, number: int, member: tarfile.TarInfo, kind: str, file: tarfile.ExFileObject) -> None:
        """Take in a member, if it is audio or text. file: the tar, positioned at its content."""
        if kind in AUDIO:
            if self.audio is not None:
                _fail(path, number, member.name, "a second recording in one sample", "give each a name of its own")
            self.audio, self.name = (member.offset_data, member.size), member.name
        elif kind in (".txt", ".json"):
            if member.size > MOST_TEXT_BYTES:
                _fail(path, number, member.name, "a text of more than 1 MiB", "is it really the transcript?")
            self.read(path, number, member.name, kind, file.read(member.size))

    def read(self, path: Path, number: int, name: str, kind: str, content: bytes) -> None:
        text = decode_text(f"{path}, row {number} ({name})", content, empty=None)
        if kind == ".txt":
            self.text = " ".join(text.split())
            return
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            _fail(path, number, name, "not a JSON object", 'write {"text": "Ciao."}')
        record = self.reading.renamed(record)
        self.record = {field: record[field] for field in KEPT if field in record}

    def add_to(self, path: Path, key: str, utterances: Utterances) -> None:
        if self.is_at_fault or (self.audio is None and self.text is None and not self.record):
            return  # already reported, no speech in it, or before the first sample
        try:
            self._row(path, key).add_to(utterances, str(path.absolute()), within=self.audio)
        except ManifestError as fault:
            utterances.report(fault)

    def _row(self, path: Path, key: str) -> Row:
        if self.audio is None:
            _fail(path, self.row, key, "a text without a recording", "put the two side by side, under one name")
        record = {**self.record, "audio": self.name}
        record.setdefault("id", key)
        if self.text is not None:
            record = {field: value for field, value in record.items() if field not in TEXT_COLUMNS}
            record["text"] = self.text
        elif not any(field in record for field in TEXT_COLUMNS):
            _fail(path, self.row, key, "a recording without text", f"put {key}.txt, or {key}.json, right beside it")
        return make_row(str(path), self.row, record)


def _members(path: Path) -> Iterator[tuple[int, tarfile.TarInfo, tarfile.ExFileObject]]:
    """Yield (number, header, the tar positioned at its content) for each file in a tar."""
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            size, reached = file.seek(0, 2), -1
            for number, member in enumerate(iter(tar.next, None), start=1):
                tar.members.clear()  # type: ignore[attr-defined] # otherwise it keeps every header
                if member.isdir():
                    continue
                parts = member.name.split("/")
                if member.name.startswith("/") or ".." in parts or not member.isreg() or member.issparse():
                    problem = "a name that points outside of it" if member.isreg() else "not a plain file"
                    _fail(path, number, member.name, problem, "make the tar again from plain files")
                if member.offset_data <= reached or member.size < 0:
                    _fail(path, number, member.name, "a damaged header", "fetch it again")
                reached = member.offset_data
                if member.offset_data + member.size > size:
                    _fail(path, number, member.name, "cut short", "fetch the tar again")
                file.seek(member.offset_data)
                yield number, member, file  # type: ignore[misc]
    except FileNotFoundError:
        raise ManifestError(f"{path}: no such file; check the path") from None
    except RecursionError:  # tarfile recurses for each header of a long name
        raise ManifestError(f"{path}: its headers are nested too deeply; make the tar again from plain files") from None
    except tarfile.TarError as error:
        packed = " or, as it is compressed, gunzip it: recordings are read in place" if _packed(path) else ""
        raise ManifestError(f"{path}: is not an uncompressed tar ({error}); fetch it again{packed}") from None
    except (OSError, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ManifestError(f"{path}: cannot be read ({reason}); fetch it again") from None


def _packed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(6).startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"))


def _fail(path: Path, number: int, name: str, problem: str, remedy: str) -> NoReturn:
    raise ManifestError(f"{problem}; {remedy}", file=path, row=number, field=name[:80])
