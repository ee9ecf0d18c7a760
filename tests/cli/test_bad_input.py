"""Every mistake of a user ends in one line that says what to do, or in a listed exclusion; never in a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from cli_samples import EXAMPLE, Command, Workspace, example_rows, write_manifest
from safetensors.torch import load_file, save_file

from whispertune.run import session
from whispertune.system.files import read_jsonl

Refused = Callable[..., str]


def tone(path: Path, seconds: float, rate: int = 16_000, channels: int = 1) -> Path:
    """A tone of its own pitch for each path."""
    time = np.arange(round(seconds * rate)) / rate
    pitch = 200 + sum(path.name.encode()) % 300
    samples = 0.1 * np.sin(2 * np.pi * pitch * time)
    soundfile.write(path, np.stack([samples] * channels, 1), rate)
    return path


def excluded(workspace: Workspace) -> list[dict[str, Any]]:
    lines = (workspace.run / "excluded.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


# Manifests.


@pytest.mark.parametrize("name", ["train", "valid", "test"])
def test_missing_manifest(workspace: Workspace, refused: Refused, name: str) -> None:
    refused(workspace.train(f"--{name}=absent.csv"), "absent.csv", "no such file")


def test_missing_column(workspace: Workspace, refused: Refused) -> None:
    workspace.train_rows = [{"audio": "a.wav", "words": "ciao"}]
    refused(workspace.train(), "train.csv", "no text column", "words")


def test_repeated_id(workspace: Workspace, refused: Refused) -> None:
    workspace.train_rows[3]["id"] = workspace.train_rows[1]["id"]
    refused(workspace.train(), "train.csv", "row 5", workspace.train_rows[1]["id"])


@pytest.mark.parametrize("content", ["", "id,audio,text\n"])
def test_empty_valid(workspace: Workspace, refused: Refused, content: str) -> None:
    arguments = workspace.train()
    (workspace.folder / "valid.csv").write_text(content, encoding="utf-8")
    refused(arguments, "valid.csv")


def test_valid_without_a_usable_row(workspace: Workspace, refused: Refused) -> None:
    for row in workspace.valid_rows:
        row["text"] = "…"
    refused(workspace.train("--data.max_excluded=1"), "valid.csv", "3 of 3", "leaves none", "row 2")


@pytest.mark.parametrize("other", ["valid", "test"])
def test_same_audio_in_train_and(workspace: Workspace, refused: Refused, other: str) -> None:
    """Found by content: here under another name, in another format."""
    samples, rate = soundfile.read(workspace.train_rows[2]["audio"])
    soundfile.write(workspace.folder / "copy.wav", samples, rate, subtype="FLOAT")
    rows = [{"id": "copy", "audio": "copy.wav", "text": "altro"}, *example_rows("test", 2)]
    manifest = write_manifest(workspace.folder / "other.csv", rows)
    refused(workspace.train(f"--{other}={manifest}"), "other.csv, row 2", "the same audio as row 4", "train.csv")


# Rows: below data.max_excluded left out and listed, above it refused.


def bad_audio(kind: str, folder: Path) -> Path:
    path = folder / f"{kind}.wav"
    match kind:
        case "missing":
            pass
        case "zero-bytes":
            path.touch()
        case "zero-length":
            soundfile.write(path, np.zeros(0), 16_000)
        case "unreadable":
            path.write_bytes(b"this is no audio" * 100)
        case "truncated":
            tone(path, 2)
            path.write_bytes(path.read_bytes()[:20_000])
        case "too-long":
            tone(path, 30.01)
        case "folder":
            path.mkdir()
    return path


BAD_AUDIO = ["missing", "zero-bytes", "zero-length", "unreadable", "truncated", "too-long", "folder"]
REASONS = {
    "missing": "no such file",
    "zero-bytes": "empty",
    "zero-length": "no samples",
    "unreadable": "cannot be decoded",
    "truncated": "cut short",
    "too-long": "30.0 s; a window holds 30 s",
    "folder": "is a folder",
}


@pytest.mark.parametrize("kind", BAD_AUDIO)
def test_bad_audio_above_the_limit(workspace: Workspace, refused: Refused, kind: str) -> None:
    workspace.train_rows[1]["audio"] = str(bad_audio(kind, workspace.folder))
    refused(workspace.train(), "train.csv: 1 of 8 rows", "row 3", REASONS[kind], "--data.max_excluded")
    (row,) = excluded(workspace)
    assert REASONS[kind] in row["reason"]


def test_bad_rows_below_the_limit_are_listed_before_training(workspace: Workspace, command: Command) -> None:
    for row, kind in zip(workspace.train_rows, BAD_AUDIO, strict=False):
        row["audio"] = str(bad_audio(kind, workspace.folder))
    workspace.train_rows[7]["text"] = "!?"
    workspace.train_rows += example_rows("train", 14)[8:]
    workspace.train_rows[8]["text"] = "ab " * 200  # 600 tokens of the sample tokenizer
    workspace.train_rows[9] |= {"text": "  "}
    outcome = command(workspace.train("--data.max_excluded=0.8"))
    assert outcome.status == 0, outcome.err
    assert "all 10 left out are listed in" in outcome.err
    rows = excluded(workspace)
    assert [(row["split"], row["row"]) for row in rows] == [("train", number) for number in range(2, 12)]
    assert all(row.keys() == {"split", "id", "file", "row", "reason"} for row in rows)
    assert {row["file"] for row in rows} == {str(workspace.folder / "train.csv")}
    assert [row["id"] for row in rows] == [row["id"] for row in workspace.train_rows[:10]]
    for row, kind in zip(rows, BAD_AUDIO, strict=False):
        assert REASONS[kind] in row["reason"]
    assert rows[7]["reason"] == "text is empty after normalisation: '!?'"
    assert "Whisper takes 448" in rows[8]["reason"]
    assert rows[9]["reason"].startswith("empty text")
    steps = [json.loads(line) for line in (workspace.run / "metrics.jsonl").read_text().splitlines()]
    assert sum(step["utterances"] for step in steps if "grad_norm" in step) == 4


def test_text_that_fits_only_without_its_prompt(workspace: Workspace, refused: Refused) -> None:
    for row in workspace.train_rows:
        row["prompt"] = ""
    workspace.train_rows[0]["text"] = "abc " * 60
    workspace.train_rows[0]["prompt"] = "def " * 75
    error = refused(workspace.train(), "row 2", "text and prompt are", "448")
    tokens = int(error.partition("prompt are ")[2].split()[0])
    assert 448 < tokens < 550


def test_channels_and_rates_are_converted(workspace: Workspace, command: Command) -> None:
    for row, (rate, channels) in zip(
        workspace.train_rows, [(8_000, 1), (44_100, 2), (48_000, 6), (22_050, 1)], strict=False
    ):
        row["audio"] = str(tone(workspace.folder / f"{rate}.wav", 1, rate, channels))
    outcome = command(workspace.train("--max_steps=1"))
    assert outcome.status == 0, outcome.err
    assert excluded(workspace) == []


# Languages.


def test_unknown_language_flag(workspace: Workspace, refused: Refused) -> None:
    refused(workspace.train("--language=klingon"), "klingon")
    assert not (workspace.run / "recipe.yaml").exists()


def test_unknown_language_of_a_row(workspace: Workspace, refused: Refused) -> None:
    workspace.train_rows = [{**row, "language": "it"} for row in workspace.train_rows]
    workspace.train_rows[4]["language"] = "klingon"
    refused(workspace.train(), "train.csv", "row 6", "klingon")


def test_language_that_the_model_lacks(workspace: Workspace, refused: Refused) -> None:
    refused(workspace.train("--language=yue"), "yue")


def test_no_language(workspace: Workspace, refused: Refused) -> None:
    refused(workspace.train(without=["language"]), "--language")


def test_unknown_task_of_a_row(workspace: Workspace, refused: Refused) -> None:
    workspace.train_rows = [{**row, "task": "transcribe"} for row in workspace.train_rows]
    workspace.train_rows[4]["task"] = "sing"
    refused(workspace.train(), "row 6", "sing")


# The output folder.


def test_output_is_a_file(workspace: Workspace, refused: Refused) -> None:
    workspace.run.write_text("mine")
    refused(workspace.train(), "--output", "run", "choose another folder")
    assert workspace.run.read_text() == "mine"


def test_output_below_a_file(workspace: Workspace, refused: Refused) -> None:
    (workspace.folder / "file").write_text("mine")
    refused(workspace.train(f"--output={workspace.folder / 'file' / 'run'}"), "--output", "file")
    refused(workspace.evaluate(f"--output={workspace.folder / 'file' / 'run'}"), "--output", "file")


def test_output_holds_something_else(workspace: Workspace, refused: Refused) -> None:
    workspace.run.mkdir()
    (workspace.run / "thesis.txt").write_text("mine")
    refused(workspace.train(), "--output", "neither empty nor a run")
    assert [path.name for path in workspace.run.iterdir()] == ["thesis.txt"]


def test_output_holds_the_users_own_recipe(workspace: Workspace, refused: Refused) -> None:
    workspace.run.mkdir()
    recipe = workspace.run / "recipe.yaml"
    recipe.write_text("epochs: 1  # a comment that must not get lost\n")
    _, *flags = workspace.train()
    refused(["train", str(recipe), *flags], "--output", "neither empty nor a run")
    assert "comment" in recipe.read_text()


def test_a_refused_run_leaves_its_folder_usable(workspace: Workspace, command: Command) -> None:
    """The same command goes through once its cause is mended."""
    good = workspace.train_rows[1]["audio"]
    workspace.train_rows[1]["audio"] = "absent.wav"
    assert command(workspace.train()).status == 2
    assert (workspace.run / "excluded.jsonl").exists()
    workspace.train_rows[1]["audio"] = good
    outcome = command(workspace.train("--max_steps=1"))
    assert outcome.status == 0, outcome.err


def test_run_of_another_recipe(copied_run: Workspace, finished_run: Workspace, refused: Refused) -> None:
    same = [flag for flag in finished_run.train() if not flag.startswith(("--output", "--epochs"))]
    flags = [f"--output={copied_run.run}", "--epochs=2", "--schedule.peak-lr=1e-4"]
    before = (copied_run.run / "recipe.yaml").read_bytes()
    refused([*same, *flags], "another recipe", "schedule.peak_lr (0.0001, auto)")
    refused(["resume", str(copied_run.run), "--schedule.peak_lr=1e-4"], "schedule.peak_lr (0.0001, auto)")
    assert (copied_run.run / "recipe.yaml").read_bytes() == before


def test_finished_run_is_left_alone(copied_run: Workspace, finished_run: Workspace, command: Command) -> None:
    before = {path: path.read_bytes() for path in copied_run.run.rglob("*") if path.is_file()}
    same = [flag for flag in finished_run.train() if not flag.startswith(("--output", "--data.workers"))]
    for arguments in (["resume", str(copied_run.run)], [*same, f"--output={copied_run.run}", "--data.workers=2"]):
        outcome = command(arguments)
        assert outcome.status == 0
        assert "finished already" in outcome.err
    assert {path: path.read_bytes() for path in copied_run.run.rglob("*") if path.is_file()} == before


def test_resume_of_no_run(tmp_path: Path, refused: Refused, command: Command) -> None:
    refused(["resume", str(tmp_path)], str(tmp_path), "no recipe.yaml")
    refused(["resume", "--epochs=3"], "the run folder is missing")
    assert command(["resume"]).status == 2


def test_damaged_recipe_in_the_run(copied_run: Workspace, refused: Refused, command: Command) -> None:
    """The state holds the recipe as well; without one, the run cannot be taken up."""
    (copied_run.run / "recipe.yaml").write_text("epochs: [")
    outcome = command(["resume", str(copied_run.run)])
    assert outcome.status == 0
    assert "recipe.yaml: not YAML" in outcome.err
    assert "is taken instead" in outcome.err
    (copied_run.run / "last" / "state.safetensors").unlink()
    refused(["resume", str(copied_run.run)], "recipe.yaml: not YAML")


def test_damaged_state(copied_run: Workspace, refused: Refused) -> None:
    (copied_run.run / "last" / "state.safetensors").write_bytes(b"\0" * 100)
    refused(["resume", str(copied_run.run)], "state.safetensors", "damaged")


# Fields that only show their fault in a run.


def test_unknown_device(workspace: Workspace, refused: Refused) -> None:
    refused(workspace.train("--device=abacus"), "device is 'abacus'", "auto, cpu, cuda, cuda:N or mps")
    refused(workspace.evaluate("--device=abacus"), "device is 'abacus'")


@pytest.mark.parametrize("freeze", ["nose", "encoder:9", "decoder:7", "encoder:", ""])
def test_freeze_that_names_nothing(
    workspace: Workspace, refused: Refused, freeze: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "read_rows", lambda *_: pytest.fail("the data was read first"))
    refused(workspace.train(f"--freeze={freeze}"), f"freeze is {freeze!r}")


@pytest.mark.parametrize("store", ["memory", "disk"])
@pytest.mark.parametrize("flags", [["--augment.speed.probability=0.5", "--augment.views=fresh"], ["--freeze=none"]])
def test_stored_states_that_would_change(workspace: Workspace, refused: Refused, flags: list[str], store: str) -> None:
    command = workspace.train(f"--states.store={store}", *flags)
    refused(command, f"states.store is {store}", "take auto or off")
    assert not (workspace.run / "metrics.jsonl").exists()


def test_noise_without_a_folder(workspace: Workspace, refused: Refused) -> None:
    flag = "--augment.noise.probability=0.5"
    refused(workspace.train(flag), "augment.noise.folder")
    refused(workspace.train(flag, f"--augment.noise.folder={workspace.folder / 'absent'}"), "absent")


# Models.


@pytest.mark.parametrize("model", ["absent/folder/name", "packaged:whisper-huge", "/", "run"])
def test_missing_model(workspace: Workspace, refused: Refused, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    monkeypatch.chdir(workspace.folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused(workspace.train(f"--model={model}"), model)
    refused(workspace.evaluate(f"--model={model}"), model)


@pytest.mark.parametrize("fault", ["missing", "surplus", "misshapen"])
def test_checkpoint_with_wrong_tensors(workspace: Workspace, refused: Refused, tiny_model: Path, fault: str) -> None:
    folder = workspace.folder / "model"
    folder.mkdir()
    for path in tiny_model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = load_file(folder / "model.safetensors")
    name = "model.decoder.layers.0.fc1.weight"
    match fault:
        case "missing":
            del weights[name]
        case "surplus":
            name = "model.decoder.layers.7.fc1.weight"
            weights[name] = weights["model.decoder.layers.0.fc1.weight"].clone()
        case "misshapen":
            weights[name] = weights[name].t().contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    refused(workspace.train(f"--model={folder}"), str(folder), name)


# evaluate.


def test_evaluate_refuses(workspace: Workspace, refused: Refused) -> None:
    refused(workspace.evaluate("--data=absent.csv"), "absent.csv", "no such file")
    refused(workspace.evaluate("--beam-size=0"), "error: beam_size is 0")
    refused(workspace.evaluate("--max-excluded=2"), "error: max_excluded is 2.0")
    refused(workspace.evaluate("--task=sing"), "task is 'sing'; it takes transcribe or translate")
    refused(workspace.evaluate("--language=klingon"), "klingon")
    refused(workspace.evaluate("--language=yue"), "yue")
    refused(["evaluate", "--model=m"], "--data is missing")
    workspace.valid_rows[0]["audio"] = "absent.wav"
    output = workspace.folder / "scores"
    error = refused(workspace.evaluate(f"--output={output}"), "data.csv: 1 of 3 rows", "row 2", "--max_excluded")
    assert "data.max_excluded" not in error
    (row,) = read_jsonl(output / "excluded.jsonl")  # what is to be mended
    assert row["row"] == 2


def test_evaluate_leaves_out_and_scores_the_rest(workspace: Workspace, command: Command) -> None:
    workspace.valid_rows[0]["audio"] = "absent[/x].wav"  # brackets mean something to the terminal library
    output = workspace.folder / "scores"
    outcome = command(workspace.evaluate("--max-excluded=0.5", f"--output={output}", "--frames.selection=thinned"))
    assert outcome.status == 0, outcome.err
    assert "absent[/x].wav" in outcome.err
    rows = read_jsonl(output / "hypotheses.jsonl")
    assert [row["id"] for row in rows] == [row["id"] for row in workspace.valid_rows[1:]]
    summary = json.loads((output / "summary.json").read_text())
    assert summary["frames"] == "thinned"
    assert summary["excluded"] == 1
    (row,) = read_jsonl(output / "excluded.jsonl")
    assert {name: row[name] for name in ("split", "id", "row")} == {
        "split": "data",
        "id": workspace.valid_rows[0]["id"],
        "row": 2,
    }
    assert row["file"].endswith("data.csv")
    assert "absent[/x].wav" in row["reason"]
    printed = "".join(outcome.err.split())  # whatever the terminal's width
    assert f"1of3rowsleftout;listedin{output / 'excluded.jsonl'}" in printed

    workspace.valid_rows[0] = workspace.valid_rows[1] | {"id": "again"}
    outcome = command(workspace.evaluate(f"--output={output}"))
    assert outcome.status == 0, outcome.err
    assert "left out" not in outcome.err
    assert read_jsonl(output / "excluded.jsonl") == []
    assert json.loads((output / "summary.json").read_text())["excluded"] == 0


# The process as a whole.


def process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "whispertune.cli", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        check=False,
    )


def test_exit_status_of_the_process(workspace: Workspace) -> None:
    found = process(*workspace.train("--train=absent.csv"))
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.splitlines() == ["error: --train absent.csv: no such file; check the path"]
    found = process(*workspace.train("--epoch=3"))
    assert found.returncode == 2
    assert found.stderr.splitlines() == ["error: unknown flag --epoch; did you mean 'epochs'?"]


def test_traceback_on_demand(workspace: Workspace) -> None:
    found = process("resume", str(workspace.folder), WHISPERTUNE_TRACEBACK="1")
    assert found.returncode != 0
    assert "Traceback" in found.stderr
    assert "RunFolderError" in found.stderr


def test_a_format_that_nothing_would_be_written_in_is_refused(workspace: Workspace, command: Command) -> None:
    outcome = command(["transcribe", f"--model={workspace.model}", "talk.wav", "--format=srt"])
    assert (outcome.status, "without --output" in outcome.error) == (2, True)


def test_unknown_command(command: Command) -> None:
    outcome = command(["trian", "--epochs=3"])
    assert outcome.status == 2
    assert outcome.error == "error: unknown command 'trian'; did you mean train?"
    outcome = command(["unknown"])
    assert outcome.status == 2
    known = "init, train, resume, evaluate, transcribe, correct, report, check, align, tune, split, export"
    assert outcome.error == f"error: unknown command 'unknown'; choose from {known}"
    outcome = command([])
    assert outcome.status == 2
    assert "usage:" in outcome.out


def test_what_the_system_refuses_is_one_line(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from whispertune.commands import train

    def disk_full(_: object) -> int:
        raise OSError(28, "No space left on device", "RUN/metrics.jsonl")

    monkeypatch.setattr(train, "main", disk_full)
    outcome = command(["train"])
    assert outcome.status == 1
    assert outcome.error.endswith("No space left on device: 'RUN/metrics.jsonl'")

    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "main", interrupted)
    assert command(["train"]).error == "error: interrupted"


def test_example_is_there() -> None:
    assert {path.stem for path in EXAMPLE.glob("*.csv")} == {"train", "valid", "test"}


@pytest.mark.parametrize("written", ['"a\\0b"', '"a\\ud800b"'])
@pytest.mark.parametrize("field", ["output", "model", "valid", "states.folder", "data.audio_root"])
def test_escapes_that_no_path_can_hold(workspace: Workspace, refused: Refused, written: str, field: str) -> None:
    """YAML and JSON can write NUL and half a surrogate pair."""
    recipe = workspace.folder / "recipe.yaml"
    recipe.write_text(f"{field}: {written}\n", encoding="utf-8")
    given = [flag for flag in workspace.train() if not flag.startswith(f"--{field}=")]
    refused(
        [given[0], str(recipe), *given[1:]], f"recipe.yaml: {field} holds", "which no text and no path can; remove it"
    )


@pytest.mark.parametrize("field", ["model", "train", "output"])
@pytest.mark.parametrize("path", ["x" * 5_000, "x/" * 2_500])
def test_paths_that_are_too_long(workspace: Workspace, refused: Refused, field: str, path: str) -> None:
    given = [flag for flag in workspace.train() if not flag.startswith(f"--{field}=")]
    assert len(refused([*given, f"--{field}={path}"])) < 1_100


def test_an_unknown_command_is_told_in_one_bounded_line(command: Command) -> None:
    outcome = command(["x" * 10_000])
    assert outcome.status == 2
    assert len(outcome.error) < 1_100


# Folders that a failed command has made.


@pytest.mark.parametrize("name", ["align", "split", "evaluate", "transcribe", "check"])
def test_no_empty_folder_is_left(tmp_path: Path, refused: Refused, name: str) -> None:
    """Neither --output nor its parents; a folder that was there before stays."""
    row = example_rows("train", 1)[0]
    data, text, kept = write_manifest(tmp_path / "data.csv", [row]), tmp_path / "talk.txt", tmp_path / "kept"
    text.write_text("Sì.\n", encoding="utf-8")
    kept.mkdir()
    absent = f"--model={tmp_path / 'absent'}"
    given = {
        "align": [row["audio"], f"--text={text}", absent],
        "split": [str(data), f"--exclude={tmp_path / 'absent'}"],
        "evaluate": [f"--data={data}", absent],
        "transcribe": [row["audio"], absent],
        "check": [str(data), f"--fix={tmp_path / 'fixed'}", absent],
    }[name]
    refused([name, *given, "--language=it", f"--output={tmp_path / 'new' / 'output'}"], "absent")
    assert {path.name for path in tmp_path.iterdir()} == {"data.csv", "talk.txt", "kept"}
    refused([name, *given, "--language=it", f"--output={kept}"], "absent")
    assert kept.is_dir()
    refused([name, *given, "--language=it", f"--output={tmp_path / ('x' * 300)}"], "--output: cannot")
