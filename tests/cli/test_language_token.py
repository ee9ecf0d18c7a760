"""A language that Whisper does not know, from training to the saved model and its evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_samples import Command, Workspace


def test_a_borrowed_token_is_named_by_the_saved_model(workspace: Workspace, command: Command) -> None:
    flags = ["--language=sc", "--language_token=it", "--max_steps=1"]
    outcome = command(workspace.train(*flags, without=["language"]))
    assert outcome.status == 0, outcome.err
    assert "language  sc, under the token of Italian" in outcome.err
    assert outcome.out.rstrip().endswith("--language sc --language_token it")  # the command to go on with
    best = workspace.run / "best"
    assert json.loads((best / "generation_config.json").read_text())["language"] == "<|it|>"
    card = (best / "README.md").read_text()
    assert "language: sc" in card
    assert "Whisper has no token for `sc`: this model uses that of Italian (`it`)." in card


def test_the_saved_model_knows_its_language_by_either_name(
    workspace: Workspace, command: Command, refused: Callable[..., str], tmp_path: Path
) -> None:
    flags = ["--language=zap", "--language_token=es", "--max_steps=1"]
    workspace.valid_rows = workspace.valid_rows[:1]
    assert command(workspace.train(*flags, without=["language"])).status == 0
    best = workspace.run / "best"
    generation = json.loads((best / "generation_config.json").read_text())
    assert (generation["language"], generation["language_aliases"]) == ("<|es|>", {"zap": "es"})
    audio = workspace.valid_rows[0]["audio"]
    said = {}
    for name, more in {
        "zap": ["--language=zap"],
        "es": ["--language=Spanish"],
        "own": [],
    }.items():
        outcome = command(
            ["transcribe", f"--model={workspace.run}", audio, "--temperature=[0]", "--beam_size=1", *more]
        )
        assert outcome.status == 0, outcome.err
        said[name] = outcome.out
        spoken = "es (Spanish)" if name == "es" else "zap (Zapotec) under the token of Spanish"
        origin = "what the model was trained on" if name == "own" else "as asked for"
        assert f"language  {spoken}, {origin}" in outcome.err
    assert len(set(said.values())) == 1
    scores = []
    for more in (["--language=zap"], ["--language=es"], ["--language=zap", "--language_token=es"]):
        given = [flag for flag in workspace.evaluate() if not flag.startswith(("--language", "--model"))]
        outcome = command([*given, f"--model={best}", *more, f"--output={tmp_path / 'scored'}"])
        assert outcome.status == 0, outcome.err
        scores.append((tmp_path / "scored" / "hypotheses.jsonl").read_text().replace('"zap"', '"es"'))
    assert len(set(scores)) == 1
    # Trained on, and exported, it stays what it is.
    again = workspace.train("--language=zap", "--max_steps=1", f"--output={tmp_path / 'again'}", without=["language"])
    again = [*(f for f in again if f != f"--output={workspace.run}" and not f.startswith("--model")), f"--model={best}"]
    outcome = command(again)
    assert outcome.status == 0, outcome.err
    for folder in (tmp_path / "again" / "best", tmp_path / "exported"):
        if folder.name == "exported":
            assert command(["export", f"--model={best}", "--to=huggingface", f"--output={folder}"]).status == 0
        generation = json.loads((folder / "generation_config.json").read_text())
        assert (generation["language"], generation["language_aliases"]) == ("<|es|>", {"zap": "es"})
    refused(["transcribe", f"--model={best}", audio, "--language=mix"], "unknown language 'mix'", "--language_token")


def test_what_is_refused(workspace: Workspace, refused: Callable[..., str]) -> None:
    refused(workspace.train("--language=sc", without=["language"]), "unknown language 'sc'")
    refused(workspace.train("--language=sc", "--language_token=xx", without=["language"]), "unknown language 'xx'")
    refused(workspace.train("--language_token=it", without=["language"]), "language_token", "without language")


def test_check_suggests_whose_token_to_borrow(workspace: Workspace, command: Command, tmp_path: Path) -> None:
    """Each figure is the loss that `evaluate` gives for the same clips under the same token."""
    workspace.train("--max_steps=1")  # writes the manifests
    data, out = str(workspace.folder / "valid.csv"), tmp_path / "out"
    outcome = command(["check", data, f"--model={workspace.model}", "--language=Sardinian", f"--output={out}"])
    assert outcome.status in (0, 2), outcome.err
    found = json.loads((out / "summary.json").read_text(encoding="utf-8"))["language_tokens"]
    losses = {code: loss for code, loss, _, _ in found["losses"]}
    assert (found["language"], found["clips"], len(losses)) == ("sc", 3, 99)
    assert found["suggested"] == min(losses, key=lambda code: losses[code]) == found["losses"][0][0]
    assert found["losses"][0][2] == 0
    assert f"--language sc --language_token {found['suggested']}" in outcome.out
    assert "tokens a character" in outcome.out
    assert "Sardinian has no token" in (out / "check.html").read_text(encoding="utf-8")
    for code in ("it", found["suggested"]):
        scored = tmp_path / f"scored-{code}"
        flags = [f"--output={scored}", "--language=sc", f"--language_token={code}", "--frames.selection=thinned"]
        assert command(workspace.evaluate(*flags)).status == 0
        loss = json.loads((scored / "summary.json").read_text(encoding="utf-8"))["loss"]
        assert losses[code] == pytest.approx(loss, abs=2e-3)


def test_check_without_a_model_says_how_to_find_it(refused: Callable[..., str], workspace: Workspace) -> None:
    workspace.train("--max_steps=1")
    error = refused(["check", str(workspace.folder / "valid.csv"), "--language=sc"])
    assert "whispertune check F --language sc --model M measures which one is best" in error
