"""Rows that the user marked are left out of train and evaluate, and reported by check."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_samples import Command, Workspace

from whispertune.system.files import read_jsonl


@pytest.fixture
def marked(workspace: Workspace, tmp_path: Path) -> Path:
    """Two of the eight training rows, one of the three valid ones, and one whose transcript has been corrected."""
    first, second, corrected = workspace.train_rows[:3]
    rows = [first, second, {**corrected, "text": "as it was"}, workspace.valid_rows[1]]
    path = tmp_path / "marked.jsonl"
    path.write_text(
        "".join(
            json.dumps({"id": row["id"], "text": row["text"], "reason": "transcript wrong"}) + "\n" for row in rows
        ),
        encoding="utf-8",
    )
    return path


def test_train_leaves_them_out(workspace: Workspace, command: Command, marked: Path) -> None:
    arguments = workspace.train(f"--data.exclude={marked}")
    outcome = command(arguments)
    assert outcome.status == 0, outcome.err  # 25 % of train: data.max_excluded is about rows that cannot be used
    assert read_jsonl(workspace.run / "excluded.jsonl") == [
        {"split": split, "id": row["id"], "file": str(workspace.folder / f"{split}.csv"), "row": number,
         "reason": "transcript wrong (marked.jsonl)"}
        for split, row, number in (
            ("train", workspace.train_rows[0], 2), ("train", workspace.train_rows[1], 3),
            ("valid", workspace.valid_rows[1], 3),
        )
    ]  # fmt: skip
    assert "train: 2 left out: transcript wrong (marked.jsonl)" in outcome.err
    line = "1 of 4 marked ids without a row that has this transcript (it may have been corrected since): "
    assert line + repr(workspace.train_rows[2]["id"]) in outcome.err
    figures = json.loads((workspace.run / "environment.json").read_text("utf-8"))["data"]
    assert [figures[split]["utterances"] for split in ("train", "valid")] == [6, 2]
    # Another list is other data, so that the run cannot be resumed with it.
    marked.write_text("".join(marked.read_text("utf-8").splitlines(keepends=True)[1:]), encoding="utf-8")
    refused = command(workspace.train(f"--data.exclude={marked}", "--epochs=2"))
    assert (refused.status, "data.exclude changed since this run was started" in refused.error) == (2, True)


def test_evaluate_leaves_them_out(workspace: Workspace, command: Command, marked: Path, tmp_path: Path) -> None:
    outcome = command(workspace.evaluate(f"--exclude={marked}", f"--output={tmp_path / 'out'}"))
    assert outcome.status == 0, outcome.err
    ids = [row["id"] for row in read_jsonl(tmp_path / "out" / "hypotheses.jsonl")]
    assert workspace.valid_rows[1]["id"] not in ids
    assert len(ids) == 2
    refused = command(workspace.evaluate(f"--exclude={tmp_path / 'absent.csv'}"))
    assert (refused.status, refused.err.count("\n")) == (2, 1)


def test_check_reports_them(workspace: Workspace, command: Command, marked: Path, tmp_path: Path) -> None:
    workspace.train()  # writes the manifests
    files = [str(workspace.folder / f"{split}.csv") for split in ("train", "valid")]
    flags = ["--no-audio", "--language=it", f"--exclude={marked}", f"--output={tmp_path / 'out'}"]
    outcome = command(["check", *files, *flags, f"--fix={tmp_path / 'fixed'}"])
    assert outcome.status == 2
    found = [row for row in read_jsonl(tmp_path / "out" / "check.jsonl") if row["kind"] == "marked"]
    assert [(row["split"], row["id"], row["severity"], row["field"]) for row in found] == [
        ("train", workspace.train_rows[0]["id"], "error", "text"),
        ("train", workspace.train_rows[1]["id"], "error", "text"),
        ("valid", workspace.valid_rows[1]["id"], "error", "text"),
    ]
    assert "1 of 4 marked ids without a row" in outcome.err
    assert len(read_jsonl(tmp_path / "fixed" / "train.jsonl")) == 6
