"""The largest micro-batch that fits, found by trying."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from training_samples import (
    Samples,
    make_trainer,
    metrics,
    progress_of,
    random_states,
    step_rows,
    tiny_targets,
    tiny_whisper,
    weights_of,
)

from whispertune.errors import TrainingError
from whispertune.run import stages
from whispertune.training import micro_batch
from whispertune.training.micro_batch import largest_micro_batch
from whispertune.training.plan import BatchPlan
from whispertune.training.trainer import Trainer

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
    """Each window takes 10 bytes; of 100 free ones 50 may be used. Some of the peak was there before."""
    peak = 1004
    tried: list[int] = []

    def attempt(size: int) -> None:
        nonlocal peak
        tried.append(size)
        peak = max(peak, 1000 + 10 * size)

    monkeypatch.setattr(micro_batch, "free_memory", lambda: 100)
    monkeypatch.setattr(micro_batch, "resident_memory", lambda: 1000)
    monkeypatch.setattr(micro_batch, "peak_memory", lambda: peak)
    assert largest_micro_batch(16, attempt, CPU) == tried[-1]
    assert tried == [1, 2, 4]
    tried.clear()
    assert largest_micro_batch(31, attempt, CPU) == 1  # the next size is all of them
    assert tried == [1]


def test_memory_that_an_update_takes_besides_is_there_while_sizes_are_tried(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AdamW's two moments, and the gradients of an earlier micro-batch, while the forward pass runs."""
    seen: list[tuple[int, bool]] = []
    moments: list[weakref.ref[torch.Tensor]] = []
    backward, original = Trainer.backward, torch.ones

    def made(*arguments: Any, **options: Any) -> torch.Tensor:
        ones = original(*arguments, **options)
        moments.append(weakref.ref(ones))
        return ones

    def watched(self: Trainer, *arguments: Any) -> float:
        if not self.learner.optimizer.state:
            held = sum(ones.nbytes for made in moments if (ones := made()) is not None)
            seen.append((held, all(p.grad is not None for p in self.trainable)))
        return backward(self, *arguments)

    monkeypatch.setattr(torch, "ones", made)
    monkeypatch.setattr(Trainer, "backward", watched)
    assert samples.train_run(tmp_path / "run", batch__auto=True, batch_size=1, accumulation=3, max_steps=1) == 0
    trainable = sum(w.numel() for n, w in weights_of(tmp_path / "run" / "best").items() if ".decoder." in n)
    tries = seen[:4]  # two sizes, twice each
    assert [gradients for _, gradients in tries] == [False, True] * 2
    assert all(held >= 2 * 4 * trainable for held, _ in tries)


def test_a_run_with_larger_micro_batches_makes_the_same_updates(samples: Samples, tmp_path: Path) -> None:
    settings = {"batch_size": 1, "accumulation": 3, "epochs": 2, "precision": "fp32"}
    runs = [tmp_path / name for name in ("given", "found")]
    for run, auto in zip(runs, (False, True), strict=True):
        assert samples.train_run(run, batch__auto=auto, **settings) == 0
    assert progress_of(runs[0])["batches"] == {"batch_size": 1, "accumulation": 3}
    assert progress_of(runs[1])["batches"] == {"batch_size": 3, "accumulation": 1}
    given, found = (step_rows(run) for run in runs)
    assert [row["utterances"] for row in given] == [row["utterances"] for row in found]
    assert [row["tokens"] for row in given] == [row["tokens"] for row in found]
    assert [row["loss"] for row in found] == pytest.approx([row["loss"] for row in given], rel=1e-5)
    assert len(metrics(runs[0])) == len(metrics(runs[1]))


def test_a_resumed_run_keeps_the_size(samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, settings = tmp_path / "run", {"batch__auto": True, "batch_size": 1, "accumulation": 3, "epochs": 2}
    original = Trainer._end_of_update

    def stopped(self: Trainer) -> None:
        original(self)
        self.stop.received = "SIGTERM" if self.progress.step == 2 else None

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_end_of_update", stopped)
        assert samples.train_run(run, **settings) == 1
    assert progress_of(run)["batches"] == {"batch_size": 3, "accumulation": 1}
    monkeypatch.delattr(stages, "largest_micro_batch")  # nothing is tried again
    assert samples.train_run(run, **settings) == 0
    assert progress_of(run)["batches"] == {"batch_size": 3, "accumulation": 1}
    assert len(step_rows(run)) == 8


@pytest.mark.parametrize("fits", [2, 1])
def test_when_memory_runs_out_in_training_micro_batches_are_halved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fits: int
) -> None:
    """In the second update, after one of its micro-batches; the updates stay the same, and nothing is counted twice."""
    rows, weights = {}, {}
    for name, limit in (("roomy", 99), ("tight", fits)):
        whisper = tiny_whisper()
        trainer = make_trainer(
            tmp_path / name, whisper, random_states([9 + n for n in range(16)]),
            tiny_targets([3 + n for n in range(16)]), batch_size=4, accumulation=2,
        )  # fmt: skip
        original, calls = trainer.backward, 0

        def backward(batch: list[int], *given: Any, limit: int = limit, original: Any = original) -> torch.Tensor:
            nonlocal calls
            calls += 1
            if calls > 3 and len(batch) > limit:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return original(batch, *given)

        monkeypatch.setattr(Trainer, "backward", lambda self, *given, backward=backward: backward(*given))
        trainer.run()
        monkeypatch.undo()
        rows[name], weights[name] = step_rows(tmp_path / name), whisper.state_dict()
    assert trainer.progress.batches == BatchPlan(4, 2).recut(fits)
    told = capsys.readouterr().err
    assert told.count("take more memory than there is") == {2: 1, 1: 2}[fits]
    for ours, theirs in zip(rows["tight"], rows["roomy"], strict=True):
        assert [ours[key] for key in ("step", "tokens", "utterances")] == [
            theirs[key] for key in ("step", "tokens", "utterances")
        ]
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    for name, weight in weights["tight"].items():
        torch.testing.assert_close(weight, weights["roomy"][name], rtol=1e-4, atol=1e-6)


def test_one_window_that_does_not_fit_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(tmp_path, tiny_whisper(), random_states([9, 9]), tiny_targets([3, 4]), batch_size=2)
    monkeypatch.setattr(Trainer, "backward", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA")))
    with pytest.raises(torch.OutOfMemoryError):
        trainer.run()
    assert trainer.progress.batches.batch_size == 1


def test_on_a_gpu_the_largest_is_tried_first() -> None:
    tried: list[int] = []

    def attempt(size: int) -> None:
        tried.append(size)
        if size > 4:
            raise torch.OutOfMemoryError

    assert largest_micro_batch(16, attempt, torch.device("cuda")) == 4
    assert tried == [16, 8, 4]
