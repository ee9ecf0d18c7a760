"""Files that check writes into the user's folder, marked so that the next check replaces only these.

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
"""Name of the file with the sha256 of what check wrote beside it."""
WRITTEN_BY = "whispertune check"


def require_replaceable(flag: str, folder: Path, names: Collection[str], inputs: Collection[Path]) -> None:
    """Refuse a folder where a file of these names is not an unchanged result of a check, or is an input.

    Raises:
        RunFolderError: with the file.
    """
    read = {path.resolve() for path in inputs}
    for name in names:
        path = folder / name
        if path.resolve() in read:
            raise RunFolderError(f"{flag}: {path} is an input and would be overwritten; choose another folder")
        if not _is_ours(path):
            raise RunFolderError(
                f"{flag}: {path} would be overwritten, but `whispertune check` did not write it, or it was changed "
                "since; choose another folder, or move it away"
            )
    if os.path.lexists(folder / MARK) and _written(folder) is None:
        raise RunFolderError(f"{flag}: {folder / MARK} was not written by check; choose another folder")


@contextmanager
def writing(path: Path) -> Iterator[TextIO]:
    """A text file that replaces `path` atomically and is marked as written by check.

    Raises:
        RunFolderError: if somebody else has written to `path` in the meantime.
    """
    with replacing_file(path) as temporary:
        # Lone surrogates (names that are not UTF-8) can't be encoded; as escapes they stay valid JSON.
        with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
            yield file
        if not _is_ours(path):
            raise RunFolderError(f"{path}: was changed by another program meanwhile; move it away, and check again")
        written = _written(path.parent) or {}
        written[path.name] = [*written.get(path.name, [])[-1:], sha256_of(temporary)]
        content = {"written_by": WRITTEN_BY, "files": written}
        write_text(path.parent / MARK, json.dumps(content, indent=2) + "\n")


def _is_ours(path: Path) -> bool:
    """Whether a path does not exist or is unchanged since check wrote it."""
    if not os.path.lexists(path):
        return True
    marked = (_written(path.parent) or {}).get(path.name, [])
    return path.is_file() and not path.is_symlink() and sha256_of(path) in marked


def _written(folder: Path) -> dict[str, list[str]] | None:
    """The sha256 list of each file in a folder's mark; None without a mark."""
    try:
        content = json.loads((folder / MARK).read_text(encoding="utf-8"))
        files = content["files"] if content["written_by"] == WRITTEN_BY else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    if not isinstance(files, dict) or not all(isinstance(hashes, list) for hashes in files.values()):
        return None
    return {str(name): [str(digest) for digest in hashes] for name, hashes in files.items()}
