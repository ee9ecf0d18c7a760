"""The layout of a run on disk."""

from __future__ import annotations

import os
import shlex
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from whispertune.errors import RunFolderError
from whispertune.system.files import TEMPORARY, make_writable, recover_folder, remove, sha256_of, write_text
from whispertune.system.locks import POSIX_FILES, take_lock

BEST = "best/checksums.json"
"""In a run folder: the checksums that identify the model in best/."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of the files of one run (see the README's table)."""

    path: Path

    @property
    def resume_command(self) -> str:
        """The command that continues the run, quoted for a shell."""
        return shlex.join(["whispertune", "resume", str(self.path)])

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
    def text_changes(self) -> Path:
        """What the rules of `text.*` changed."""
        return self.path / "text_changes.jsonl"

    @property
    def best(self) -> Path:
        return self.path / "best"

    @property
    def adapter(self) -> Path:
        """With LoRA: the adapter that best/ holds merged, as peft loads it."""
        return self.path / "adapter"

    @property
    def state(self) -> Path:
        return self.path / "last" / "state.safetensors"

    @property
    def lock(self) -> Path:
        """Locked while a run is in progress; its text names the process."""
        return self.path / "last" / "lock"

    @property
    def test(self) -> Path:
        return self.path / "test"

    def test_of(self, name: str) -> Path:
        """The folder of a test set: test/ for `test`, a folder within it for a further one."""
        return self.test if name == "test" else self.test / name

    def hypotheses(self, name: str = "test") -> Path:
        """Hypotheses of the best model for a test set, with the widest search."""
        return self.test_of(name) / "hypotheses.jsonl"

    def baseline_hypotheses(self, name: str = "test") -> Path:
        """Hypotheses of the pretrained model for a test set, with the same search."""
        return self.test_of(name) / "hypotheses_baseline.jsonl"

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.path / "report.html"

    @property
    def log(self) -> Path:
        """What the console showed."""
        return self.path / "log.txt"

    @property
    def stages(self) -> Path:
        """The time and memory of each stage."""
        return self.path / "stages.jsonl"

    @property
    def loggers(self) -> Path:
        """The run's ids at other programs' loggers."""
        return self.path / "loggers.json"

    @property
    def folders(self) -> tuple[Path, ...]:
        return (self.path, self.state.parent, self.test, self.path / "valid")

    def name_of(self, path: Path) -> str:
        """A file's path within the run folder."""
        return path.relative_to(self.path).as_posix()

    def best_digest(self) -> str:
        """sha256 of the list of checksums in best/, which stands for the whole folder; empty if there is none."""
        path = self.path / BEST
        return sha256_of(path) if path.is_file() else ""

    def validation(self, step: int, model: str = "epoch") -> Path:
        """Hypotheses of the validation after `step` (0: the untouched model), of the model that the row in
        metrics.jsonl names."""
        candidate = "" if model in ("epoch", "baseline") else f"-{model}"
        return self.path / "valid" / f"step-{step:07d}{candidate}.jsonl"

    def has_begun(self) -> bool:
        """Whether a run has written anything here that must not be lost."""
        return any(path.exists() for path in (self.metrics, self.state, self.best, self.validation(0)))

    def holds_something_else(self) -> bool:
        """Whether there are files here that belong neither to a run nor to one that was refused before it started."""
        if not self.path.is_dir() or (self.has_begun() and self.recipe.exists()):
            return False
        ours = {self.excluded, self.text_changes, self.environment, self.lock, self.log, self.stages, self.loggers}
        if self.environment.exists():  # a recipe.yaml without it was put here by the user
            ours.add(self.recipe)
        files = (path for path in self.path.rglob("*") if not path.is_dir() and not TEMPORARY.fullmatch(path.name))
        return any(path not in ours for path in files)

    def create(self) -> None:
        """Make the folders.

        Raises:
            RunFolderError: if the path is a file or cannot be written to.
        """
        for folder in self.folders:
            make_writable(folder)
        for folder in (self.best, self.adapter):
            recover_folder(folder)

    def write_recipe(self, recipe: str, environment: str) -> None:
        """Write environment.json, then recipe.yaml: a recipe without the former counts as the user's own."""
        write_text(self.environment, f"{environment}\n")
        write_text(self.recipe, recipe)

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Make the folders, keep other runs out during the block, and remove what a killed one left unfinished.

        After the block, folders that were created here are removed again if no run has started.

        Raises:
            RunFolderError: if another run has the folder, the path is a file or cannot be written to.
        """
        made = [folder for folder in (*reversed(self.path.parents), *self.folders) if not folder.exists()]
        for folder in self.folders:
            make_writable(folder)
        descriptor = take_lock(self.lock)
        if descriptor is None:
            raise RunFolderError(
                f"{self.path}: another process is training here{self._holder()}; wait for it, or choose another "
                "--output"
            )
        try:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()} on {socket.gethostname()}\n".encode())
            for folder in (self.best, self.adapter):
                recover_folder(folder)
            for folder in self.folders:
                for path in folder.iterdir():
                    if TEMPORARY.fullmatch(path.name):
                        remove(path)
            yield
        finally:
            if not POSIX_FILES:  # an open file could not be removed
                os.close(descriptor)
            if not self.has_begun() and not self.recipe.exists():
                self._discard(made)
            if POSIX_FILES:
                os.close(descriptor)

    def _holder(self) -> str:
        try:
            holder = " ".join(self.lock.read_text(encoding="utf-8", errors="replace").split())[:80]
        except OSError:
            return ""
        return f" (process {holder})" if holder else ""

    def _discard(self, made: Iterable[Path]) -> None:
        """Remove everything of a run that was refused, except the list of the excluded rows that were the reason."""
        with suppress(OSError):
            self.lock.unlink()
            self.text_changes.unlink(missing_ok=True)
            if self.excluded.exists() and not self.excluded.stat().st_size:
                self.excluded.unlink()
        for folder in reversed(list(made)):
            with suppress(OSError):
                folder.rmdir()  # empty ones alone
