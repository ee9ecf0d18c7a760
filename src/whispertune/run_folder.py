"""The layout of a run on disk, and writes that are whole or absent."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whispertune.errors import RunFolderError, StorageError

LONGEST_NAME = 238
"""Bytes of a file's name beside which a temporary one still has its place: file systems take 255."""


def fsync_path(path: Path) -> None:
    """Make a file's content, or a folder's entries, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _beside(path: Path, role: str) -> Path:
    """A name that no user picks: what lies there may be deleted. A long one gives way to its digest, so that whatever
    has a name can be replaced."""
    name = (
        path.name if len(os.fsencode(path.name)) <= LONGEST_NAME else hashlib.sha256(os.fsencode(path.name)).hexdigest()
    )
    return path.with_name(f".{name}.whispertune-{role}")


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what is written there replaces `path` at once, or not at all."""
    temporary = _beside(path, "new")
    try:
        yield temporary
        fsync_path(temporary)
        temporary.replace(path)
        fsync_path(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path` that replaces it once filled.

    Two renames, so a kill between them leaves only the old folder, under another name: `recover_folder` puts that back.
    """
    temporary, old = _beside(path, "new"), _beside(path, "old")
    recover_folder(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
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


def recover_folder(path: Path) -> None:
    """Undo a replacement that was killed between its two renames; clear up behind one killed after them."""
    old = _beside(path, "old")
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
    elif old.exists():
        old.rename(path)


def write_text(path: Path, text: str) -> None:
    """Write a whole file atomically."""
    with replacing_file(path) as temporary:
        # Lone surrogates (from \udc80 in a JSONL manifest) have no UTF-8; as escapes they stay valid JSON and YAML.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows, one JSON object a line, atomically."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All rows of a JSON-lines file that this module wrote."""
    # Not splitlines(): a transcript may hold U+2028 or U+0085, which would count as line ends.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def make_writable(folder: Path) -> None:
    """Make a folder, and make sure that files can be written to it.

    Raises:
        RunFolderError: if that fails.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise RunFolderError(f"--output: cannot write to {folder} ({error.strerror}); choose another folder") from None


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where everything of one run lies (see the README's table)."""

    path: Path

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def excluded(self) -> Path:
        return self.path / "excluded.jsonl"

    @property
    def best(self) -> Path:
        return self.path / "best"

    @property
    def state(self) -> Path:
        return self.path / "last" / "state.safetensors"

    @property
    def test(self) -> Path:
        return self.path / "test"

    def validation(self, step: int) -> Path:
        """Hypotheses of the validation behind `step` (0: the untouched model)."""
        return self.path / "valid" / f"step-{step:07d}.jsonl"

    def has_begun(self) -> bool:
        """Whether a run has left anything here that must not be lost."""
        return any(path.exists() for path in (self.metrics, self.state, self.best))

    def holds_something_else(self) -> bool:
        """Whether files lie here that are not of a run, nor of one that was refused before it began."""
        if not self.path.is_dir() or (self.has_begun() and self.recipe.exists()):
            return False
        ours = {self.excluded, self.environment}
        if self.environment.exists():  # a recipe.yaml without it was put here by the user
            ours.add(self.recipe)
        return any(not path.is_dir() and path not in ours for path in self.path.rglob("*"))

    def create(self) -> None:
        """Make the folders.

        Raises:
            RunFolderError: if the path is a file or cannot be written to.
        """
        for folder in (self.path, self.state.parent, self.test, self.path / "valid"):
            make_writable(folder)
        recover_folder(self.best)

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Add one row to metrics.jsonl.

        Raises:
            StorageError: if the disk is full or gone; a resume drops what was written of the row.
        """
        try:
            with self.metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise StorageError(
                f"{self.metrics}: cannot write ({error.strerror}); free some disk space, then resume"
            ) from None

    def metrics_size(self) -> int:
        """Bytes of metrics.jsonl, made durable: what a state that is saved now may count on."""
        if not self.metrics.exists():
            return 0
        fsync_path(self.metrics)
        return self.metrics.stat().st_size

    def truncate_metrics(self, size: int) -> None:
        """Drop the rows written after the state that a run resumes from."""
        if self.metrics.exists():
            os.truncate(self.metrics, size)
