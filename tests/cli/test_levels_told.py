"""Levels far above full scale and channels that cancel: left out by train and evaluate, refused by transcribe."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from cli_samples import EXAMPLE, Command, Workspace

from whispertune.data.audio.waveforms import load_waveform

REASONS = {"loud": "above full scale", "cancelling": "opposite phase"}


def recording(kind: str, folder: Path) -> Path:
    speech = load_waveform(EXAMPLE / "audio" / "added.opus")
    samples = 32_768 * speech if kind == "loud" else np.stack([speech, -speech], axis=1)
    soundfile.write(folder / f"{kind}.wav", samples, 16_000, subtype="FLOAT")
    return folder / f"{kind}.wav"


@pytest.mark.parametrize("kind", REASONS)
def test_train_and_evaluate_leave_it_out(workspace: Workspace, command: Command, kind: str) -> None:
    workspace.train_rows[1]["audio"] = workspace.valid_rows[1]["audio"] = str(recording(kind, workspace.folder))
    output = workspace.folder / "scores"
    for arguments, folder in (
        (workspace.train("--data.max_excluded=0"), workspace.run),
        (workspace.evaluate(f"--output={output}", "--max_excluded=0"), output),
    ):
        outcome = command(arguments)
        assert outcome.status == 2
        assert REASONS[kind] in outcome.err
        rows = [json.loads(line) for line in (folder / "excluded.jsonl").read_text().splitlines()]
        assert all(REASONS[kind] in row["reason"] and "ffmpeg" in row["reason"] for row in rows)
        assert rows


@pytest.mark.parametrize("kind", REASONS)
def test_transcribe_says_so(workspace: Workspace, command: Command, kind: str) -> None:
    path = recording(kind, workspace.folder)
    outcome = command(["transcribe", f"--model={workspace.model}", "--language=it", str(path)])
    assert outcome.status != 0
    (line,) = [line for line in outcome.err.splitlines() if str(path) in line]
    assert REASONS[kind] in line
    assert "ffmpeg" in line
