"""Damage to a run folder is found before anything is computed, and told in one line; two runs never share a folder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training_samples import Moment, Runner, Samples, metrics, outcome, progress_of, save_tiny_model, valid_rows

from whispertune import cli
from whispertune.run.run_folder import RunFolder
from whispertune.system.files import make_writable


@pytest.fixture(scope="module")
def killed(samples: Samples, runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed in its second epoch."""
    run = tmp_path_factory.mktemp("damaged") / "run"
    arguments = samples.arguments(run, checkpoint__every_steps=1, test=samples.test)
    moment = Moment("whispertune.training.trainer", "Trainer.backward", 9)
    assert runner(arguments, moment) == -signal.SIGKILL
    return run


@pytest.fixture(scope="module")
def finished(samples: Samples, runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    assert runner(samples.arguments(run, checkpoint__every_steps=1)) == 0
    return run


def overwrite(path: Path) -> None:
    """One byte in the last tenth, where tensors and the newest rows are."""
    content = bytearray(path.read_bytes())
    content[-len(content) // 10] ^= 1
    path.write_bytes(content)


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0" * 8)


DAMAGES: list[tuple[str, Callable[[Path], None], str]] = [
    ("last/state.safetensors", overwrite, "do not match their checksum"),
    ("last/state.safetensors", append, "do not match their checksum"),
    ("last/state.safetensors", halve, "the training since the start of this run is lost"),
    ("best/model.safetensors", overwrite, "has changed since it was written"),
    ("best/config.json", overwrite, "has changed since it was written"),
    ("best/generation_config.json", remove, "the model is incomplete"),
    ("best/checksums.json", remove, "is missing, so the model cannot be verified"),
    ("best/checksums.json", halve, "the model cannot be verified"),
    ("best", remove, "is gone, and with it the best model"),
    ("metrics.jsonl", remove, "is gone, so that the log of"),
    ("metrics.jsonl", halve, "is cut short"),
    ("metrics.jsonl", overwrite, "is not as it was written"),
    ("valid/step-0000000.jsonl", halve, "its transcripts and scores are lost"),
    ("valid/step-0000003.jsonl", remove, "its transcripts and scores are lost"),
]


@pytest.mark.parametrize("run_name", ["killed", "finished"])
@pytest.mark.parametrize(("name", "damage", "described"), DAMAGES)
def test_damage_is_told_before_anything_is_computed(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    name: str, damage: Callable[[Path], None], described: str, run_name: str,
) -> None:  # fmt: skip
    run = Path(shutil.copytree(request.getfixturevalue(run_name), tmp_path / "run"))
    damage(run / name)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != "lock"}

    def computed(*_: Any, **__: Any) -> None:
        raise AssertionError("data was read")

    monkeypatch.setattr("whispertune.commands.train.open_session", computed)
    assert cli.main(["resume", str(run)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert str(run / name) in line
    assert described in line
    assert "restore" in line
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != "lock"} == before


@pytest.mark.parametrize("content", ["", "{}", '{"sha256": ', "[]"])
def test_what_environment_json_says_is_in_the_state_too(
    killed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    run = Path(shutil.copytree(killed, tmp_path / "run"))
    whole = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(content)
    assert cli.main(["resume", str(run)]) == 0
    assert "is damaged, and is rewritten" in capsys.readouterr().err.replace("\n", " ")
    assert json.loads((run / "environment.json").read_text())["sha256"] == whole["sha256"]


def test_a_damaged_recipe_is_taken_from_the_state_and_an_edited_one_refused(
    killed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(killed, tmp_path / "run"))
    recipe = run / "recipe.yaml"
    whole = recipe.read_text()
    recipe.write_text(whole.replace("seed: 0", "seed: 7"))
    assert cli.main(["resume", str(run)]) == 2
    assert (
        "recipe.yaml: is not that of the run in this folder (now, at its start): seed (7, 0)" in capsys.readouterr().err
    )
    recipe.write_bytes(b"\0\1\2")
    assert cli.main(["resume", str(run)]) == 0
    assert recipe.read_text() == whole.replace(str(killed), str(run))


def test_the_best_model_of_another_run_is_refused(
    killed: Path, samples: Samples, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, other = Path(shutil.copytree(killed, tmp_path / "run")), tmp_path / "other"
    assert samples.train_run(other, seed=1, epochs=3) == 0
    shutil.rmtree(run / "best")
    shutil.copytree(other / "best", run / "best")
    capsys.readouterr()
    assert cli.main(["resume", str(run)]) == 2
    assert "is not the best model of this run, which is of update 3" in capsys.readouterr().err


def test_a_damaged_best_model_is_not_evaluated(
    finished: Path, samples: Samples, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = Path(shutil.copytree(finished / "best", tmp_path / "best"))
    overwrite(best / "model.safetensors")
    assert cli.main(["evaluate", "--model", str(best), "--data", str(samples.test), "--language", "en"]) == 2
    assert f"{best / 'model.safetensors'}: has changed since it was written" in capsys.readouterr().err


# Two runs, and what is left behind.


def test_another_process_is_training_here(killed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Path(shutil.copytree(killed, tmp_path / "run"))
    with RunFolder(run).claimed():
        assert cli.main(["resume", str(run)]) == 2
        line = f"{run}: another process is training here (process {os.getpid()} on "
        assert line in capsys.readouterr().err
    assert cli.main(["resume", str(run)]) == 0


def test_a_file_system_without_locks_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with RunFolder(tmp_path).claimed(), RunFolder(tmp_path).claimed():
        pass


def test_a_refused_run_leaves_nothing_behind(samples: Samples, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "new"
    (tmp_path / "kept").mkdir()
    for output in (run, tmp_path / "kept"):
        assert samples.train_run(output, language="Nowhere") == 2
        assert samples.train_run(output, freeze="decoder:99") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept"]
    assert list((tmp_path / "kept").iterdir()) == []


def test_the_file_that_tries_a_folder_is_nobody_elses(tmp_path: Path) -> None:
    """A user's `.writable` was deleted."""
    (tmp_path / ".writable").write_text("mine")
    make_writable(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".writable"]
    assert (tmp_path / ".writable").read_text() == "mine"


@pytest.mark.parametrize("tail", [b"\xc3(", b'{"step": 9', b"\0" * 50, b'{"step": 9}\n'])
def test_what_follows_the_last_row_of_a_finished_run_is_removed(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], tail: bytes
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    whole = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(whole + tail)
    assert cli.main(["resume", str(run)]) == 0
    assert "what followed this run's last row is removed" in " ".join(capsys.readouterr().err.split())
    assert (run / "metrics.jsonl").read_bytes() == whole
    assert cli.main(["resume", str(run)]) == 0
    assert "removed" not in capsys.readouterr().err


def test_a_finished_run_says_where_its_figures_are(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a test they are in metrics.jsonl."""
    assert cli.main(["resume", str(finished)]) == 0
    assert "the figures in" in (shown := " ".join(capsys.readouterr().err.split()))
    assert shown.endswith("metrics.jsonl")


def test_ties_are_called_ties(samples: Samples, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The random model is wrong in every word, in every epoch: the second is no better than the first."""
    assert samples.train_run(tmp_path / "run") == 0
    captured = capsys.readouterr()
    shown, printed = " ".join(captured.err.split()), " ".join(captured.out.split())
    assert shown.count(", best so far") == 1
    assert shown.count(", as good as the best so far, and newer: kept") == 1
    assert "no difference best epoch: 2 of 2;" in printed
    assert "valid has 4 utterances: with fewer than 30 the intervals are unreliable" in printed


# A full disk.


@pytest.mark.parametrize("name", ["save_huggingface", "write_jsonl"])
def test_a_full_disk_is_not_the_users_fault(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """While best/ is written, or a validation: status 1, one line; with space again the run ends as if nothing was."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert samples.train_run(whole, checkpoint__every_steps=1) == 0
    original_open = Path.open

    def full(self: Path, mode: str = "r", *rest: Any, **named: Any) -> Any:
        wanted = "tokenizer.json" if name == "save_huggingface" else ".step-0000003"
        if "w" in mode and self.name.startswith(wanted):
            raise OSError(errno.ENOSPC, "No space left on device", str(self))
        return original_open(self, mode, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        capsys.readouterr()
        assert samples.train_run(run, checkpoint__every_steps=1) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "No space left on device" in line
    assert "free some disk space" in line
    assert cli.main(["resume", str(run)]) == 0
    assert outcome(run) == outcome(whole)


# More epochs, another place.


@pytest.mark.parametrize("epochs", [2, 3])
def test_more_epochs_are_the_same_run(samples: Samples, finished: Path, tmp_path: Path, epochs: int) -> None:
    """A finished run of 2 epochs that goes on to 3 is a run of 3, bit by bit."""
    run, whole = Path(shutil.copytree(finished, tmp_path / "run")), tmp_path / "whole"
    assert samples.train_run(whole, checkpoint__every_steps=1, epochs=epochs) == 0
    assert cli.main(["resume", str(run), "--epochs", str(epochs)]) == 0
    assert outcome(run) == outcome(whole)
    assert cli.main(["resume", str(run)]) == 0  # recipe.yaml knows


def test_a_longer_run_is_tested_again(samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whispertune.evaluation.evaluate.MAX_TOKENS", 10)
    run = tmp_path / "run"
    assert samples.train_run(run, epochs=1, test=samples.test) == 0
    assert cli.main(samples.arguments(run, epochs=2, test=samples.test)) == 0
    assert progress_of(run)["finished"]
    assert [row["epoch"] for row in metrics(run) if row.get("split") == "test"][::2] == [0, 1, 0, 2]
    assert [row["epoch"] for row in valid_rows(run)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"schedule__name": "linear"}, "schedule.name is linear, whose rates follow from the length of the run"),
        ({"schedule__warmup_steps": "auto", "batch_size": 1, "accumulation": 1}, "schedule.warmup_steps is auto"),
        ({"max_steps": 2}, "it ended by max_steps"),
    ],
)
def test_why_a_run_cannot_be_longer(
    samples: Samples, tmp_path: Path, capsys: pytest.CaptureFixture[str], fields: dict[str, object], reason: str
) -> None:
    run = tmp_path / "run"
    assert samples.train_run(run, epochs=1, **fields) == 0
    before = outcome(run)
    capsys.readouterr()
    assert cli.main(["resume", str(run), "--epochs", "4"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert reason in line
    assert "start a new run" in line
    assert outcome(run) == before


def test_data_and_model_may_move(killed: Path, samples: Samples, tmp_path: Path, capsys: Any) -> None:
    run = Path(shutil.copytree(killed, tmp_path / "run"))
    model = Path(shutil.copytree(samples.model, tmp_path / "moved"))
    valid = Path(shutil.copy(samples.valid, tmp_path / "elsewhere.csv"))
    other = save_tiny_model(tmp_path / "other", seed=5)
    assert cli.main(["resume", str(run), "--model", str(other)]) == 2
    assert "model changed since this run was started" in capsys.readouterr().err
    assert cli.main(["resume", str(run), "--model", str(model), "--valid", str(valid)]) == 0
    assert f"valid: {valid}" in (run / "recipe.yaml").read_text()


def test_a_damaged_list_of_excluded_rows_does_not_stop_a_resume(
    killed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it still tells stays."""
    run = Path(shutil.copytree(killed, tmp_path / "run"))
    listed = {"split": "train", "id": "x", "file": "train.csv", "row": 3, "reason": "cannot be decoded"}
    damaged = [b"\xfd\x00\x80", b"\0" * 8, b'{"split": "train"}', b"7", b"[1]", b"null", b'{"split": "tr']
    (run / "excluded.jsonl").write_bytes(b"\n".join([json.dumps(listed).encode(), *damaged]))
    assert cli.main(["resume", str(run)]) == 0
    assert "7 of its lines are damaged" in " ".join(capsys.readouterr().err.split())
    assert [json.loads(line) for line in (run / "excluded.jsonl").read_text().splitlines()] == [listed]


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer.json"])
def test_a_model_whose_settings_changed_is_refused(
    killed: Path, samples: Samples, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """They decide what is decoded and what is saved, and no checksum of the weights tells of them."""
    run = Path(shutil.copytree(killed, tmp_path / "run"))
    model = Path(shutil.copytree(samples.model, tmp_path / "model"))
    path = model / name
    settings = json.loads(path.read_text(encoding="utf-8"))
    command = samples.arguments(run, checkpoint__every_steps=1, test=samples.test, model=model)
    if name == "tokenizer.json":
        settings["added_tokens"][-1]["lstrip"] = not settings["added_tokens"][-1]["lstrip"]
    else:
        settings["suppress_tokens"] = [*(settings.get("suppress_tokens") or []), 70]
    path.write_text(json.dumps(settings), encoding="utf-8")
    assert cli.main(command) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "model settings changed since this run was started" in line
