"""correct with a model: it transcribes recordings, or ranks transcripts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from cli_samples import Command, Workspace, write_manifest

from whispertune.commands import correct
from whispertune.commands.transcribe_options import TranscribeOptions
from whispertune.correct.journal import Correction
from whispertune.errors import RecipeError
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


def test_recordings_are_transcribed_first(
    workspace: Workspace, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the times of words, into DIR; a model of random weights would take long to say nothing."""
    asked: list[TranscribeOptions] = []

    def transcribed(audios: Sequence[Path], options: TranscribeOptions, output: Path) -> int:
        asked.append(options)
        output.mkdir(parents=True, exist_ok=True)
        for audio in audios:
            words = [{"start": 0.1, "end": 0.4, "text": "pronto", "confidence": 0.5}]
            segment = {"start": 0.0, "end": 0.5, "text": "pronto", "confidence": 0.6, "words": words}
            content = {"audio": str(audio), "text": "pronto", "language": "it", "segments": [segment]}
            (output / f"{audio.stem}.json").write_text(json.dumps(content), encoding="utf-8")
        return 0

    monkeypatch.setattr("whispertune.commands.transcribe.transcribe", transcribed)
    audios, out = [row["audio"] for row in workspace.train_rows[:2]], tmp_path / "out"
    outcome = command(["correct", *audios, f"--model={workspace.model}", "--language=it", f"--output={out}"])
    assert outcome.status == 0, outcome.err
    assert (asked[0].model, asked[0].language, asked[0].format) == (str(workspace.model), "it", "json")
    assert asked[0].windows.word_timestamps
    correction = Correction(out)
    assert correction.facts["by_model"]
    assert correction.facts["formats"] == ["textgrid"]
    found = correction.session.ranked()
    assert [(segment.text, segment.confidence, segment.score) for segment in found] == [("pronto", 0.6, 0.45)] * 2
    correction.close()


def test_only_what_this_model_made_of_these_recordings_is_corrected(
    workspace: Workspace, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not what an interrupted command left behind; and recordings that it could not read are counted."""
    audios, out = [Path(row["audio"]) for row in workspace.train_rows[:3]], tmp_path / "out"
    texts = iter(["ciao", "hallo", "pronto"])

    def transcribed(given: Sequence[Path], options: TranscribeOptions, output: Path) -> int:
        output.mkdir(parents=True, exist_ok=True)
        text = next(texts)
        for audio in given[:2]:
            if not (path := output / f"{audio.stem}.json").exists():
                segment = {"start": 0.0, "end": 0.5, "text": text}
                content = {"audio": str(audio), "text": text, "language": "it", "segments": [segment]}
                path.write_text(json.dumps(content), encoding="utf-8")
        if text != "pronto":
            raise RecipeError("interrupted")
        return len(given) - 2

    monkeypatch.setattr("whispertune.commands.transcribe.transcribe", transcribed)
    flags = [f"--model={workspace.model}", f"--output={out}"]
    assert command(["correct", str(audios[0]), "--language=it", *flags]).status == 2
    assert command(["correct", str(audios[1]), "--language=de", *flags]).status == 2
    outcome = command(["correct", *map(str, audios[1:]), str(audios[0]), "--language=it", *flags])
    assert outcome.status == 0, outcome.err
    assert "1 of 3 recordings left out of the correction" in outcome.err
    correction = Correction(out)
    # The first recording was transcribed earlier by the same model, so its transcript is good; the last attempt failed.
    assert sorted(segment.text for segment in correction.session.ranked()) == ["ciao", "pronto", "pronto"]
    correction.close()
