"""Cache of what was read from large corpora: rows, which texts are valid, and audio headers, as columns.

An entry is a `.npz` named by a hash of everything that decides its content: the manifests' bytes (not their times) and
location, the reading options, and the source of the modules that read them. Each part carries a CRC, so that a damaged
entry is detected and rebuilt; entries are written aside and renamed, so that two processes can write at once.
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
from concurrent.futures import ThreadPoolExecutor
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
from whispertune.data.readers import manifest, nested, tables, tar_shards
from whispertune.data.remote import RemotePath, content_sha256
from whispertune.data.utterances import Utterances
from whispertune.errors import RecipeError
from whispertune.system.files import ABANDONED_AFTER
from whispertune.system.home import cache_folder
from whispertune.system.locks import is_in_use, mark_in_use

FEWEST_ROWS = 20_000
"""Smaller corpora are read again in a moment, so they are not cached."""
MOST_BYTES = 4 * 10**9
"""Total size of all entries; the least recently used are evicted first."""
READING: tuple[ModuleType, ...] = (manifest, nested, plain_rows, reading, rows, tables, tar_shards, utterances)
PROBING: tuple[ModuleType, ...] = (audio, containers, av_decoder, sound_files, utterances)
REQUESTS = 16
"""Shards whose versions are asked for at once."""
Columns = dict[str, npt.NDArray[Any]]
Headers = npt.NDArray[np.int64]
"""(m, 5) for m files: samples per channel and sample rate of the recording, size and modification time (ns) of its
file, and the number of channels it is known to have (1 until a row asks for a later one); zeros if unreadable."""


@dataclass(slots=True)
class Files:
    """The m files that the recordings of n rows lie in.

    of: (n,) index of each row's file. rows: (m,) a row of each file. headers: their headers when they were last read.
    """

    of: npt.NDArray[np.int32]
    rows: npt.NDArray[np.int64]
    headers: Headers


def index_folder() -> Path:
    """~/.cache/whispertune/index, or the same below XDG_CACHE_HOME."""
    return cache_folder() / "index"


def rows_key(described: str, manifests: Sequence[Path]) -> str | None:
    """The cache key of the rows of these manifests; None if the rows depend on more than the manifests' bytes."""
    parts: list[object] = [described, sources_of(READING)]
    shards: list[RemotePath] = []
    for path in manifests:
        folder = path.absolute().parent
        if isinstance(path, RemotePath) and path.suffix == ".tar":
            shards.append(path)
            continue
        if (folder / "clips").is_dir():  # the audio's path then depends on which files exist
            return None
        try:
            parts.append([str(folder), content_sha256(path)])
        except OSError:  # its reader will report it
            return None
    with ThreadPoolExecutor(REQUESTS, "shards") as pool:
        versions = list(pool.map(_version, shards))
    if not all(versions):
        return None
    parts.append([[str(path), version] for path, version in zip(shards, versions, strict=True)])
    return _key("rows", parts)


def _version(path: RemotePath) -> str:
    try:
        return path.version()
    except OSError:  # its reader will report it
        return ""


def indexed_rows(key: str) -> Utterances | None:
    """The rows stored under this key, if there are any and they are intact."""
    columns = _load(key)
    return None if columns is None else Utterances.from_columns(columns)


def index_rows(key: str, read: Utterances, *, few_too: bool = False) -> None:
    """Store rows for `indexed_rows`, if there are enough of them, or few take long to read as well."""
    if len(read) >= FEWEST_ROWS or few_too:
        _save(key, read.columns())


def indexed_files(read: Utterances) -> Files | None:
    """The stored files of these rows; they may have changed since."""
    columns = _load(_files_key(read)) if _is_kept(read) else None
    if columns is None or columns["of"].shape != (len(read),):
        return None
    return Files(columns["of"], columns["rows"], columns["headers"])


def index_files(read: Utterances, files: Files) -> None:
    """Store files for `indexed_files`, if there are enough rows."""
    if _is_kept(read):
        _save(_files_key(read), {"of": files.of, "rows": files.rows, "headers": files.headers})


def indexed_verdicts(read: Utterances, judged: str) -> npt.NDArray[np.bool_] | None:
    """(n,) whether each row's text is valid, if stored. judged: everything that this depends on beside the rows."""
    columns = _load(_key("verdicts", [read.fingerprint, judged])) if _is_kept(read) else None
    return None if columns is None or columns["valid"].shape != (len(read),) else columns["valid"]


def index_verdicts(read: Utterances, judged: str, valid: npt.NDArray[np.bool_]) -> None:
    """Store verdicts for `indexed_verdicts`, if there are enough rows."""
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
    """Digests of the modules' source, in place of version numbers that somebody may forget to raise."""
    return [hashlib.sha256(Path(module.__file__ or "").read_bytes()).hexdigest() for module in modules]


def _load(key: str) -> Columns | None:
    try:
        path = index_folder() / f"{key}.npz"
        with path.open("rb") as file:
            if zipfile.ZipFile(file).testzip() is not None:  # a damaged shape could allocate all memory
                return None
            file.seek(0)
            with np.load(file, allow_pickle=False) as entry:
                columns = {name: entry[name] for name in entry.files}
        if columns.pop("key").tobytes() != key.encode():
            return None
        os.utime(path)  # for eviction
    except Exception:  # missing, or damaged in any way
        return None
    return columns


def _save(key: str, columns: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write an entry; failures are ignored, as the next start only takes longer without it."""
    temporary: str | None = None
    mark: int | None = None
    try:
        folder = index_folder()
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(suffix=".new", dir=folder)
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
            mark = mark_in_use(Path(temporary))
            np.savez(file, key=np.frombuffer(key.encode(), np.uint8), **columns)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        _make_room(folder, Path(temporary).stat().st_size)
        Path(temporary).replace(folder / f"{key}.npz")
    except (OSError, RecipeError):  # RecipeError: no home folder
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
    finally:
        if mark is not None:
            os.close(mark)


def _make_room(folder: Path, num_bytes: int) -> None:
    """Evict the least recently used entries until another one fits, and remove what killed processes left."""
    entries = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError):  # another process has just removed it
            found = path.stat()
            if path.suffix == ".new":
                if abs(time.time() - found.st_mtime) > ABANDONED_AFTER and not is_in_use(path):
                    path.unlink()
            elif path.suffix == ".npz":
                entries.append((found.st_mtime, found.st_size, path))
    total = num_bytes + sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= MOST_BYTES:
            break
        path.unlink(missing_ok=True)
        total -= size
