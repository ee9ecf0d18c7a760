"""A language that Whisper does not know, from training to the saved model and its evaluation."""

from __future__ import annotations

import json
from collections.abc import Callable

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


def test_what_is_refused(workspace: Workspace, refused: Callable[..., str]) -> None:
    refused(workspace.train("--language=sc", without=["language"]), "unknown language 'sc'")
    refused(workspace.train("--language=sc", "--language_token=xx", without=["language"]), "unknown language 'xx'")
    refused(workspace.train("--language_token=it", without=["language"]), "language_token", "without language")
