"""Files that check and split write into the user's folder, marked so that the command replaces only these.

The mark lists the sha256 of each file's last content and of the content being written, as a kill may leave either.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from whispertune.errors import RunFolderError
from whispertune.system.files import replacing_file, sha256_of, write_text

MARK = "whispertune-check.json"
"""Name of the file with the sha256 of what check wrote beside it; other commands' have their names in it."""


def require_replaceable(
    flag: str, folder: Path, names: Collection[str], inputs: Collection[Path], command: str = "check"
) -> None:
    """Refuse a folder where a file of these names is not an unchanged result of the command, or is an input.

    Raises:
        RunFolderError: with the file.
    """
    read = {path.resolve() for path in inputs}
    for name in names:
        path = folder / name
        if path.resolve() in read:
            raise RunFolderError(f"{flag}: {path} is an input and would be overwritten; choose another folder")
        if not _is_ours(path, command):
            raise RunFolderError(
                f"{flag}: {path} would be overwritten, but `whispertune {command}` did not write it, or it was changed "
                "since; choose another folder, or move it away"
            )
    if os.path.lexists(_mark(folder, command)) and _written(folder, command) is None:
        raise RunFolderError(f"{flag}: {_mark(folder, command)} was not written by {command}; choose another folder")


@contextmanager
def writing(path: Path, command: str = "check", *, overwrite: bool = False) -> Iterator[TextIO]:
    """A text file that replaces `path` atomically and is marked as written by the command.

    overwrite: whether it may replace what somebody else has written.

    Raises:
        RunFolderError: if somebody else has written to `path` in the meantime.
    """
    with replacing_file(path) as temporary:
        # Lone surrogates (names that are not UTF-8) can't be encoded; as escapes they stay valid JSON.
        with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
            yield file
        if not overwrite and not _is_ours(path, command):
            raise RunFolderError(f"{path}: was changed by another program meanwhile; move it away, and {command} again")
        written = _written(path.parent, command) or {}
        written[path.name] = [*written.get(path.name, [])[-1:], sha256_of(temporary)]
        content = {"written_by": f"whispertune {command}", "files": written}
        write_text(_mark(path.parent, command), json.dumps(content, indent=2) + "\n")


def _mark(folder: Path, command: str) -> Path:
    return folder / MARK.replace("check", command)


def _is_ours(path: Path, command: str) -> bool:
    """Whether a path does not exist or is unchanged since the command wrote it."""
    if not os.path.lexists(path):
        return True
    marked = (_written(path.parent, command) or {}).get(path.name, [])
    return path.is_file() and not path.is_symlink() and sha256_of(path) in marked


def _written(folder: Path, command: str) -> dict[str, list[str]] | None:
    """The sha256 list of each file in a folder's mark; None without a mark."""
    try:
        content = json.loads(_mark(folder, command).read_text(encoding="utf-8"))
        files = content["files"] if content["written_by"] == f"whispertune {command}" else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    if not isinstance(files, dict) or not all(isinstance(hashes, list) for hashes in files.values()):
        return None
    return {str(name): [str(digest) for digest in hashes] for name, hashes in files.items()}
