"""The largest micro-batch that fits, found by trying."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from training_samples import Samples, metrics, progress_of, step_rows

from whispertune import stages
from whispertune.errors import TrainingError
from whispertune.training import micro_batch
from whispertune.training.micro_batch import largest_micro_batch
from whispertune.training.resume import Progress

CPU = torch.device("cpu")


@pytest.mark.parametrize(("fits", "expected"), [(1, 1), (5, 4), (6, 6), (11, 6), (12, 12), (99, 12)])
def test_the_largest_divisor_that_fits(fits: int, expected: int) -> None:
    def attempt(size: int) -> None:
        if size > fits:
            raise torch.OutOfMemoryError

    assert largest_micro_batch(12, attempt, torch.device("cuda")) == expected


def test_nothing_fits() -> None:
    def attempt(size: int) -> None:
        raise torch.OutOfMemoryError

    with pytest.raises(TrainingError, match="a single window does not fit"):
        largest_micro_batch(4, attempt, CPU)


def test_on_a_cpu_it_stops_before_memory_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each window takes 10 bytes; of 100 free ones 50 may be used."""
    peak = 1000
    tried: list[int] = []

    def attempt(size: int) -> None:
        nonlocal peak
        tried.append(size)
        peak = 1000 + 10 * size

    def read_peak() -> int:
        return 1000 if not tried else peak

    monkeypatch.setattr(micro_batch, "free_memory", lambda: 100)
    monkeypatch.setattr(micro_batch, "_peak_memory", read_peak)
    assert largest_micro_batch(16, attempt, CPU) == tried[-1]
    assert tried == [1, 2, 4, 8]


def test_a_run_with_larger_micro_batches_makes_the_same_updates(samples: Samples, tmp_path: Path) -> None:
    settings = {"batch_size": 1, "accumulation": 3, "epochs": 2, "precision": "fp32"}
    runs = [tmp_path / name for name in ("given", "found")]
    for run, auto in zip(runs, (False, True), strict=True):
        assert samples.train_run(run, batch__auto=auto, **settings) == 0
    assert progress_of(runs[0])["micro_batch"] is None
    assert progress_of(runs[1])["micro_batch"] == 3
    given, found = (step_rows(run) for run in runs)
    assert [row["utterances"] for row in given] == [row["utterances"] for row in found]
    assert [row["tokens"] for row in given] == [row["tokens"] for row in found]
    assert [row["loss"] for row in found] == pytest.approx([row["loss"] for row in given], rel=1e-5)
    assert len(metrics(runs[0])) == len(metrics(runs[1]))


def test_a_resumed_run_keeps_the_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(stages, "largest_micro_batch")
    trainer = SimpleNamespace(progress=Progress(micro_batch=2), batch_size=4, accumulation=6)
    session = SimpleNamespace(recipe=SimpleNamespace(batch_size=4, accumulation=3), train=None)
    stages.fit_micro_batch(session, trainer)  # type: ignore[arg-type]
    assert (trainer.batch_size, trainer.accumulation) == (2, 12)
