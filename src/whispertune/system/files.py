"""Atomic writes of files and folders."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from whispertune.errors import RunFolderError
from whispertune.system.locks import POSIX_FILES, is_in_use, mark_in_use

LONGEST_NAME = 229
"""Longest file name in bytes to which a temporary suffix can be added: file systems allow 255."""


def sha256_of(path: Path) -> str:
    """sha256 of a file's content, in hexadecimal digits; raises OSError if it can't be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync_path(path: Path) -> None:
    """Make a file's content, or a folder's entries, durable; Windows has no way to do so for a folder."""
    if not POSIX_FILES and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY if POSIX_FILES else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(path: Path, role: str) -> Path:
    """A name that no user would choose, so that it may be deleted; a long name is replaced by its digest."""
    name = (
        path.name if len(os.fsencode(path.name)) <= LONGEST_NAME else hashlib.sha256(os.fsencode(path.name)).hexdigest()
    )
    return path.with_name(f".{name}.whispertune-{role}")


def _new(path: Path) -> Path:
    """A temporary name that no other process uses."""
    return _beside(path, f"new-{secrets.token_hex(4)}")


TEMPORARY = re.compile(r"\..+\.whispertune-new(-[0-9a-f]{8})?|\.whispertune-writable-[0-9a-f]{16}", re.DOTALL)
"""Names of what is being written; a killed process leaves such files and folders behind."""
ABANDONED_AFTER = 3600.0
"""Seconds between now and the last change, either way (clocks are set back), after which a temporary folder that no
process marks as in use is assumed to belong to a killed one."""


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; the file written there replaces `path` atomically on success."""
    temporary = _new(path)
    try:
        yield temporary
        fsync_path(temporary)
        temporary.replace(path)
        fsync_path(path.parent)
    except OSError as error:
        if error.filename is None:  # errors of write() name no file
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path` that replaces it on success.

    This takes two renames; a kill between them leaves only the old folder under another name, which `recover_folder`
    restores.
    """
    temporary, old = _new(path), _beside(path, "old")
    recover_folder(path)
    _remove_abandoned(path)
    temporary.mkdir(parents=True)
    mark = mark_in_use(temporary)
    try:
        yield temporary
        for file in temporary.rglob("*"):
            fsync_path(file)
        fsync_path(temporary)
        if path.exists():
            path.rename(old)
        temporary.rename(path)
        fsync_path(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True) if path.exists() else None
        if mark is not None:
            os.close(mark)


def _remove_abandoned(path: Path) -> None:
    """Remove temporary folders of killed processes that were replacing this one."""
    start = _beside(path, "new").name
    for folder in path.parent.iterdir() if path.parent.is_dir() else []:
        if folder.name.startswith(start) and TEMPORARY.fullmatch(folder.name) and folder.is_dir():
            with suppress(OSError):  # it has just been renamed or removed, or is another user's
                changed = max(entry.lstat().st_mtime for entry in (folder, *folder.iterdir()))
                if abs(time.time() - changed) > ABANDONED_AFTER and not is_in_use(folder):
                    shutil.rmtree(folder, ignore_errors=True)


def recover_folder(path: Path) -> None:
    """Undo a replacement that was killed between its two renames, or clean up after one that was killed after them."""
    old = _beside(path, "old")
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
    elif old.exists():
        old.rename(path)


def write_text(path: Path, text: str) -> str:
    """Write a whole file atomically; returns its sha256."""
    # Lone surrogates (from \udc80 in a JSONL manifest) can't be encoded; as escapes they stay valid JSON and YAML.
    content = text.encode("utf-8", errors="backslashreplace")
    with replacing_file(path) as temporary:
        temporary.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> str:
    """Write rows as JSON lines, atomically; returns the file's sha256."""
    return write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All rows of a JSON-lines file that this module wrote."""
    # Not splitlines(), which splits at U+2028 and U+0085 too.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@contextmanager
def no_empty_folders(*folders: str | Path | None) -> Iterator[None]:
    """If the code inside fails, remove those of the folders, and of their parents, that it made and left empty."""
    paths = [Path(folder) for folder in folders if folder is not None]
    # Path.exists() raises for a name that is too long.
    missing = [path for folder in paths for path in (folder, *folder.parents) if not os.path.exists(path)]  # noqa: PTH110
    try:
        yield
    except BaseException:
        for path in missing:
            with suppress(OSError):  # it is not empty, or was not made
                path.rmdir()
        raise


def make_writable(folder: Path, flag: str = "--output") -> None:
    """Create a folder, which `flag` names, and check that files can be written to it.

    Raises:
        RunFolderError: if not.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".whispertune-writable-{secrets.token_hex(8)}"
        probe.touch(exist_ok=False)  # never an existing file
        probe.unlink(missing_ok=True)  # a run that has just claimed the folder may have removed it
    except OSError as error:
        raise RunFolderError(f"{flag}: cannot write to {folder} ({error.strerror}); choose another folder") from None
