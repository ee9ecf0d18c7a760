"""Runs that are stopped, killed and taken up again end as if they had never stopped: bit by bit.

A run is killed at exact moments: a hook sends the signal at the n-th call of a function (see `Moment`).
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_samples import (
    Moment,
    Runner,
    Samples,
    metrics,
    outcome,
    progress_of,
    save_tiny_model,
    step_rows,
    weights_of,
)

from whispertune import cli
from whispertune.run import session
from whispertune.system.files import read_jsonl
from whispertune.system.precision import Precision
from whispertune.training import working_copy
from whispertune.training.resume import read_progress, save_progress

CONFIGURATIONS: dict[str, dict[str, object]] = {
    "stored": {"checkpoint__every_steps": 1, "search__beam_size": 2},
    "augmented": {
        "checkpoint__every_steps": 1,
        "augment__speed__probability": 0.9,
        "augment__drop_chunk__probability": 0.5,
        "augment__spec_augment__probability": 0.9,
        "augment__keep_original": "true",
        "validation__every_steps": 2,
    },
    "encoder learns": {"checkpoint__every_steps": 2, "freeze": "none", "validation__every_steps": 2, "accumulation": 3},
    "bf16": {
        "checkpoint__every_steps": 2,
        "precision": "bf16",
        "windows__stitched_share": 0.4,
        "windows__previous_text": 0.7,
        "augment__speed__probability": 0.9,
        "freeze": "encoder:1",
    },
    "fp16": {"checkpoint__every_steps": 1, "precision": "fp16", "epochs": 3, "schedule__name": "cosine"},
    "lora": {"checkpoint__every_steps": 1, "precision": "bf16", "lora__rank": 4, "lora__where": "both"},
    "last update": {"checkpoint__every_steps": 1, "epochs": 9, "max_steps": 4},
}
"""Each as fields of `Samples.arguments`; "stored" is scored on the test split as well."""


class Reference:
    """Uninterrupted runs, one a configuration."""

    def __init__(self, samples: Samples, runner: Runner, folder: Path) -> None:
        self.samples, self.runner, self.folder = samples, runner, folder
        self.found: dict[str, dict[str, Any]] = {}

    def arguments(self, name: str, output: Path, **more: object) -> list[str]:
        test = {"test": self.samples.test} if name == "stored" else {}
        return self.samples.arguments(output, **test, **CONFIGURATIONS[name], **more)

    def outcome(self, name: str) -> dict[str, Any]:
        if name not in self.found:
            output = self.folder / name
            assert self.runner(self.arguments(name, output)) == 0, self.runner.log.read_text()
            self.found[name] = outcome(output)
        return self.found[name]


@pytest.fixture(scope="module")
def reference(samples: Samples, runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return Reference(samples, runner, tmp_path_factory.mktemp("reference"))


STATES, TRAINER = "whispertune.states.computed", "whispertune.training.trainer"
SEARCH = "whispertune.evaluation.transcript_search", "TranscriptSearch.search"
MOMENTS = {
    "encoding": Moment(STATES, "encode", 1, "after"),
    "validating the untouched model": Moment(*SEARCH, 1),
    "between micro-batches": Moment(TRAINER, "Trainer.backward", 6),
    "between a step's row and its state": Moment("whispertune.training.metrics", "MetricsFile.write", 4, "after"),
    "validating": Moment(*SEARCH, 3),
    "writing the state": Moment("whispertune.training.resume", "save_file", 4, "amid"),
    "before the state is renamed": Moment("whispertune.training.resume", "save_file", 5, "after"),
    "writing best/": Moment("whispertune.run.stages", "save_huggingface", 2, "amid"),
    "between the renames of best/": Moment("pathlib", "Path.rename", 2, "after"),
    "between best/ and adapter/": Moment("whispertune.run.stages", "save_adapter", 2),
    "between best/ and its state": Moment("whispertune.run.stages", "save_huggingface", 2, "after"),
    "choosing the best": Moment("whispertune.run.outcome", "compare_rows", 1),
    "in the test": Moment(*SEARCH, 5),
    "between the test's rows and its files": Moment("whispertune.run.outcome", "write_jsonl", 1),
}
"""When a run of two epochs with three updates each is killed."""


def killed_then_resumed(
    reference: Reference, runner: Runner, tmp_path: Path, name: str, moment: Moment, **more: object
) -> Path:
    run = tmp_path / "run"
    assert runner(reference.arguments(name, run, **more), moment) == -signal.SIGKILL, runner.log.read_text()
    assert runner(["resume", str(run)]) == 0, runner.log.read_text()
    return run


SLOW_MOMENTS = (
    "validating the untouched model", "before the state is renamed", "between best/ and adapter/",
    "between best/ and its state", "choosing the best",
)  # fmt: skip


@pytest.mark.parametrize("moment", [name for name in MOMENTS if name not in SLOW_MOMENTS])
def test_killed_and_resumed(reference: Reference, runner: Runner, tmp_path: Path, moment: str) -> None:
    """The fault of others: a resume flag that resumes nothing."""
    run = killed_then_resumed(reference, runner, tmp_path, "stored", MOMENTS[moment])
    assert outcome(run) == reference.outcome("stored")


@pytest.mark.parametrize(
    ("name", "moment"),
    [
        ("augmented", "between micro-batches"),
        ("encoder learns", "between micro-batches"),
        ("encoder learns", "writing best/"),
        ("bf16", "between micro-batches"),
        ("lora", "between micro-batches"),
        ("lora", "between best/ and adapter/"),
    ],
)
def test_killed_and_resumed_otherwise_configured(
    reference: Reference, runner: Runner, tmp_path: Path, name: str, moment: str
) -> None:
    """More epochs, fewer clips an update, augmentation, a trained encoder, stitched windows, other precisions, LoRA."""
    run = killed_then_resumed(reference, runner, tmp_path, name, MOMENTS[moment])
    assert outcome(run) == reference.outcome(name)


@pytest.mark.parametrize("nth", [1, 2])
def test_killed_between_its_first_files_it_starts_again(
    reference: Reference, runner: Runner, tmp_path: Path, nth: int
) -> None:
    arguments = reference.arguments("stored", tmp_path / "run")
    moment = Moment("whispertune.run.run_folder", "write_text", nth, "after")
    assert runner(arguments, moment) == -signal.SIGKILL, runner.log.read_text()
    assert runner(arguments) == 0, runner.log.read_text()
    assert outcome(tmp_path / "run") == reference.outcome("stored")


def test_killed_between_the_first_validation_and_its_row(reference: Reference, runner: Runner, tmp_path: Path) -> None:
    """The transcripts are on disk, metrics.jsonl is not yet."""
    arguments = reference.arguments("stored", tmp_path / "run")
    moment = Moment("whispertune.run.stages", "write_jsonl", 1, "after")
    assert runner(arguments, moment) == -signal.SIGKILL, runner.log.read_text()
    assert not (tmp_path / "run/metrics.jsonl").exists()
    assert (tmp_path / "run/valid/step-0000000.jsonl").exists()
    for command in (["resume", str(tmp_path / "run")], arguments):
        assert runner(command) == 0, runner.log.read_text()
    assert outcome(tmp_path / "run") == reference.outcome("stored")


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_resumed_everywhere(
    reference: Reference, runner: Runner, tmp_path: Path, name: str, moment: str
) -> None:
    run = tmp_path / "run"
    status = runner(reference.arguments(name, run), MOMENTS[moment])
    if status == 0:
        pytest.skip("this configuration has no such moment")
    assert runner(["resume", str(run)]) == 0, runner.log.read_text()
    assert outcome(run) == reference.outcome(name)


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_stopped_while_the_last_update_of_max_steps_is_validated(
    reference: Reference, runner: Runner, tmp_path: Path, sent: int
) -> None:
    """All updates are done, the last validation is not: the resumed run owes it still."""
    run = tmp_path / "run"
    runner(reference.arguments("last update", run), Moment(*SEARCH, 3, "before", sent))
    assert progress_of(run)["step"] == 4
    assert not progress_of(run)["validated"]
    assert runner(["resume", str(run)]) == 0, runner.log.read_text()
    assert outcome(run) == reference.outcome("last update")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stored", "augmented", "encoder learns"])
def test_killed_again_and_again(reference: Reference, runner: Runner, tmp_path: Path, name: str) -> None:
    """Each process gets two micro-batches further, if that, and is killed."""
    run = tmp_path / "run"
    more = {"checkpoint__every_steps": 1}
    whole = tmp_path / "whole"
    arguments = [a for a in reference.arguments(name, run) if "every_steps" not in a or "validation" in a]
    arguments += [f"--{field.replace('__', '.')}={value}" for field, value in more.items()]
    assert runner([a.replace(f"output={run}", f"output={whole}") for a in arguments]) == 0
    deaths = 0
    while (status := runner(arguments, Moment(TRAINER, "Trainer.backward", 4))) != 0:
        assert status == -signal.SIGKILL
        deaths += 1
        assert deaths < 30
    assert deaths >= 3
    assert outcome(run) == outcome(whole)


def test_the_same_command_resumes_too(reference: Reference, runner: Runner, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = reference.arguments("stored", run)
    assert runner(command, MOMENTS["between micro-batches"]) == -signal.SIGKILL
    assert runner(command) == 0
    assert "resuming" in runner.log.read_text()
    assert outcome(run) == reference.outcome("stored")


def test_the_number_of_workers_may_change(reference: Reference, runner: Runner, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = reference.arguments("augmented", run, data__workers=1)
    assert runner(command, MOMENTS["between micro-batches"]) == -signal.SIGKILL
    assert runner(["resume", str(run), "--data.workers", "3", "--checkpoint.every_minutes", "1"]) == 0
    assert outcome(run) == reference.outcome("augmented")


def test_a_run_folder_may_move(reference: Reference, runner: Runner, tmp_path: Path) -> None:
    run, moved = tmp_path / "run", tmp_path / "moved"
    assert runner(reference.arguments("stored", run), MOMENTS["validating"]) == -signal.SIGKILL
    run.rename(moved)
    assert runner(["resume", str(moved)]) == 0, runner.log.read_text()
    assert outcome(moved) == reference.outcome("stored")
    assert not run.exists()


# Asked to stop.


STOPS = {
    "checking the data": Moment("whispertune.dataset.inspection", "load_utterance", 2, "before", signal.SIGTERM),
    "control and c, thinned against dense": Moment("whispertune.run.stages", "divergence", 1, "before", signal.SIGINT),
    "encoding": Moment(STATES, "encode", 1, "after", signal.SIGTERM),
    "between micro-batches": Moment(TRAINER, "Trainer.backward", 4, "before", signal.SIGTERM),
    "validating": Moment(*SEARCH, 2, "before", signal.SIGTERM),
    "writing the state": Moment("whispertune.training.resume", "save_file", 4, "before", signal.SIGTERM),
    "control and c, reading the model": Moment("whispertune.run.session", "load_model", 1, "before", signal.SIGINT),
    "choosing between the best epoch and the untouched model": Moment(
        "whispertune.run.outcome", "compare_rows", 1, "before", signal.SIGTERM
    ),
    "control and c, writing best/": Moment("whispertune.run.stages", "save_huggingface", 1, "after", signal.SIGINT),
    "the test": Moment(*SEARCH, 4, "before", signal.SIGTERM),
    "control and c in the test": Moment(*SEARCH, 5, "before", signal.SIGINT),
}


@pytest.mark.parametrize(
    "moment", [pytest.param(name, marks=pytest.mark.slow if name == "writing the state" else ()) for name in STOPS]
)
def test_asked_to_stop(reference: Reference, runner: Runner, tmp_path: Path, moment: str) -> None:
    """The run saves, exits with 1 and names the command that goes on, which then ends with the same bits."""
    run = tmp_path / "a run"  # printed so that a shell takes it
    # No state but the one that is written because of the signal.
    never = {"checkpoint__every_minutes": 1000}
    command = reference.arguments("stored", run, **never)
    if moment != "writing the state":
        command.remove("--checkpoint.every_steps=1")
    assert runner(command, STOPS[moment]) == 1, runner.log.read_text()
    log = runner.log.read_text()
    assert "Traceback" not in log
    (line,) = [line for line in log.splitlines() if "stopped by" in line]
    found = re.fullmatch(r"stopped by SIG(TERM|INT); continue with: whispertune (.*)", line.strip())
    assert found, line
    assert shlex.split(found[2]) == ["resume", str(run)]
    if moment == "between micro-batches":
        # The update under way, the second of three, was finished, no more; and it is in the state.
        assert progress_of(run)["step"] == len(step_rows(run)) == 2
    assert runner(shlex.split(found[2])) == 0, runner.log.read_text()
    assert outcome(run) == reference.outcome("stored")


def test_a_second_signal_ends_the_run_at_once(reference: Reference, runner: Runner, tmp_path: Path) -> None:
    twice = Moment(TRAINER, "Trainer.backward", 4, "before", signal.SIGTERM, times=2)
    assert runner(reference.arguments("stored", tmp_path / "run"), twice) == -signal.SIGTERM


def test_a_real_process_is_asked_to_stop_in_the_midst(reference: Reference, runner: Runner, tmp_path: Path) -> None:
    """Nothing hooked: `whispertune train` from outside, stopped when its first update shows in metrics.jsonl."""
    run = tmp_path / "run"
    # As the reference in what decides the result, with so many epochs that it cannot be done before the signal.
    command = reference.samples.arguments(run, epochs=400, checkpoint__every_minutes=1000)
    with subprocess.Popen(
        [sys.executable, "-m", "whispertune.cli", *command], stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while not (run / "metrics.jsonl").exists() or len(metrics_so_far(run)) < 3:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.terminate()
        assert process.stderr is not None
        shown = process.stderr.read()
        assert process.wait() == 1
    assert f"continue with: whispertune resume {run}" in shown
    progress = progress_of(run)
    assert progress["step"] == len(step_rows(run)) > 0
    assert not progress["trained"]


def metrics_so_far(run: Path) -> list[str]:
    return (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()


# What is refused, and what is left alone.


@pytest.fixture(scope="module")
def killed(samples: Samples, runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Samples]:
    """A run that was killed in its second epoch, on files of its own."""
    folder = tmp_path_factory.mktemp("killed")
    files = {name: folder / f"{name}.csv" for name in ("train", "valid", "test")}
    for name, path in files.items():
        shutil.copy(getattr(samples, name), path)
    own = Samples(model=Path(shutil.copytree(samples.model, folder / "model")), **files)
    arguments = own.arguments(folder / "run", checkpoint__every_steps=1, test=own.test)
    assert runner(arguments, Moment(TRAINER, "Trainer.backward", 9)) == -signal.SIGKILL
    return folder / "run", own


@pytest.fixture
def stopped(killed: tuple[Path, Samples], tmp_path: Path) -> tuple[Path, Samples]:
    """A copy of it."""
    return Path(shutil.copytree(killed[0], tmp_path / "run")), killed[1]


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which a command refuses, status 2."""
    capsys.readouterr()
    assert cli.main(arguments) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    return line


