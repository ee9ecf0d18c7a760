"""`evaluate --timestamps true --hallucination true` on a tiny model: figures, tables, and what they are made of."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli_samples import Command, Workspace

from whispertune.decoding.long_form import LongForm
from whispertune.decoding.options import FallbackOptions
from whispertune.decoding.rules import Hypothesis
from whispertune.decoding.transcriber import Transcriber
from whispertune.evaluation import evaluate as validate
from whispertune.evaluation.probes import timestamps


@pytest.fixture(autouse=True)
def _short_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model does not end by itself."""
    monkeypatch.setattr(validate, "MAX_TOKENS", 12)
    monkeypatch.setattr(Transcriber, "room", lambda self, prompt: max(1, 12 - len(prompt)))


def test_probes_stand_in_the_summary_and_on_the_screen(workspace: Workspace, command: Command, tmp_path: Path) -> None:
    flags = ["--timestamps=true", "--hallucination=true", "--frames.selection=thinned", "--max_excluded=0.5"]
    outcome = command(workspace.evaluate(*flags, f"--output={tmp_path / 'out'}"))
    assert outcome.status == 0, outcome.err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert summary["timestamps"]["windows"] == 1
    assert summary["timestamps"]["monotonic"] == 1.0  # the grammar sees to it
    found = summary["hallucination"]
    assert list(found["sounds"]) == ["digital silence", "white noise", "pink noise", "hum", "clicks"]
    assert sum(sound["seconds"] for sound in found["sounds"].values()) == 300
    words = sum(sound["words"] for sound in found["sounds"].values())
    assert found["insertions_per_hour"] == pytest.approx(12 * words)
    assert all(len(sound["texts"]) == 2 for sound in found["sounds"].values())
    assert 0 <= summary["repetition_rate"] <= 1
    assert summary["capped_rate"] == pytest.approx(summary["capped"] / summary["utterances"])
    for shown in ("timestamps, 1 window of stitched clips", "digital silence", "words an hour", "the data's own"):
        assert shown in outcome.out
    without = command(workspace.evaluate(f"--output={tmp_path / 'plain'}"))
    assert without.status == 0
    plain = json.loads((tmp_path / "plain" / "summary.json").read_text(encoding="utf-8"))
    assert not {"timestamps", "hallucination", "repetition_rate"} & set(plain)
    assert "nothing is said" not in without.out


def test_what_is_said_exactly_is_scored_as_right(
    workspace: Workspace, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that writes each window's own target: valid, no error. One that writes of silence: counted."""

    def transcribe(self: Transcriber, waveform: object, prompts: list[list[int]], **rest: object) -> list[Hypothesis]:
        if self.timestamps is None:
            return [Hypothesis(tuple(self.model.tokenizer.encode(" a, b")), 0.0)] * len(prompts)
        return [Hypothesis(tuple(t.input_ids[t.prompt_length :]), 0.0) for t in targets]

    targets = []
    original = timestamps.windows_with_boundaries

    def windows(split, text, seed):  # type: ignore[no-untyped-def]
        found = original(split, text, seed)
        targets.extend(text.target(window) for window in found)
        return found

    monkeypatch.setattr("whispertune.commands.evaluate.windows_with_boundaries", windows)
    monkeypatch.setattr(Transcriber, "transcribe", transcribe)
    outcome = command(
        workspace.evaluate("--timestamps=true", "--hallucination=true", f"--output={tmp_path / 'out'}", "--seed=3")
    )
    assert outcome.status == 0, outcome.err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    found = summary["timestamps"]
    assert (found["valid"], found["wer"], found["boundaries_found"]) == (1.0, 0.0, 1.0)
    assert found["boundary_error_mean"] <= 0.011
    assert summary["hallucination"]["insertions_per_hour"] == 2 * 10 * 12  # two words in each of ten windows
    assert summary["hallucination"]["sounds"]["hum"]["insertions_per_hour"] == 240


def test_noise_reaches_the_model(workspace: Workspace, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[np.ndarray] = []

    def transcribe(self: Transcriber, waveform, prompts, **rest):  # type: ignore[no-untyped-def]
        heard.extend(waveform(index) for index in range(len(prompts)))
        assert prompts == [self.model.tokenizer.prompt_tokens("it")] * 10
        return [Hypothesis((), 0.0)] * len(prompts)

    monkeypatch.setattr(Transcriber, "transcribe", transcribe)
    assert command(workspace.evaluate("--hallucination=true")).status == 0
    assert [len(waveform) for waveform in heard] == [480_000] * 10
    assert (
        len({waveform.tobytes() for waveform in heard}) == 8
    )  # the two halves of silence are the same, and those of the hum


def test_clips_are_transcribed_as_one_recording(
    workspace: Workspace, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = LongForm.transcribe
    seconds: list[float] = []

    def transcribe(self: LongForm, files: list[Path], advance):  # type: ignore[no-untyped-def]
        for number, found in original(self, files, advance):
            seconds.append(found.duration)  # type: ignore[union-attr]
            yield number, found

    monkeypatch.setattr(LongForm, "transcribe", transcribe)
    monkeypatch.setattr("whispertune.evaluation.probes.long_form.FallbackOptions", greedy_once)
    flags = ["--long_form=true", "--frames.selection=thinned", f"--output={tmp_path / 'out'}"]
    outcome = command(workspace.evaluate(*flags))
    assert outcome.status == 0, outcome.err
    found = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))["long_form"]
    assert (found["recordings"], found["own_recordings"]) == (1, False)
    assert seconds == [pytest.approx(found["seconds"], abs=0.01)]
    (text,) = found["texts"]
    assert sorted(text["reference"].split()) == sorted(w for row in workspace.valid_rows for w in row["text"].split())
    assert found["wer"] == text["wer"]
    assert "long form: clips joined with silences" in outcome.out


def greedy_once(**options: object) -> FallbackOptions:
    """A random model passes no threshold: no second try."""
    return FallbackOptions(**{**options, "temperature": (0.0,)})  # type: ignore[arg-type]


def test_bad_seed(workspace: Workspace, refused) -> None:  # type: ignore[no-untyped-def]
    refused(workspace.evaluate("--seed=-1"), "seed is -1; it must be at least 0")
    refused(workspace.evaluate("--timestamps=perhaps"), "timestamps is 'perhaps'", "true or false")
