"""The mark of an export lists its files, so that the next export replaces only these and no file of the user's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from whispertune.checkpoints import side_files
from whispertune.system.files import sha256_of

MARK = "whispertune-export.json"
"""Name of the file in every exported folder with the sha256 of all the others."""


def write_mark(folder: Path, **about: str) -> None:
    """Mark all files of a folder that an export has just written. about: its origin, for people."""
    files = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    content = {"written_by": "whispertune export", **about, "files": files}
    (folder / MARK).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def not_exported(folder: Path) -> str | None:
    """Name of an entry that was not written by an export, or was changed since; None if there is none."""
    entries = sorted(folder.iterdir())
    marked: dict[str, str] = {}
    try:
        marked |= json.loads((folder / MARK).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return entries[0].name if entries else None
    for path in entries:
        plain = path.is_file() and not path.is_symlink()
        if not plain or (path.name != MARK and _sha256(path) != marked.get(path.name, "unknown")):
            return path.name
    return None


def held_source(folder: Path, sources: Sequence[Path]) -> Path | None:
    """The first file or folder in `folder` that one of the models `sources` is read from, following links.

    A source is a folder, a run (its best/ and adapter/), or a file with its side files; missing sources are ignored.
    """
    folder = folder.resolve()
    for source in sources:
        try:
            for path in _read_from(source):
                resolved = path.resolve()
                if resolved == folder or folder in resolved.parents:
                    return path
        except OSError:  # unreadable, which is reported when the model is loaded
            continue
    return None


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and modification time (ns) of each entry, to detect changes by others."""
    if not folder.is_dir():
        return {}
    return {path.name: (path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.iterdir()}


def _read_from(source: Path) -> Iterator[Path]:
    if source.is_dir():
        for folder in (source, source / "best", source / "adapter"):
            if folder.is_dir():
                yield folder
                yield from (path for path in sorted(folder.iterdir()) if path.is_file())
    elif source.exists():
        yield source
        yield from (path for name in side_files.NAMES if (path := source.with_name(name)).exists())


def _sha256(path: Path) -> str | None:
    """None for a file that can't be read."""
    try:
        return sha256_of(path)
    except OSError:
        return None