def shorten(path: Path) -> None:
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:-1]), encoding="utf-8")


@pytest.mark.parametrize("what", ["train", "valid", "test", "model"])
def test_changed_files_are_refused(
    stopped: tuple[Path, Samples], tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    run, own = stopped
    before = outcome_files(run)
    path = getattr(own, what)
    kept = path.rename(tmp_path / "kept")
    try:
        if what == "model":
            save_tiny_model(path, seed=1)
        else:
            shutil.copy(kept, path)
            shorten(path)
        line = error_of(["resume", str(run)], capsys)
    finally:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        kept.rename(path)
    assert f"{what} changed since this run was started" in line
    assert outcome_files(run) == before


def outcome_files(run: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in run.rglob("*")
        if path.is_file() and path.name not in ("excluded.jsonl", "lock")
    }


def test_auto_goes_on_in_the_precision_it_began_with(
    stopped: tuple[Path, Samples], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a machine where `auto` is something else it would train on in that, and say nothing."""
    run, _ = stopped
    recipe, environment = run / "recipe.yaml", run / "environment.json"
    recipe.write_text(recipe.read_text().replace("precision: fp32", "precision: auto"))
    assert "precision: auto" in recipe.read_text()
    progress = read_progress(run / "last" / "state.safetensors")
    progress.began["recipe"]["precision"] = "auto"
    save_progress(run / "last" / "state.safetensors", progress)
    before = outcome_files(run)
    monkeypatch.setattr(session, "resolve_precision", lambda precision, device: Precision("bf16"))
    line = error_of(["resume", str(run)], capsys)
    assert "this run was started in fp32, but precision auto is bf16 on this machine's cpu" in line
    assert "resume it on a CPU without bf16, or choose another --output" in line
    assert outcome_files(run) == before
    # Runs of versions that did not keep it are taken up as before.
    described = json.loads(environment.read_text())
    del described["precision"]
    environment.write_text(json.dumps(described))
    progress.began, progress.kept = {}, {}
    save_progress(run / "last" / "state.safetensors", progress)
    assert cli.main(["resume", str(run)]) == 0
    assert json.loads(environment.read_text())["precision"] == "bf16"


def test_another_recipe_is_refused_and_its_fields_named(
    stopped: tuple[Path, Samples], capsys: pytest.CaptureFixture[str]
) -> None:
    run, own = stopped
    before = outcome_files(run)
    other = own.arguments(run, test=own.test, checkpoint__every_steps=1, schedule__peak_lr=2e-3, seed=3)
    line = error_of(other, capsys)
    assert "another recipe" in line
    assert "schedule.peak_lr" in line
    assert "seed" in line
    assert "0.002" in line
    assert "0.001" in line
    assert "warmup" not in line
    line = error_of(["resume", str(run), "--epochs", "1"], capsys)
    assert "epochs (1, 2)" in line
    assert outcome_files(run) == before


def test_a_resume_goes_nowhere_else(
    stopped: tuple[Path, Samples], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = stopped
    before = outcome_files(run)
    line = error_of(["resume", str(run), f"--output={tmp_path / 'else'}"], capsys)
    assert f"--output: a run continues in its own folder, {run}; omit --output" in line
    assert outcome_files(run) == before
    assert not (tmp_path / "else").exists()


def test_what_decides_no_result_may_differ(stopped: tuple[Path, Samples]) -> None:
    run, own = stopped
    assert cli.main(own.arguments(run, test=own.test, data__workers=3, checkpoint__every_steps=2)) == 0
    assert progress_of(run)["finished"]


def test_a_resume_does_only_what_is_left(stopped: tuple[Path, Samples], monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted: two updates of six, from weights and moments that are those of the state."""
    run, _ = stopped
    assert progress_of(run)["step"] == 4
    state = weights_of_state(run)
    steps = 0
    original = working_copy.update_on_cpu

    def update(optimizer: torch.optim.AdamW) -> None:
        nonlocal steps
        steps += 1
        if steps == 1:
            found = [optimizer.state[p] for group in optimizer.param_groups for p in group["params"]]
            saved = [value.sum().item() for name, value in state.items() if name.startswith("exp_avg/")]
            assert sorted(one["exp_avg"].sum().item() for one in found) == sorted(saved)
            assert {one["step"].item() for one in found} == {4.0}
        original(optimizer)

    monkeypatch.setattr(working_copy, "update_on_cpu", update)
    assert cli.main(["resume", str(run)]) == 0
    assert steps == 2
    assert [row["step"] for row in step_rows(run)] == [1, 2, 3, 4, 5, 6]


def weights_of_state(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "last" / "state.safetensors")


def test_the_state_holds_what_best_holds(samples: Samples, tmp_path: Path) -> None:
    """The last validation was the best one here, so both are of the same update."""
    run = tmp_path / "run"
    assert samples.train_run(run) == 0
    assert progress_of(run)["best_step"] == progress_of(run)["step"]
    best = weights_of(run / "best")
    state = {n.partition("/")[2]: w for n, w in weights_of_state(run).items() if n.startswith("parameter/")}
    assert state
    assert all(torch.equal(best[name], weight) for name, weight in state.items())


def test_a_finished_run_is_left_alone(samples: Samples, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert samples.train_run(run, epochs=1) == 0
    before = outcome_files(run)
    for command in (["resume", str(run)], samples.arguments(run, epochs=1)):
        capsys.readouterr()
        assert cli.main(command) == 0
        assert "finished already" in capsys.readouterr().err
    assert outcome_files(run) == before


def test_a_folder_with_something_else_is_refused(
    samples: Samples, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    line = error_of(samples.arguments(tmp_path / "run"), capsys)
    assert "neither empty nor a run" in line
    line = error_of(["resume", str(tmp_path / "run")], capsys)
    assert "no run here" in line


def test_a_run_whose_data_was_at_fault_may_be_started_again(
    samples: Samples, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command works once the manifest is mended."""
    manifest = tmp_path / "train.csv"
    manifest.write_text("id,audio,text\nx,missing.wav,ciao\n")
    run = tmp_path / "run"
    command = samples.arguments(run, train=manifest, epochs=1)
    assert "missing.wav" in error_of(command, capsys)
    shutil.copy(samples.train, manifest)
    assert cli.main(command) == 0
    assert [row["reason"] for row in read_jsonl(run / "excluded.jsonl")] == []
    assert len(metrics(run)) == 5
