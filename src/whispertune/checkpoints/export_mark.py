"""The mark of an export: which files it wrote, so that the next one replaces these and nothing of the user's."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from whispertune.checkpoints import side_files
from whispertune.system.files import sha256_of

MARK = "whispertune-export.json"
"""Name of the file in every exported folder with the sha256 of all the others."""


def write_mark(folder: Path, **about: str) -> None:
    """Mark all files of a folder that was just filled as an export's. about: where it came from, for people."""
    files = {path.name: _sha256(path) for path in sorted(folder.iterdir())}
    content = {"written_by": "whispertune export", **about, "files": files}
    (folder / MARK).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def not_exported(folder: Path) -> str | None:
    """Name of an entry that no export wrote, or that was changed since; None if the folder holds nothing else."""
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
    """The first file or folder that one of the models `sources` is read from and that lies in `folder`, by links too.

    A source is a folder, a run (its best/), or a file with its side files; one that does not exist is in no folder.
    """
    folder = folder.resolve()
    for source in sources:
        try:
            for path in _read_from(source):
                resolved = path.resolve()
                if resolved == folder or folder in resolved.parents:
                    return path
        except OSError:  # it can't be read at all, which is told where it is
            continue
    return None


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change (ns) of each entry: what tells that something was put there meanwhile."""
    if not folder.is_dir():
        return {}
    return {path.name: (path.lstat().st_size, path.lstat().st_mtime_ns) for path in folder.iterdir()}


def _read_from(source: Path) -> Iterator[Path]:
    if source.is_dir():
        for folder in (source, source / "best"):
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
