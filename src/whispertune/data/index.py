"""Large corpora looked over once: rows, verdicts on texts, headers of audio, kept in the cache folder as columns.

An entry is a `.npz` named after everything that decides its content: the manifests' bytes (not their times), where they
lie, what the user says of them, and the source of the modules that read them. Each part carries a CRC, so a damaged
entry is noticed and made anew; it is written beside its place and renamed, so that two processes at once do no harm.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile

from whispertune.data import plain_rows, reading, rows, utterances
from whispertune.data.audio import av_decoder, containers, sound_files
from whispertune.data.audio import waveforms as audio
from whispertune.data.readers import manifest, nested, tables
from whispertune.data.utterances import Utterances
from whispertune.errors import RecipeError
from whispertune.system.home import cache_folder

FEWEST_ROWS = 20_000
"""Fewer are read anew in a moment."""
MOST_BYTES = 4 * 10**9
"""Of all entries together; those that were not used for longest go first."""
READING: tuple[ModuleType, ...] = (manifest, nested, plain_rows, reading, rows, tables, utterances)
PROBING: tuple[ModuleType, ...] = (audio, containers, av_decoder, sound_files, utterances)
Columns = dict[str, npt.NDArray[Any]]
Headers = npt.NDArray[np.int64]
"""(m, 5) of files: samples per channel and sample rate of the recording, size and time of change (ns) of its file, and
how many channels are known to be there (1 until a row asks for a later one); zeros where it could not be read."""


@dataclass(slots=True)
class Files:
    """The files of n rows; one may be there several times.

    of: (n,) which of the m files holds a row. rows: (m,) a row of each. headers: what they said when last looked at.
    """

    of: npt.NDArray[np.int32]
    rows: npt.NDArray[np.int64]
    headers: Headers


def index_folder() -> Path:
    """~/.cache/whispertune/index, or where XDG_CACHE_HOME says."""
    return cache_folder() / "index"


def rows_key(described: str, manifests: Sequence[Path]) -> str | None:
    """The key of what is read from these manifests, described so; None where it follows from more than their bytes."""
    parts: list[object] = [described, sources_of(READING)]
    for path in manifests:
        folder = path.absolute().parent
        if (folder / "clips").is_dir():  # which files are there decides where a row's audio lies
            return None
        try:
            with path.open("rb") as file:
                parts.append([str(folder), hashlib.file_digest(file, "sha256").hexdigest()])
        except OSError:  # its reader will say so
            return None
    return _key("rows", parts)


def indexed_rows(key: str) -> Utterances | None:
    """The rows that were kept under this key, if they are there and sound."""
    columns = _load(key)
    return None if columns is None else Utterances.from_columns(columns)


def index_rows(key: str, read: Utterances) -> None:
    """Keep rows for `indexed_rows`, if they are many."""
    if len(read) >= FEWEST_ROWS:
        _save(key, read.columns())


def indexed_files(read: Utterances) -> Files | None:
    """The files of these rows as an earlier look found them; they may have changed since."""
    columns = _load(_files_key(read)) if _is_kept(read) else None
    if columns is None or columns["of"].shape != (len(read),):
        return None
    return Files(columns["of"], columns["rows"], columns["headers"])


def index_files(read: Utterances, files: Files) -> None:
    """Keep them for `indexed_files`, if the rows are many."""
    if _is_kept(read):
        _save(_files_key(read), {"of": files.of, "rows": files.rows, "headers": files.headers})


def indexed_verdicts(read: Utterances, judged: str) -> npt.NDArray[np.bool_] | None:
    """(n,) what was found of each row's text alone; judged: all that this follows from, beside the rows."""
    columns = _load(_key("verdicts", [read.fingerprint, judged])) if _is_kept(read) else None
    return None if columns is None or columns["valid"].shape != (len(read),) else columns["valid"]


def index_verdicts(read: Utterances, judged: str, valid: npt.NDArray[np.bool_]) -> None:
    """Keep them for `indexed_verdicts`, if the rows are many."""
    if _is_kept(read):
        _save(_key("verdicts", [read.fingerprint, judged]), {"valid": valid})


def _is_kept(read: Utterances) -> bool:
    return len(read) >= FEWEST_ROWS and bool(read.fingerprint)


def _files_key(read: Utterances) -> str:
    folders = hashlib.sha256()
    for kind in read.kinds:
        folders.update(f"{kind.folder}\0{kind.source}\0".encode("utf-8", "surrogateescape"))
    versions = [soundfile.__libsndfile_version__, sources_of(PROBING)]
    return _key("files 2", [len(read), read.fingerprint, folders.hexdigest(), versions])


def _key(kind: str, parts: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps([kind, *parts]).encode()).hexdigest()


def sources_of(modules: Sequence[ModuleType]) -> list[str]:
    """Digests of modules: no version number can be forgotten."""
    return [hashlib.sha256(Path(module.__file__ or "").read_bytes()).hexdigest() for module in modules]


def _load(key: str) -> Columns | None:
    try:
        path = index_folder() / f"{key}.npz"
        with path.open("rb") as file:
            if zipfile.ZipFile(file).testzip() is not None:  # before a damaged shape asks for all memory
                return None
            file.seek(0)
            with np.load(file, allow_pickle=False) as entry:
                columns = {name: entry[name] for name in entry.files}
        if columns.pop("key").tobytes() != key.encode():
            return None
        os.utime(path)  # it was used
    except Exception:  # not there, or whatever a damaged zip makes of its readers
        return None
    return columns


def _save(key: str, columns: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write an entry, or none: without it the next start takes longer, that is all."""
    temporary: str | None = None
    try:
        folder = index_folder()
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(suffix=".new", dir=folder)
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
            np.savez(file, key=np.frombuffer(key.encode(), np.uint8), **columns)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        _make_room(folder, Path(temporary).stat().st_size)
        Path(temporary).replace(folder / f"{key}.npz")
    except (OSError, RecipeError):  # RecipeError: no home folder
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()


def _make_room(folder: Path, num_bytes: int) -> None:
    """Drop the entries that were not used for longest until another one fits, and what killed processes left."""
    entries = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError):  # another process has just dropped it
            found = path.stat()
            if path.suffix == ".new" and time.time() - found.st_mtime > 3600:
                path.unlink()
            elif path.suffix == ".npz":
                entries.append((found.st_mtime, found.st_size, path))
    total = num_bytes + sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= MOST_BYTES:
            break
        path.unlink(missing_ok=True)
        total -= size
