"""Rules for the training text: what a run says and lists about them, and what it scores."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from cli_samples import Command, Workspace

from whispertune.system.files import read_jsonl

RULES = ["--text.case=lower", "--text.punctuation=drop", "--text.digits=flag"]


def rows_with(texts: list[str], rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{**row, "text": text} for row, text in zip(rows, texts, strict=False)]


def test_training_text_is_rewritten_and_references_stay(workspace: Workspace, command: Command) -> None:
    texts = ["Sì, sono 3.", "Tutti!", "così", "L'ACQUA"]
    workspace.train_rows = rows_with(texts, workspace.train_rows)
    workspace.valid_rows = rows_with(["Ciao, Anna!"], workspace.valid_rows)
    outcome = command(workspace.train(*RULES, "--max_steps=1"))
    assert outcome.status == 0, outcome.err
    assert "text      train: 3 of 4 transcripts rewritten (case 3, punctuation 2); with digits: 1" in outcome.err
    assert "'Sì, sono 3.' -> 'sì sono 3'" in outcome.err
    changed = read_jsonl(workspace.run / "text_changes.jsonl")
    assert [(row["before"], row["after"], row["rules"]) for row in changed] == [
        ("Sì, sono 3.", "sì sono 3", ["punctuation", "case", "digits"]),
        ("Tutti!", "tutti", ["punctuation", "case"]),
        ("L'ACQUA", "l'acqua", ["case"]),
    ]
    (scored,) = read_jsonl(workspace.run / "valid" / "step-0000000.jsonl")
    assert scored["reference"] == "Ciao, Anna!"
    assert "transcript" not in scored


def test_references_are_rewritten_if_asked(workspace: Workspace, command: Command) -> None:
    workspace.valid_rows = rows_with(["Ciao, Anna!"], workspace.valid_rows)
    outcome = command(workspace.train(*RULES, "--text.references=true", "--max_steps=1"))
    assert outcome.status == 0, outcome.err
    assert "text      valid: 1 of 1 transcript rewritten" in outcome.err
    (scored,) = read_jsonl(workspace.run / "valid" / "step-0000000.jsonl")
    assert (scored["reference"], scored["transcript"]) == ("ciao anna", "Ciao, Anna!")


def test_a_text_that_the_rules_empty_is_left_out(workspace: Workspace, command: Command, tmp_path: Path) -> None:
    (tmp_path / "table.tsv").write_text("[rumore]\t\n", encoding="utf-8")
    workspace.train_rows = rows_with(["[rumore]", "Tutti", "così [rumore]", "no", "sì"], workspace.train_rows)
    table = f"--text.replacements={tmp_path / 'table.tsv'}"
    outcome = command(workspace.train(table, "--max_steps=1", "--data.max_excluded=0.5"))
    assert outcome.status == 0, outcome.err
    assert "left out  train: 1 left out: text is empty after normalisation" in outcome.err
    (changed,) = read_jsonl(workspace.run / "text_changes.jsonl")
    assert (changed["before"], changed["after"]) == ("così [rumore]", "così")


def test_a_changed_table_is_not_resumed_with(
    workspace: Workspace, command: Command, refused: Callable[..., str], tmp_path: Path
) -> None:
    table = tmp_path / "table.tsv"
    table.write_text("tutti\ttutte\n", encoding="utf-8")
    assert command(workspace.train(f"--text.replacements={table}")).status == 0
    table.write_text("tutti\tognuno\n", encoding="utf-8")
    error = refused(workspace.train(f"--text.replacements={table}", "--epochs=2"))
    assert "text.replacements changed since this run was started" in error
    environment = json.loads((workspace.run / "environment.json").read_text(encoding="utf-8"))
    assert "text.replacements" in environment["sha256"]


def test_a_table_that_is_not_there(workspace: Workspace, refused: Callable[..., str], tmp_path: Path) -> None:
    error = refused(workspace.train(f"--text.replacements={tmp_path / 'none.tsv'}"))
    assert "text.replacements is" in error
    assert "cannot be read" in error
