"""Several processes against one: the same run, whatever dies or is stopped on the way."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from process_samples import Launcher, distance, lost_line, size, state_of
from training_samples import (
    TEST_IDS,
    TIMES,
    VALID_IDS,
    Moment,
    Samples,
    metrics,
    outcome,
    progress_of,
    step_rows,
    valid_rows,
    weights_of,
)

from whispertune import cli
from whispertune.system.files import read_jsonl

TRAINER = "whispertune.training.trainer"
SEARCH = "whispertune.evaluation.transcript_search", "TranscriptSearch.search"
INSPECTION, STATES = "whispertune.dataset.inspection", "whispertune.states.computed"


# Equal to one process.


@pytest.mark.parametrize(
    "options", [{"freeze": "encoder"}, pytest.param({"freeze": "none"}, marks=pytest.mark.slow), {"lora__rank": 4}]
)
def test_the_gradient_is_that_of_one_process(
    samples: Samples, launch: Launcher, tmp_path: Path, options: dict[str, Any]
) -> None:
    """After one update AdamW's mean holds (1 - beta1) of the gradient. The two shares differ in tokens: 2 : 1."""
    options = {**options, "max_steps": 1, "optimizer__max_grad_norm": 0}
    assert samples.train_run(tmp_path / "one", **options) == 0
    assert launch(samples.arguments(tmp_path / "two", accumulation=1, **options)).statuses == [0, 0]
    one, two = state_of(tmp_path / "one"), state_of(tmp_path / "two")
    assert distance(one, two, "exp_avg/") <= 1e-5 * size(one, "exp_avg/")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="stored"),
        pytest.param({"freeze": "none"}, id="encoder learns", marks=pytest.mark.slow),
        pytest.param(
            {"augment__speed__probability": 0.9, "augment__keep_original": "true"}, id="augmented",
            marks=pytest.mark.slow,
        ),
        pytest.param({"precision": "bf16", "freeze": "none"}, id="bf16", marks=pytest.mark.slow),
        pytest.param({"world": 3, "batch_size": 2, "accumulation": 3}, id="three", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_twenty_updates(samples: Samples, launch: Launcher, tmp_path: Path, options: dict[str, Any]) -> None:
    world_size = options.pop("world", 2)
    accumulation = options.pop("accumulation", 2)
    given = {
        "schedule__name": "constant", "schedule__peak_lr": 1e-4, "schedule__warmup_steps": 1, "epochs": 10,
        "max_steps": 20, "test": samples.test, "search__beam_size": 1, "checkpoint__every_minutes": 1000, **options,
    }  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    # In processes of its own, for its bound of 40 tokens in the test.
    assert launch(samples.arguments(one, accumulation=accumulation, **given), world_size=1).statuses == [0]
    ended = launch(samples.arguments(two, accumulation=accumulation // world_size, **given), world_size=world_size,
                   rank=-1, fault="keep_every_state")  # fmt: skip
    assert ended.statuses == [0] * world_size, ended.logs

    moved = distance(state_of(one), start := initial(samples), "parameter/")
    assert moved > 0
    bound = 0.01 if "precision" not in options else 0.2  # bf16 rounds each micro-batch's gradient
    assert distance(state_of(one), state_of(two), "parameter/") <= bound * moved
    assert distance(state_of(two), start, "parameter/") > 0.5 * moved
    # Every process holds the same bits.
    main = state_of(two)
    for rank in range(world_size):
        theirs = state_of(two, f"rank-{rank}")
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in main.items())

    exact = ("step", "epoch", "lr", "tokens", "utterances", "split", "model", "frames", "beam_size")
    rows = [[{key: row.get(key) for key in exact} for row in metrics(run)] for run in (one, two)]
    assert rows[0] == rows[1]
    assert [row.keys() for row in metrics(one)] == [row.keys() for row in metrics(two)]
    assert [row["loss"] for row in metrics(two)] == pytest.approx([row["loss"] for row in metrics(one)], rel=bound / 10)
    for row in step_rows(two)[:1]:
        assert row["grad_norm"] == pytest.approx(step_rows(one)[0]["grad_norm"], rel=1e-5 if bound == 0.01 else 0.02)
    files = sorted(path.relative_to(two) for path in two.glob("valid/*.jsonl"))
    assert len(files) == len(valid_rows(two)) > 5
    for file in [*files, Path("test/hypotheses.jsonl")]:
        found = [read_jsonl(run / file) for run in (one, two)]
        assert [row["id"] for row in found[1]] == list(VALID_IDS if file in files else TEST_IDS)
        assert [row["reference"] for row in found[0]] == [row["reference"] for row in found[1]]
    assert json.loads((two / "environment.json").read_text())["processes"] == world_size
    # Each line of the log once.
    assert sum("device    cpu" in line for log in ended.logs for line in log.splitlines()) == 1


def initial(samples: Samples) -> dict[str, torch.Tensor]:
    return {f"parameter/{name}": tensor for name, tensor in weights_of(samples.model).items()}


@pytest.mark.slow
def test_hypotheses_are_those_of_one_process(samples: Samples, launch: Launcher, tmp_path: Path) -> None:
    """The untouched model's, in the same order; loss, loops and caps are those of the whole split."""
    assert launch(samples.arguments(tmp_path / "one", max_steps=1), world_size=1).statuses == [0]
    assert launch(samples.arguments(tmp_path / "three", max_steps=1), world_size=3).statuses == [0, 0, 0]
    one, three = ({**valid_rows(tmp_path / run)[0]} for run in ("one", "three"))
    assert three.pop("loss") == pytest.approx(one.pop("loss"), rel=1e-6)
    assert three | dict.fromkeys(TIMES) == one | dict.fromkeys(TIMES)
    found = [read_jsonl(tmp_path / run / "valid" / "step-0000000.jsonl") for run in ("one", "three")]
    keys = ("id", "hypothesis", "ended", "looped", "word_errors")
    texts = [[[row[key] for key in keys] for row in rows] for rows in found]
    assert texts[0] == texts[1]


def test_states_are_encoded_once_by_all_together(
    samples: Samples, launch: Launcher, tmp_path: Path, state_cache: Path
) -> None:
    """The store then serves any number of them, to the same bits as one process's."""
    ended = launch(samples.arguments(tmp_path / "two", accumulation=1))
    assert ended.statuses == [0, 0]
    contents = {path.relative_to(state_cache): path.read_bytes() for path in state_cache.glob("*/*.states")}
    assert len({path.parent for path in contents}) == 2
    again = launch(samples.arguments(tmp_path / "again", accumulation=1))
    assert again.statuses == [0, 0]
    assert "encoding train: 11 windows read from the store" in again.logs[0]
    assert outcome(tmp_path / "again") == outcome(tmp_path / "two")
    shutil.rmtree(state_cache)
    assert launch(samples.arguments(tmp_path / "one"), world_size=1).statuses == [0]
    assert {path.relative_to(state_cache): path.read_bytes() for path in state_cache.glob("*/*.states")} == contents


def test_rows_are_looked_at_by_all_together(samples: Samples, launch: Launcher, tmp_path: Path) -> None:
    """Bad rows in either share, headers only, and rows drawn by weight: the same rows are left out and trained on."""
    good = samples.train.read_text(encoding="utf-8").splitlines()
    bad = ["x1,absent.wav,Uno", "x2,empty.wav,Due", f"x3,{good[1].split(',')[1]},!?"]
    (tmp_path / "empty.wav").touch()
    rows = [good[0], *bad[:1], *good[1:5], *bad[1:], *good[5:]]
    (tmp_path / "train.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (tmp_path / "more.csv").write_text("\n".join([good[0], *good[1:4]]) + "\n", encoding="utf-8")
    given = {
        "train": f"{tmp_path / 'train.csv'} + {tmp_path / 'more.csv'} [weight=3]", "max_steps": 2,
        "data__max_excluded": 0.5, "data__check_audio": "headers",
    }  # fmt: skip
    for world_size in (1, 2):
        arguments = samples.arguments(tmp_path / str(world_size), accumulation=2 // world_size, **given)
        ended = launch(arguments, world_size=world_size)
        assert ended.statuses == [0] * world_size, ended.logs
    excluded = [read_jsonl(tmp_path / name / "excluded.jsonl") for name in ("1", "2")]
    assert [row["id"] for row in excluded[0]] == ["train.csv/x1", "train.csv/x2", "train.csv/x3"]
    assert excluded[0] == excluded[1]
    seen = [[(row["tokens"], row["utterances"]) for row in step_rows(tmp_path / name)] for name in ("1", "2")]
    assert seen[0] == seen[1]
    digests = [json.loads((tmp_path / name / "environment.json").read_text())["sha256"] for name in ("1", "2")]
    assert digests[0] == digests[1]


def test_all_processes_skip_the_same_update(samples: Samples, launch: Launcher, tmp_path: Path) -> None:
    """One process's gradient overflows; none applies the update, and all go on with equal weights."""
    run = tmp_path / "run"
    ended = launch(samples.arguments(run, accumulation=1), fault="infinite_gradient")
    assert ended.statuses == [0, 0], ended.logs
    rows = step_rows(run)
    assert [row.get("skipped", False) for row in rows] == [False, True, False, False, False, False]
    assert [row["step"] for row in rows] == [1, 2, 2, 3, 4, 5]
    assert progress_of(run)["skipped"] == 1
    assert all(row["loss"] is not None for row in rows if "lr" in row)


@pytest.mark.parametrize(
    "options",
    [
        # The second update's only clip leaves one of them without a pass, the first gives each five.
        pytest.param({"batch_size": 1, "accumulation": 5}, id="passes differ"),
        pytest.param({"freeze": "none"}, id="encoder learns"),
        pytest.param({"lora__rank": 4}, id="lora"),
        pytest.param({"world": 3, "batch_size": 1, "accumulation": 2}, id="three", marks=pytest.mark.slow),
    ],
)
def test_gradients_are_sent_while_the_last_pass_computes_others(
    samples: Samples, launch: Launcher, tmp_path: Path, options: dict[str, Any]
) -> None:
    """In every process's trace; the outcome has the bits of a run that sends them after all passes."""
    world_size = options.pop("world", 2)
    options = {"accumulation": 1, "epochs": 1, **options}
    for name in ("small_buckets", "small_buckets_after_the_passes"):
        arguments = samples.arguments(tmp_path / name, **options)
        assert launch(arguments, world_size=world_size, rank=-1, fault=name).statuses == [0] * world_size
    overlapped, afterwards = tmp_path / "small_buckets", tmp_path / "small_buckets_after_the_passes"
    assert outcome(overlapped) == outcome(afterwards)
    for run, sent in ((overlapped, True), (afterwards, False)):
        for rank in range(world_size):
            events = " ".join(json.loads((run / "last" / f"trace-{rank}.json").read_text()))
            updates = events.split("_update begins")[:-1]
            assert len({update.count("start_all_reduce begins") for update in updates}) == 1
            passed = [update for update in updates if "backward begins" in update]
            last_passes = [update.rpartition("backward begins")[2].partition("backward ends")[0] for update in passed]
            assert last_passes
            assert all(("start_all_reduce begins" in last) == sent for last in last_passes)
            assert all("start_all_reduce" not in update.rpartition("backward begins")[0] for update in passed)


# Death and signals. The reference is a run of two processes that nobody disturbed.

WITHOUT_STATES: dict[str, object] = {"accumulation": 1, "checkpoint__every_minutes": 1000}


@pytest.fixture(scope="module")
def undisturbed(samples: Samples, launch: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    assert launch(samples.arguments(run, test=samples.test, **WITHOUT_STATES)).statuses == [0, 0]
    return run


BACKWARD = (TRAINER, "Trainer.backward", 3)
DEATHS = {
    "between micro-batches": Moment(*BACKWARD),
    "encoding": Moment(STATES, "encode", 1),
    "validating": Moment(*SEARCH, 2),
    "the test": Moment(*SEARCH, 5),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", DEATHS)
def test_a_dead_process_ends_the_run(
    samples: Samples, launch: Launcher, undisturbed: Path, tmp_path: Path, moment: str
) -> None:
    """The main one saves its last whole update, says so in one line, and the run goes on from there bit by bit."""
    run = tmp_path / "run"
    arguments = samples.arguments(run, test=samples.test, **WITHOUT_STATES)
    ended = launch(arguments, moment=DEATHS[moment])
    assert ended.statuses == [1, -signal.SIGKILL], ended.logs
    assert ended.seconds < 20
    assert "rank 1 of 2" in lost_line(ended, run)
    if moment != "encoding":
        assert progress_of(run)["step"] == {"between micro-batches": 2, "validating": 3, "the test": 6}[moment]
    ended = launch(["resume", str(run)])
    assert ended.statuses == [0, 0], ended.logs
    assert ("resuming" in ended.logs[0]) == (moment != "encoding")
    assert outcome(run) == outcome(undisturbed)


def test_the_main_process_crashes_and_one_process_goes_on(
    samples: Samples, launch: Launcher, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the state that was saved last; an update keeps its 4 utterances, though one process does them all. The
    crash, in native code, leaves a trace in the log.
    """
    run = tmp_path / "run"
    arguments = samples.arguments(run, accumulation=1, checkpoint__every_steps=2)
    ended = launch(arguments, rank=0, moment=Moment(*BACKWARD, sent=signal.SIGSEGV))
    assert ended.statuses == [-signal.SIGSEGV, 1], ended.logs
    assert "Segmentation fault" in ended.logs[0]
    assert re.search(r'training_samples.py", line \d+ in hooked', ended.logs[0])
    assert ended.seconds < 20
    assert "rank 0 of 2" in lost_line(ended, run)
    assert progress_of(run)["step"] == 2
    assert cli.main(["resume", str(run)]) == 0
    assert "where the run started with 2: an update keeps its 4 utterances" in capsys.readouterr().err
    keys = ("step", "epoch", "lr", "tokens", "utterances")
    rows = [[{key: row[key] for key in keys} for row in step_rows(path)] for path in (run, undisturbed)]
    assert rows[0] == rows[1]
    moved = distance(state_of(undisturbed), initial(samples), "parameter/")
    assert distance(state_of(run), state_of(undisturbed), "parameter/") <= 0.01 * moved
    assert json.loads((run / "environment.json").read_text())["processes"] == 2


@pytest.mark.parametrize(
    ("rank", "moment"),
    [
        (1, Moment(*BACKWARD, "before", signal.SIGTERM)),
        pytest.param(-1, Moment(*BACKWARD, "before", signal.SIGTERM, times=2), marks=pytest.mark.slow),
        pytest.param(0, Moment(*BACKWARD, "before", signal.SIGINT), marks=pytest.mark.slow),
        pytest.param(1, Moment(*SEARCH, 2, "before", signal.SIGTERM), marks=pytest.mark.slow),
        pytest.param(1, Moment(*SEARCH, 4, "before", signal.SIGTERM), marks=pytest.mark.slow),
        pytest.param(0, Moment(STATES, "encode", 1, "after", signal.SIGTERM), marks=pytest.mark.slow),
        pytest.param(1, Moment(INSPECTION, "load_utterance", 2, "before", signal.SIGTERM), marks=pytest.mark.slow),
    ],
    ids=["one", "all, twice", "main", "validating", "the test", "encoding", "checking"],
)  # fmt: skip
def test_a_signal_to_any_stops_all(
    samples: Samples, launch: Launcher, undisturbed: Path, tmp_path: Path, rank: int, moment: Moment
) -> None:
    run = tmp_path / "run"
    ended = launch(samples.arguments(run, test=samples.test, **WITHOUT_STATES), rank=rank, moment=moment)
    assert ended.statuses == [1, 1], ended.logs
    assert not ended.errors
    stopped = [line for log in ended.logs for line in log.splitlines() if "stopped by" in line]
    name = signal.Signals(moment.sent).name
    assert stopped == [f"stopped by {name}; continue with: whispertune resume {run}"]
    if moment.name == "Trainer.backward":
        assert progress_of(run)["step"] == len(step_rows(run)) == 3  # the update under way was finished
    ended = launch(["resume", str(run)])
    assert ended.statuses == [0, 0], ended.logs
    assert outcome(run) == outcome(undisturbed)


@pytest.mark.slow
def test_a_stuck_process_ends_the_run(samples: Samples, launch: Launcher, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = samples.arguments(run, accumulation=1, processes__timeout_minutes=0.05)
    ended = launch(arguments, moment=Moment(*BACKWARD, "before", signal.SIGSTOP))
    assert ended.statuses == [1, None]
    assert 3 < ended.seconds < 20
    # "Timed out" in the operation that did, "timeout caused pair closure" in one that was waiting behind it.
    assert re.search("timed out|timeout", lost_line(ended, run), re.IGNORECASE)
    assert progress_of(run)["step"] == 2


# Errors are told once.


def test_a_mistake_is_told_once(samples: Samples, launch: Launcher, tmp_path: Path) -> None:
    ended = launch(samples.arguments(tmp_path / "run", train="nowhere.csv"))
    assert ended.statuses == [2, 2]
    assert ended.errors == ["error: --train nowhere.csv: no such file; check the path"]


@pytest.mark.slow
def test_an_error_in_one_process_names_it(samples: Samples, launch: Launcher, tmp_path: Path) -> None:
    ended = launch(samples.arguments(tmp_path / "run", accumulation=1), fault="unreadable_clip")
    assert ended.statuses == [1, 2], ended.logs
    assert ended.errors == ["error: rank 1 of 2: clip.wav: cannot be read; restore it"]
    assert progress_of(tmp_path / "run")["step"] == 1  # the others saved what was whole


@pytest.mark.slow
def test_a_bug_in_one_process_shows_its_traceback(samples: Samples, launch: Launcher, tmp_path: Path) -> None:
    ended = launch(samples.arguments(tmp_path / "run", accumulation=1), fault="bug")
    assert ended.statuses == [1, 99]
    assert "IndexError" in ended.logs[1]
    assert "error" not in ended.logs[0]


# The real launchers.


def launcher_command(name: str) -> list[str]:
    folder = Path(sys.executable).parent
    if name == "torchrun":
        return [str(folder / "torchrun"), "--nproc_per_node", "2", "-m", "whispertune"]
    return [
        str(folder / "accelerate"), "launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0",
        "-m", "whispertune",
    ]  # fmt: skip


def wait_for(run: Path, rows: int, process: subprocess.Popen[str]) -> None:
    """Until the run has written so many rows."""
    deadline = time.monotonic() + 120
    while not (run / "metrics.jsonl").exists() or len((run / "metrics.jsonl").read_text().splitlines()) < rows:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "death"), [("torchrun", False), ("torchrun", True), ("accelerate", False)])
def test_a_real_launcher(samples: Samples, tmp_path: Path, launcher: str, death: bool) -> None:
    """Started from outside, ended by SIGTERM to the launcher or by the death of a process; then resumed."""
    run = tmp_path / "run"
    arguments = samples.arguments(run, accumulation=1, epochs=400, checkpoint__every_minutes=1000)
    command = [*launcher_command(launcher), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        wait_for(run, 3, process)
        if death:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            (victim,) = [pid for pid in children if b"\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes()]
            os.kill(int(victim), signal.SIGKILL)
        else:
            process.terminate()
        started = time.monotonic()
        assert process.stderr is not None
        shown = process.stderr.read()
        assert process.wait() != 0
    assert time.monotonic() - started < 25
    assert shown.count(f"continue with: whispertune resume {run}") == 1, shown
    assert shown.count("\nerror: rank 1 of 2 is gone or stuck") == death
    progress = progress_of(run)
    assert progress["step"] == len(step_rows(run)) > 0
    assert not progress["trained"]


@pytest.mark.slow
def test_a_launched_run_ends_well(samples: Samples, tmp_path: Path) -> None:
    """Again and again: the interpreter's end and gloo's threads do not get along, which aborts one process in four."""
    for number in range(4):
        run = tmp_path / str(number)
        command = [*launcher_command("torchrun"), *samples.arguments(run, accumulation=1, epochs=1)]
        ended = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        assert ended.returncode == 0, ended.stderr
        assert "untouched against fine-tuned" in ended.stdout
        assert "Warning" not in ended.stderr
        assert progress_of(run)["finished"]
