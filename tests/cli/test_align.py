"""whispertune align: pieces that train reads, what is left out, and mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from cli_samples import Command, example_rows

from whispertune.align.pauses import find_pauses, frame_levels
from whispertune.commands import align
from whispertune.data.audio.waveforms import load_waveform
from whispertune.data.readers.manifest import read_manifest
from whispertune.decoding.words import Word

SPOKEN = ("activated", "added", "all-circuits-busy-now")
ROWS = [row for row in example_rows("test", 91) if row["id"] in SPOKEN]


@pytest.fixture
def recording(tmp_path: Path) -> tuple[Path, list[tuple[float, float]]]:
    """Three clips with a second of silence around each, and their times."""
    silence = np.zeros(16_000, np.float32)
    parts, times, at = [silence], [], 1.0
    for row in ROWS:
        clip = load_waveform(Path(row["audio"]))
        times.append((at, at + len(clip) / 16_000))
        at = times[-1][1] + 1
        parts += [clip, silence]
    soundfile.write(tmp_path / "talk.wav", np.concatenate(parts), 16_000)
    return tmp_path / "talk.wav", times


def test_pieces_and_what_is_left_out(
    command: Command, tiny_model: Path, tmp_path: Path, recording: tuple[Path, list[tuple[float, float]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """With what a model would have heard: the first clip is not in the text, and a line of it is not said."""
    audio, times = recording
    words = []
    for row, (start, end) in zip(ROWS, times, strict=True):
        said = row["text"].split()
        step = (end - start) / len(said)
        words += [Word(start + n * step, start + (n + 1) * step, f" {word}", 0.9) for n, word in enumerate(said)]

    def heard(*_: Any) -> Any:
        return words, [audio] * len(words), {audio: find_pauses(frame_levels([load_waveform(audio)]))}

    monkeypatch.setattr(align, "_heard", heard)
    (tmp_path / "talk.txt").write_text(f"{ROWS[1]['text']}\n\nQuesto nessuno dice.\n{ROWS[2]['text']}\n", "utf-8")
    flags = ["--text", str(tmp_path / "talk.txt"), "--model", str(tiny_model), "--language=it", "--precision=fp32"]
    outcome = command(["align", str(audio), *flags, "--output", str(tmp_path / "out"), "--min_confidence=0.99"])
    assert outcome.status == 0, outcome.err
    assert "2 of 3 sentences" in outcome.out
    rows = read_manifest(tmp_path / "out" / "manifest.jsonl")
    assert [row.text for row in rows] == [ROWS[1]["text"], ROWS[2]["text"]]
    for row, (start, end) in zip(rows, times[1:], strict=True):
        assert row.audio == audio
        assert abs(row.start - start) < 0.3
        assert row.end is not None
        assert abs(row.end - end) < 0.3
    lines = [json.loads(line) for line in (tmp_path / "out" / "manifest.jsonl").read_text("utf-8").splitlines()]
    assert [(line["confidence"], line["line"]) for line in lines] == [(1.0, 1), (1.0, 4)]
    (left_out,) = (tmp_path / "out" / "excluded.jsonl").read_text("utf-8").splitlines()
    assert json.loads(left_out) == {"line": 3, "text": "Questo nessuno dice.", "reason": align.NOT_HEARD}


def test_a_recording_of_noise(command: Command, tiny_model: Path, tmp_path: Path) -> None:
    """All steps with a model that says nonsense: nothing is found, and that is said."""
    draws = np.random.default_rng(0)
    soundfile.write(tmp_path / "talk.wav", 0.1 * draws.standard_normal(16_000 * 3), 16_000)
    (tmp_path / "talk.txt").write_text("Tutti i circuiti sono occupati.\n", encoding="utf-8")
    flags = ["--text", str(tmp_path / "talk.txt"), "--model", str(tiny_model), "--language=it", "--temperature=0"]
    outcome = command(["align", str(tmp_path / "talk.wav"), *flags, "--output", str(tmp_path / "out")])
    assert outcome.status == 0, outcome.err
    assert "0 of 1 sentence," in outcome.out
    assert "left out, with reasons" in outcome.out


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--text=absent.txt", "--output=out"], ["absent.txt", "no such file"]),
        (["--text=empty.txt", "--output=out"], ["empty.txt", "a sentence per line"]),
        (["--text=talk.txt"], ["output"]),
        (["--text=talk.txt", "--output=out", "--min_confidence=2"], ["min_confidence is 2"]),
        (["--text=talk.txt", "--output=out", "--glossary=talk.txt"], ["glossary is given, but nothing uses it"]),
        (["--text=talk.txt", "--output=out", "--task=translate"], ["task is translate", "not what is said"]),
    ],
)
def test_mistakes(
    refused: Callable[..., str], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    flags: list[str], parts: list[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("talk.txt").write_text("Sì.\n", encoding="utf-8")
    Path("empty.txt").write_text("\n", encoding="utf-8")
    refused(["align", ROWS[0]["audio"], f"--model={tiny_model}", "--language=it", *flags], *parts)
