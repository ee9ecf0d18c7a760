"""Runs whose model is sharded over the processes (FSDP2) against runs in which each holds all of it."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from process_samples import Launcher, distance, lost_line, state_of
from training_samples import Moment, Samples, metrics, outcome, progress_of, step_rows, weights_of

from whispertune import cli

TRAINER = "whispertune.training.trainer"
BF16 = {"precision": "bf16", "freeze": "none"}
RUN: dict[str, Any] = {"accumulation": 1, "checkpoint__every_minutes": 1000}


@pytest.fixture(scope="module")
def runs(samples: Samples, launch: Launcher, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Undisturbed runs of two processes: sharded, and each holding all."""
    found = {}
    for name, options in (("fp32", {}), ("bf16", BF16)):
        for shard in ("false", "true"):
            run = found[f"{name} {shard}"] = tmp_path_factory.mktemp("runs") / name
            arguments = samples.arguments(run, test=samples.test, processes__shard=shard, **RUN, **options)
            ended = launch(arguments, rank=-1, fault="tell_holdings")
            assert ended.statuses == [0, 0], ended.logs
            assert ("sharded   parameters, gradients and moments" in ended.logs[0]) == (shard == "true")
    return found


def holdings(run: Path) -> list[dict[str, int]]:
    return [json.loads((run / "last" / f"rank-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_sharded_it_is_the_same_run_but_for_rounding(samples: Samples, runs: dict[str, Path], precision: str) -> None:
    whole, sharded = runs[f"{precision} false"], runs[f"{precision} true"]
    moved = distance(state_of(whole), start(samples), "parameter/")
    bound = 1e-5 if precision == "fp32" else 0.05
    assert 0 < distance(state_of(sharded), state_of(whole), "parameter/") <= bound * moved
    assert state_of(sharded).keys() == state_of(whole).keys()
    exact = ("step", "epoch", "lr", "tokens", "utterances", "split", "model", "frames", "beam_size")
    rows = [[{key: row.get(key) for key in exact} for row in metrics(run)] for run in (whole, sharded)]
    assert rows[0] == rows[1]
    best = [weights_of(run / "best") for run in (whole, sharded)]
    assert best[0].keys() == best[1].keys()

    before, after = holdings(whole), holdings(sharded)
    for kind in ("moments", "parameters"):
        assert after[0][kind] + after[1][kind] == pytest.approx(before[0][kind], rel=0.02)
        assert max(held[kind] for held in after) < 0.55 * before[0][kind]


@pytest.mark.parametrize(
    "options",
    [
        {"freeze": "decoder:1,embeddings"},  # only the last LayerNorm learns
        pytest.param({"freeze": "encoder:1"}, marks=pytest.mark.slow),
        pytest.param({"freeze": "none", "recompute": "true"}, marks=pytest.mark.slow),
    ],
)
def test_parts_that_learn(samples: Samples, launch: Launcher, tmp_path: Path, options: dict[str, Any]) -> None:
    """In three processes. The second update has 5 clips, so that one process has one pass with nothing in it."""
    options = RUN | {"max_steps": 2, "batch_size": 1, "accumulation": 2} | options
    for name, shard in (("whole", "false"), ("sharded", "true")):
        arguments = samples.arguments(tmp_path / name, processes__shard=shard, **options)
        ended = launch(arguments, world_size=3)
        assert ended.statuses == [0, 0, 0], ended.logs
    whole, sharded = state_of(tmp_path / "whole"), state_of(tmp_path / "sharded")
    moved = distance(whole, {name: start(samples).get(name, tensor) for name, tensor in whole.items()}, "parameter/")
    assert distance(whole, sharded, "parameter/") <= 1e-4 * moved


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_saves_every_part(
    samples: Samples, launch: Launcher, runs: dict[str, Path], tmp_path: Path, rank: int
) -> None:
    """And the run goes on bit by bit; or, not sharded, but for rounding."""
    run = tmp_path / "run"
    moment = Moment(TRAINER, "Trainer.backward", 3, "before", signal.SIGTERM)
    arguments = samples.arguments(run, test=samples.test, processes__shard="true", **RUN, **BF16)
    ended = launch(arguments, rank=rank, moment=moment)
    assert ended.statuses == [1, 1], ended.logs
    assert not ended.errors
    assert progress_of(run)["step"] == len(step_rows(run)) == 3
    assert state_of(run).keys() == state_of(runs["bf16 true"]).keys()
    ended = launch(["resume", str(run), f"--processes.shard={'false' if rank else 'true'}"])
    assert ended.statuses == [0, 0], ended.logs
    if rank:
        moved = distance(state_of(runs["bf16 true"]), start(samples), "parameter/")
        assert distance(state_of(run), state_of(runs["bf16 true"]), "parameter/") <= 0.05 * moved
    else:
        assert outcome(run) == outcome(runs["bf16 true"])


@pytest.mark.parametrize("rank", [0, 1])
def test_a_lost_process_costs_what_was_not_saved(
    samples: Samples, launch: Launcher, runs: dict[str, Path], tmp_path: Path, rank: int
) -> None:
    """Its part is gone with it; the state saved before serves any number of processes."""
    run = tmp_path / "run"
    options = RUN | {"checkpoint__every_steps": 2, "processes__shard": "true", "test": samples.test}
    ended = launch(samples.arguments(run, **options), rank=rank, moment=Moment(TRAINER, "Trainer.backward", 3))
    assert sorted(ended.statuses, key=str) == [-signal.SIGKILL, 1], ended.logs
    assert ended.seconds < 20
    lost_line(ended, run)
    assert progress_of(run)["step"] == 2
    if rank:
        assert cli.main(["resume", str(run)]) == 0  # alone
        moved = distance(state_of(runs["fp32 true"]), start(samples), "parameter/")
        assert distance(state_of(run), state_of(runs["fp32 true"]), "parameter/") <= 0.01 * moved
    else:
        assert launch(["resume", str(run)]).statuses == [0, 0]
        assert outcome(run) == outcome(runs["fp32 true"])


def test_a_full_disk_ends_all_and_leaves_the_old_state(
    samples: Samples, launch: Launcher, runs: dict[str, Path], tmp_path: Path
) -> None:
    """Met between two tensors, the next of which the other process is about to gather."""
    run = tmp_path / "run"
    options = RUN | {"checkpoint__every_steps": 2, "processes__shard": "true", "test": samples.test}
    ended = launch(samples.arguments(run, **options), rank=0, fault="full_disk")
    assert 0 not in ended.statuses
    assert None not in ended.statuses
    assert ended.seconds < 20
    # The other one, in the middle of gathering, only learns that the main process is gone.
    assert sum("No space left on device" in line for line in ended.errors) == 1
    assert all("No space left on device" in line or "is gone or stuck" in line for line in ended.errors)
    assert progress_of(run)["step"] == 2
    assert launch(["resume", str(run)]).statuses == [0, 0]
    assert outcome(run) == outcome(runs["fp32 true"])


def test_the_main_process_says_when_a_state_is_due(
    samples: Samples, launch: Launcher, runs: dict[str, Path], tmp_path: Path
) -> None:
    """The processes' clocks differ, and all must take part."""
    run = tmp_path / "run"
    arguments = samples.arguments(run, processes__shard="true", test=samples.test, **RUN)
    ended = launch(arguments, rank=0, fault="last_saved_long_ago")
    assert ended.statuses == [0, 0], ended.logs
    assert outcome(run) == outcome(runs["fp32 true"])


def test_sizes_are_not_tried_where_processes_shard(samples: Samples, capsys: pytest.CaptureFixture[str]) -> None:
    assert samples.train_run(Path("unused"), processes__shard="true", batch__auto="true") == 2
    assert "batch.auto is true, but processes that shard a model" in capsys.readouterr().err


def start(samples: Samples) -> dict[str, torch.Tensor]:
    return {f"parameter/{name}": tensor for name, tensor in weights_of(samples.model).items()}
