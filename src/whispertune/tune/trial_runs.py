"""The run of a trial: trained or taken up again, scored on valid, and freed of what takes disk space."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from whispertune.errors import Interrupted, RunFolderError
from whispertune.report.before_after import leading_counts
from whispertune.run.recipe import Recipe
from whispertune.run.run_folder import RunFolder
from whispertune.system.console import results
from whispertune.system.files import read_jsonl, remove
from whispertune.system.locks import is_in_use
from whispertune.training.metrics import MetricsFile, Sink
from whispertune.training.resume import read_progress

Train = Callable[[Recipe, Sequence[Sink]], int]
"""Trains a run, or takes it up where it stopped; returns its exit status."""


@dataclass(frozen=True, slots=True)
class Scored:
    """The model that a run kept, on valid.

    rate: the leading error rate, a fraction. leading: WER, CER or MER. step, model: as in metrics.jsonl. seconds: that
    the run took since it was last started.
    """

    rate: float
    leading: str
    step: int
    model: str
    seconds: float

    def rows(self, folder: RunFolder) -> list[dict[str, Any]]:
        """Its hypotheses."""
        return read_jsonl(folder.validation(self.step, self.model))

    def record(self) -> dict[str, Any]:
        return asdict(self)


def train(recipe: Recipe, run: Train, sinks: Sequence[Sink] = ()) -> Scored:
    """Train a run that may have been interrupted; its results are not printed.

    A run that cannot be taken up, as its files are damaged or it was started in another precision, starts anew.

    Raises:
        Interrupted: if a signal stopped it; it can be taken up again.
    """
    folder, began = RunFolder(Path(recipe.output)), time.monotonic()
    try:
        status = _quietly(recipe, run, sinks)
    except RunFolderError:
        if not folder.state.exists() or (folder.lock.exists() and is_in_use(folder.lock)):
            raise
        remove(folder.path)
        status = _quietly(recipe, run, sinks)
    if status:
        raise Interrupted("a signal")
    progress = read_progress(folder.state)
    (first, *_) = MetricsFile(folder.metrics).evaluations(progress.metrics_size)
    counts = list(map(leading_counts, read_jsonl(folder.validation(progress.best_step, progress.best_model))))
    rate = sum(errors for errors, _ in counts) / max(sum(length for _, length in counts), 1)
    return Scored(rate, first.leading, progress.best_step, progress.best_model, time.monotonic() - began)


def _quietly(recipe: Recipe, run: Train, sinks: Sequence[Sink]) -> int:
    with results.capture():
        return run(recipe, sinks)


def free_space(folder: RunFolder, *, keep_model: bool = False) -> None:
    """Remove the training state and, unless it is to be kept, the model; figures and hypotheses stay."""
    remove(folder.state.parent)
    if not keep_model:
        remove(folder.best)
        remove(folder.adapter)
