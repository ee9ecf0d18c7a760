"""Damaged recordings of every kind: left out and listed one by one, while the others are decoded and scored."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from cli_samples import Command, Workspace

from whispertune.errors import MOST_CHARACTERS

KINDS = {"wav": "PCM_16", "flac": "PCM_16", "ogg": "VORBIS", "mp3": "MPEG_LAYER_III"}


def damaged_files(folder: Path, count: int) -> list[Path]:
    """Files of every kind with bytes changed, cut off, or put in; with the same seed the same ones."""
    random = np.random.default_rng(0)
    paths = []
    for number in range(count):
        ending, subtype = list(KINDS.items())[number % len(KINDS)]
        file = io.BytesIO()
        samples = 0.1 * random.standard_normal((8_000, 1 + number % 2))
        soundfile.write(file, samples, 16_000, format=ending.upper(), subtype=subtype)
        data = bytearray(file.getvalue())
        for at in random.integers(0, min(len(data), 120), random.integers(1, 9)):
            data[at] = random.integers(256)
        if number % 3 == 0:
            del data[random.integers(len(data)) :]
        paths.append(folder / f"damaged {number}.{ending}")
        paths[-1].write_bytes(data)
    return paths


@pytest.fixture
def hostile(workspace: Workspace) -> list[Path]:
    folder = workspace.folder / "hostile"
    folder.mkdir()
    paths = damaged_files(folder, 24)
    (folder / "none.wav").touch()
    (folder / "folder.wav").mkdir()
    (folder / "text.mp3").write_text("not a recording\n" * 50, encoding="utf-8")
    (folder / "brand.m4a").write_bytes(b"\0\0\0\x18ftypM4A \0\0\0\0" + b"\0" * 50)
    (folder / "loop.wav").symlink_to(folder / "loop.wav")
    others = ("none.wav", "folder.wav", "text.mp3", "brand.m4a", "loop.wav", "absent.wav")
    return [*paths, *(folder / name for name in others)]


@pytest.mark.slow
def test_evaluate_leaves_out_what_it_cannot_decode(workspace: Workspace, command: Command, hostile: list[Path]) -> None:
    rows = [{"audio": str(path), "text": "Sì."} for path in hostile]
    workspace.valid_rows = [{"audio": row["audio"], "text": row["text"]} for row in workspace.valid_rows] + rows
    output = workspace.folder / "scores"
    found = command(workspace.evaluate("--max-excluded=1", f"--output={output}"))
    assert found.status == 0, found.err
    left_out = [json.loads(line) for line in (output / "excluded.jsonl").read_text(encoding="utf-8").splitlines()]
    scored = [json.loads(line) for line in (output / "hypotheses.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(left_out) + len(scored) == len(workspace.valid_rows)
    assert len(left_out) > len(hostile) // 3  # bytes in the samples themselves do no harm
    assert all(row["reason"].isprintable() and len(row["reason"]) <= MOST_CHARACTERS for row in left_out)
    refused = command(workspace.evaluate())
    assert refused.status == 2
    assert "rows cannot be used, more than 5%" in refused.error


@pytest.mark.slow
def test_transcribe_goes_on_behind_what_it_cannot_decode(
    workspace: Workspace, command: Command, hostile: list[Path]
) -> None:
    good = workspace.valid_rows[0]["audio"]
    output = workspace.folder / "transcripts"
    few = [str(path) for path in hostile[-6:] if path.name != "folder.wav"]  # of a folder all audio in it is meant
    found = command(["transcribe", f"--model={workspace.model}", "--language=it", "--beam_size=1", f"--output={output}",
                     "--precision=fp32", *few, good])  # fmt: skip
    assert found.status == 2
    printed = [line for line in found.err.splitlines() if line.startswith("not transcribed: ")]
    assert all(line.isprintable() and len(line) <= MOST_CHARACTERS + 20 for line in printed)
    assert f"{len(printed)} of {len(few) + 1} recordings could not be transcribed" in found.err
    assert (output / f"{Path(good).stem}.txt").exists()
