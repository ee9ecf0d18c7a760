"""correct with a model: it transcribes recordings, or ranks transcripts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_samples import Command, Workspace, write_manifest

from whispertune.commands import correct
from whispertune.correct.journal import Correction
from whispertune.system.files import read_jsonl

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correct, "_serve", lambda correction, options: 0)


def test_transcripts_are_ranked_by_the_model(workspace: Workspace, command: Command, tmp_path: Path) -> None:
    rows = workspace.train_rows[:5]
    rows[2]["text"] = ""
    manifest = write_manifest(tmp_path / "some.csv", rows)
    out = tmp_path / "out"
    outcome = command(
        ["correct", str(manifest), f"--model={workspace.model}", "--language=it", f"--output={out}", "--device=cpu"]
    )
    assert outcome.status == 0, outcome.err
    base = read_jsonl(out / "segments.jsonl")
    scores = [row["score"] for row in base]
    assert scores == sorted(scores, reverse=True)
    assert (base[0]["text"], base[0]["score"]) == ("", 100.0)
    assert all("hypothesis" in row for row in base[1:])


def test_recordings_are_transcribed_first(workspace: Workspace, command: Command, tmp_path: Path) -> None:
    audios = [row["audio"] for row in workspace.train_rows[:2]]
    out = tmp_path / "out"
    outcome = command(
        ["correct", *audios, f"--model={workspace.model}", "--language=it", f"--output={out}", "--device=cpu"]
    )
    hypotheses = sorted((out / "hypotheses").glob("*.json"))
    assert len(hypotheses) == 2
    texts = [segment for path in hypotheses for segment in json.loads(path.read_text(encoding="utf-8"))["segments"]]
    if not any(segment["text"].strip() for segment in texts):  # random weights may say nothing
        assert outcome.status == 2
        return
    assert outcome.status == 0, outcome.err
    correction = Correction(out)
    assert correction.facts["by_model"]
    assert correction.facts["formats"] == ["textgrid"]
    assert len(correction.session.segments) <= len(texts)
    correction.close()
