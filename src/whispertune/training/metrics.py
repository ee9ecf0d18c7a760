"""The rows of metrics.jsonl, and the sinks that a run's rows are handed to.

`RunLog` is what a run writes to; the first sink is `MetricsFile`. Another one needs a `write(row)`, and nothing else of
the run knows it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from whispertune.errors import RunFolderError, StorageError
from whispertune.system.files import fsync_path


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateRow:
    """One optimiser update.

    step: its number, from 1. loss: nats per target token before the update. grad_norm: before clipping. tokens: target
    tokens. utterances: windows, stitched ones counting once, without `keep_original` copies. seconds: of this update.
    audio_rate: seconds of audio per second. memory_gb: peak so far. seconds_left: of the whole run, about.
    """

    step: int
    epoch: int
    lr: float
    loss: float
    grad_norm: float
    tokens: int
    utterances: int
    seconds: float
    audio_rate: float
    memory_gb: float
    seconds_left: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedRow:
    """An update that was skipped because its gradients were not finite, or none of its audio could be decoded.

    step: the number that the next update has. loss_scale: of fp16, after the skip.
    """

    step: int
    epoch: int
    skipped: bool = True
    loss: None = None
    loss_scale: float | None
    tokens: int
    utterances: int
    seconds: float
    audio_rate: float
    memory_gb: float
    seconds_left: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRow:
    """One model with one search, scored on one split: the model's place in the run, and `Evaluation.summary`.

    split: `valid`, `test`, or the name of a further test set.
    model: `baseline` (step and epoch 0), `epoch` (a validation within the run), `average` or `mixed-SHARE` (after the
    last epoch, `training/averaging.py`), or `best` (of the test).
    intervals_over: `speakers` or `utterances`. memory_gb: peak so far. Rows of older versions lack both.
    """

    step: int
    epoch: int
    split: str
    model: str
    frames: str
    wer: float
    cer: float
    wer_raw: float
    cer_raw: float
    wer_interval: Sequence[float]
    cer_interval: Sequence[float]
    leading: str
    leading_rate: float
    loss: float
    loops: int
    capped: int
    utterances: int
    beam_size: int
    seconds: float
    intervals_over: str = "utterances"
    memory_gb: float | None = None


Row = UpdateRow | SkippedRow | EvaluationRow


class Sink(Protocol):
    """Receives each row as it is created, in the process that writes."""

    def write(self, row: Row) -> None:
        """Take one row."""


class MetricsFile:
    """metrics.jsonl: one JSON object a line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, row: Row) -> None:
        """Append one row.

        Raises:
            StorageError: if the disk is full or gone; a resume drops what was written of the row.
        """
        try:
            with self.path.open("a", encoding="utf-8", newline="\n") as file:
                file.write(json.dumps(asdict(row)) + "\n")
        except OSError as error:
            raise StorageError(
                f"{self.path}: cannot write ({error.strerror}); free some disk space, then resume"
            ) from None

    def size(self) -> int:
        """Its bytes."""
        return self.path.stat().st_size if self.path.exists() else 0

    def durable(self, size: int) -> tuple[int, str]:
        """Its first `size` bytes, or as many as there are, made durable: their number and sha256."""
        if not self.path.exists():
            return 0, ""
        fsync_path(self.path)
        with self.path.open("rb") as file:
            content = file.read(size)
        return len(content), hashlib.sha256(content).hexdigest()

    def truncate(self, size: int) -> None:
        """Drop all rows behind the first `size` bytes."""
        if self.path.exists():
            os.truncate(self.path, size)

    def rows(self, size: int) -> list[Row]:
        """The rows in its first `size` bytes that are as this version writes them."""
        found: list[Row] = []
        for line in self.path.read_bytes()[:size].split(b"\n") if size else []:
            with suppress(ValueError, TypeError):
                fields = json.loads(line)
                kind = EvaluationRow if "split" in fields else SkippedRow if "skipped" in fields else UpdateRow
                found.append(kind(**fields))
        return found

    def evaluations(self, size: int) -> list[EvaluationRow]:
        """The evaluations in its first `size` bytes.

        Raises:
            RunFolderError: if they are not rows as this version writes them.
        """
        if not size:
            return []
        try:
            rows = [json.loads(line) for line in self.path.read_bytes()[:size].decode("utf-8").split("\n") if line]
            return [EvaluationRow(**row) for row in rows if "split" in row]
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise RunFolderError(
                f"{self.path}: cannot be read as metrics of this version ({error}); restore it from a copy, or choose "
                "another --output"
            ) from None


class RunLog:
    """The rows of one run, handed to each sink.

    evaluations: those of the whole run, in order; those before a resume are read from the file, once.
    size: bytes of the file that belong to the state that a resume starts from.
    writes: whether this process hands rows on; the others only keep evaluations.
    """

    def __init__(self, file: MetricsFile, size: int = 0, sinks: Sequence[Sink] = (), *, writes: bool = True) -> None:
        self.evaluations = file.evaluations(size)
        self._file, self._settled = file, size
        self._sinks: Sequence[Sink] = (file, *sinks) if writes else ()

    def attach(self, sinks: Sequence[Sink]) -> None:
        """Hand later rows to these sinks as well."""
        self._sinks = (*self._sinks, *sinks)

    def settled_rows(self) -> list[Row]:
        """All rows up to the state that the run resumes from."""
        return self._file.rows(self._settled)

    def resume(self) -> None:
        """Drop what the file holds behind the state that the run resumes from."""
        if self._sinks:
            self._file.truncate(self._settled)

    def write(self, row: Row) -> None:
        """Hand a row to every sink.

        Raises:
            StorageError: if a file cannot be written.
        """
        for sink in self._sinks:
            sink.write(row)
        if isinstance(row, EvaluationRow):
            self.evaluations.append(row)

    def settle(self) -> None:
        """All rows so far belong to what the next saved state holds; later ones only once this is called again."""
        self._settled = self._file.size()

    def settled(self) -> tuple[int, str]:
        """Bytes of the file up to there, made durable, and their sha256: what a saved state may count on."""
        return self._file.durable(self._settled)
