"""Runs whose optimiser is divided among the processes against runs in which each holds all: the same bits."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from process_samples import Launcher, distance, lost_line, state_of
from training_samples import Moment, Samples, outcome, progress_of, step_rows, weights_of

from whispertune import cli

TRAINER = "whispertune.training.trainer"
BF16 = {"precision": "bf16", "freeze": "none"}
RUN: dict[str, Any] = {"accumulation": 1, "checkpoint__every_minutes": 1000}


@pytest.fixture(scope="module")
def whole(samples: Samples, launch: Launcher, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Undisturbed runs of two processes that hold all."""
    runs = {}
    for name, options in (("fp32", {}), ("bf16", BF16)):
        runs[name] = tmp_path_factory.mktemp("whole") / name
        ended = launch(
            samples.arguments(runs[name], test=samples.test, **RUN, **options), rank=-1, fault="tell_holdings"
        )
        assert ended.statuses == [0, 0], ended.logs
    return runs


def holdings(run: Path) -> list[dict[str, int]]:
    return [json.loads((run / "last" / f"rank-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_divided_it_is_the_same_run(
    samples: Samples, launch: Launcher, whole: dict[str, Path], tmp_path: Path, precision: str
) -> None:
    run = tmp_path / "run"
    options = RUN | (BF16 if precision == "bf16" else {}) | {"test": samples.test, "processes__shard": "true"}
    ended = launch(samples.arguments(run, **options), rank=-1, fault="tell_holdings")
    assert ended.statuses == [0, 0], ended.logs
    assert "optimiser sharded" in ended.logs[0]
    assert outcome(run) == outcome(whole[precision])

    before, after = holdings(whole[precision]), holdings(run)
    total = before[0]["moments"]
    assert before[1]["moments"] == total
    assert after[0]["moments"] + after[1]["moments"] == total
    assert max(held["moments"] for held in after) < 0.67 * total
    if precision == "bf16":  # in float32 the parameters are what computes
        ratios = [held["parameters"] / before[0]["parameters"] for held in after]
        assert sum(ratios) == pytest.approx(1, abs=0.01)
        assert max(ratios) < 0.67


def test_one_that_owns_nothing_takes_part(samples: Samples, launch: Launcher, tmp_path: Path) -> None:
    """Only the last LayerNorm learns, which are two tensors, in three processes."""
    options = RUN | {"freeze": "decoder:1,embeddings", "max_steps": 2}
    for name, shard in (("whole", "false"), ("divided", "true")):
        ended = launch(samples.arguments(tmp_path / name, processes__shard=shard, **options), world_size=3)
        assert ended.statuses == [0, 0, 0], ended.logs
    one, other = state_of(tmp_path / "whole"), state_of(tmp_path / "divided")
    assert len(one) == 6
    assert distance(one, other, "parameter/") <= 1e-6


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_saves_every_part(
    samples: Samples, launch: Launcher, whole: dict[str, Path], tmp_path: Path, rank: int
) -> None:
    """And the run goes on bit by bit, divided or not."""
    run = tmp_path / "run"
    moment = Moment(TRAINER, "Trainer.backward", 3, "before", signal.SIGTERM)
    arguments = samples.arguments(run, test=samples.test, processes__shard="true", **RUN, **BF16)
    ended = launch(arguments, rank=rank, moment=moment)
    assert ended.statuses == [1, 1], ended.logs
    assert not ended.errors
    assert progress_of(run)["step"] == len(step_rows(run)) == 3
    assert state_of(run).keys() == state_of(whole["bf16"]).keys()
    ended = launch(["resume", str(run), f"--processes.shard={'false' if rank else 'true'}"])
    assert ended.statuses == [0, 0], ended.logs
    assert outcome(run) == outcome(whole["bf16"])


@pytest.mark.parametrize("rank", [0, 1])
def test_a_lost_process_costs_what_was_not_saved(
    samples: Samples, launch: Launcher, whole: dict[str, Path], tmp_path: Path, rank: int
) -> None:
    """Its part is gone with it; the state saved before serves any number of processes."""
    run = tmp_path / "run"
    options = RUN | {"checkpoint__every_steps": 2, "processes__shard": "true", "test": samples.test}
    ended = launch(samples.arguments(run, **options), rank=rank, moment=Moment(TRAINER, "Trainer.backward", 3))
    assert sorted(ended.statuses, key=str) == [-signal.SIGKILL, 1], ended.logs
    assert ended.seconds < 20
    assert f"rank {rank} of 2" in lost_line(ended, run)
    assert progress_of(run)["step"] == 2
    if rank:
        assert cli.main(["resume", str(run)]) == 0  # alone
        moved = distance(state_of(whole["fp32"]), start(samples), "parameter/")
        assert distance(state_of(run), state_of(whole["fp32"]), "parameter/") <= 0.01 * moved
    else:
        assert launch(["resume", str(run)]).statuses == [0, 0]
        assert outcome(run) == outcome(whole["fp32"])


def test_a_full_disk_ends_all_and_leaves_the_old_state(
    samples: Samples, launch: Launcher, whole: dict[str, Path], tmp_path: Path
) -> None:
    """Met between two tensors, of which the other process is about to send the next."""
    run = tmp_path / "run"
    options = RUN | {"checkpoint__every_steps": 2, "processes__shard": "true", "test": samples.test}
    ended = launch(samples.arguments(run, **options), rank=0, fault="full_disk")
    assert 0 not in ended.statuses
    assert None not in ended.statuses
    assert ended.seconds < 20
    # The other one, in the middle of sending, only learns that the main process is gone.
    assert sum("No space left on device" in line for line in ended.errors) == 1
    assert all("No space left on device" in line or "is gone or stuck" in line for line in ended.errors)
    assert progress_of(run)["step"] == 2
    assert launch(["resume", str(run)]).statuses == [0, 0]
    assert outcome(run) == outcome(whole["fp32"])


def test_the_main_process_says_when_a_state_is_due(
    samples: Samples, launch: Launcher, whole: dict[str, Path], tmp_path: Path
) -> None:
    """The processes' clocks differ, and all must take part."""
    run = tmp_path / "run"
    arguments = samples.arguments(run, processes__shard="true", test=samples.test, **RUN)
    ended = launch(arguments, rank=0, fault="last_saved_long_ago")
    assert ended.statuses == [0, 0], ended.logs
    assert outcome(run) == outcome(whole["fp32"])


@pytest.mark.slow
def test_the_largest_batch_is_found_together(samples: Samples, launch: Launcher, tmp_path: Path) -> None:
    options = RUN | BF16 | {"batch__auto": "true", "accumulation": 2}
    for name, shard in (("whole", "false"), ("divided", "true")):
        ended = launch(samples.arguments(tmp_path / name, processes__shard=shard, **options))
        assert ended.statuses == [0, 0], ended.logs
    assert outcome(tmp_path / "divided") == outcome(tmp_path / "whole")


def start(samples: Samples) -> dict[str, Any]:
    return {f"parameter/{name}": tensor for name, tensor in weights_of(samples.model).items()}
