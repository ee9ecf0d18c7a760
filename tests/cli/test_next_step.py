"""What is printed as the next step runs as it is printed, and reads what is meant."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import pytest
import soundfile
from cli_samples import EXAMPLE, Command, Outcome, Workspace, example_rows, write_manifest


def next_commands(outcome: Outcome) -> list[list[str]]:
    lines = [line.removeprefix("next:") for line in outcome.out.splitlines() if line.startswith("next:")]
    commands = [shlex.split(line) for line in lines]
    assert all(command[0] == "whispertune" for command in commands)
    return [command[1:] for command in commands]


@pytest.fixture
def common_voice(tmp_path: Path) -> Path:
    """A release as it is unpacked: splits, and tables that are none."""
    folder = tmp_path / "cv corpus" / "it"
    (folder / "clips").mkdir(parents=True)
    for split, name, count in (("train", "train", 8), ("valid", "dev", 2), ("test", "test", 2)):
        lines = ["client_id\tpath\tsentence\tlocale"]
        for number, row in enumerate(example_rows(split, count)):
            shutil.copy(EXAMPLE / row["audio"], folder / "clips" / Path(row["audio"]).name)
            lines.append(f"{split}-{number}\t{Path(row['audio']).name}\t{row['text']}\tit")
        (folder / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "validated.tsv").write_text("client_id\tpath\tsentence\nc\ta.mp3\tx\n", encoding="utf-8")
    (folder / "clip_durations.tsv").write_text("clip\tduration[ms]\na.mp3\t1000\n", encoding="utf-8")
    (folder / "reported.tsv").write_text("sentence_id\tsentence\tlocale\treason\n", encoding="utf-8")
    (folder / "validated_sentences.tsv").write_text("sentence_id\tsentence\n1\tx\n", encoding="utf-8")
    return folder


def test_common_voice_from_check_to_the_figures(common_voice: Path, tiny_model: Path, command: Command, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    checked = command(["check", str(common_voice), "--no-audio"])
    assert checked.status == 0, checked.err
    assert "12 rows" in checked.out
    (train,) = next_commands(checked)
    train[train.index("openai/whisper-base")] = str(tiny_model)
    trained = command([*train, "--precision=fp32", "--search.beam_size=1"])
    assert trained.status == 0, trained.err
    for again, model in zip(next_commands(trained), (str(tiny_model), "runs/first"), strict=True):
        assert again[again.index("--data") + 1] == f"{common_voice} [split=test]"
        assert again[again.index("--model") + 1] == model
        scored = command([*again, "--beam_size=1"])
        assert scored.status == 0, scored.err


def test_a_spreadsheet_from_check_to_the_figures(
    workspace: Workspace, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Semicolons, decimal commas, columns by their own names, audio elsewhere, no test: scored on valid."""
    monkeypatch.chdir(workspace.folder)
    for name, rows in (("train", workspace.train_rows), ("valid", workspace.valid_rows)):
        lines = ["Datei;Transkript;Ende"]
        for row in rows:
            seconds = soundfile.info(row["audio"]).duration
            lines.append(f"{Path(row['audio']).name};{row['text']};{str(round(seconds, 2)).replace('.', ',')}")
        (workspace.folder / f"{name} 1.csv").write_text("\n".join(lines), encoding="utf-8")
    root = Path(workspace.train_rows[0]["audio"]).parent
    flags = ["--columns", "text=Transkript,audio=Datei,end=Ende", "--audio-root", str(root), "--language", "it"]
    checked = command(["check", "train 1.csv", "valid 1.csv", "--no-audio", *flags])
    assert checked.status == 0, checked.err
    (train,) = next_commands(checked)
    train[train.index("openai/whisper-base")] = str(workspace.model)
    trained = command([*train, "--precision=fp32", "--data.max_excluded=0.4"])
    assert trained.status == 0, trained.err
    for again in next_commands(trained):
        assert again[again.index("--data") + 1] == "valid 1.csv"
        assert again[again.index("--max_excluded") + 1] == "0.4"
        scored = command([*again, "--beam_size=1"])
        assert scored.status == 0, scored.err


def test_check_names_no_next_step_with_errors_in_the_way(workspace: Workspace, command: Command) -> None:
    workspace.train_rows[0]["text"] = ""
    train = write_manifest(workspace.folder / "train.csv", workspace.train_rows)
    valid = write_manifest(workspace.folder / "valid.csv", workspace.valid_rows)
    arguments = ["check", str(train), str(valid), "--no-audio", "--language=it"]
    assert next_commands(command(arguments)) == []
    (train_command,) = next_commands(command([*arguments, f"--fix={workspace.folder / 'fixed'}"]))
    assert train_command[train_command.index("--train") + 1] == str(workspace.folder / "fixed" / "train.jsonl")
