"""Asked to stop (Ctrl-C, or SIGTERM as `timeout` and batch systems send it): one line, nothing half done."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli_samples import Workspace

from whispertune.check.written import MARK

SCRIPT = """
import importlib, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are started with it ignored
module, name, number = sys.argv[1:4]
owner = importlib.import_module(module)
*parents, name = name.split(".")
for parent in parents:
    owner = getattr(owner, parent)
real = getattr(owner, name)
def struck(*given, **named):
    os.kill(os.getpid(), int(number))
    return real(*given, **named)
setattr(owner, name, struck)
from whispertune import cli
sys.argv = ["whispertune", *sys.argv[4:]]
cli.entry_point()
"""
COMMANDS = ("evaluate", "transcribe", "check", "export")
MOMENTS = {
    "evaluate": [
        ("whispertune.decoding.loading", "load_checkpoint"),
        ("whispertune.dataset.inspection", "load_utterance"),
        ("whispertune.evaluation.decode", "_Chunk.decode"),
        ("whispertune.commands.evaluate", "write_jsonl"),
        ("whispertune.system.files", "fsync_path"),
    ],
    "transcribe": [
        ("whispertune.decoding.loading", "load_checkpoint"),
        ("whispertune.decoding.spectrogram", "stream_waveform"),
        ("whispertune.system.files", "fsync_path"),
    ],
    "check": [
        ("whispertune.check.audio", "load_utterance"),
        ("whispertune.report.check_page", "page"),
        ("whispertune.system.files", "fsync_path"),
    ],
    "export": [
        ("whispertune.commands.export", "load_checkpoint"),
        ("whispertune.commands.export", "save_huggingface"),
        ("whispertune.system.files", "fsync_path"),
    ],
}
CASES = [(command, *moment) for command in COMMANDS for moment in MOMENTS[command]]
FAST = {"_Chunk.decode", "stream_waveform", "load_utterance", "save_huggingface"}


def arguments(workspace: Workspace, command: str, output: Path) -> list[str]:
    if command == "evaluate":
        return workspace.evaluate(f"--output={output}")
    data = workspace.evaluate()[2].removeprefix("--data=")
    if command == "transcribe":
        audio = workspace.valid_rows[0]["audio"]
        return [
            "transcribe",
            f"--model={workspace.model}",
            "--language=it",
            audio,
            f"--output={output}",
        ]
    if command == "check":
        return ["check", data, "--language=it", f"--output={output}"]
    return ["export", f"--model={workspace.model}", "--to=huggingface", f"--output={output}"]


def entries(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("command", "module", "name"),
    [pytest.param(*case, marks=() if case[2] in FAST else pytest.mark.slow) for case in CASES],
)
@pytest.mark.parametrize("sent", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=())])
def test_asked_to_stop(workspace: Workspace, command: str, module: str, name: str, sent: signal.Signals) -> None:
    temporary, output = workspace.folder / "tmp", workspace.folder / "out"
    temporary.mkdir()
    line = arguments(workspace, command, output)
    before = entries(workspace.folder)
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, module, name, str(int(sent)), *line],
        env={**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 1, run.stderr
    assert "Traceback" not in run.stderr
    assert run.stderr.splitlines()[-1] == "error: interrupted"
    left = {path for path in entries(workspace.folder) - before if not path.endswith(f"/{MARK}")}
    assert not [path for path in left if "whispertune-" in path or path.startswith("tmp")]
    if command == "export":
        assert not left
    shutil.rmtree(temporary)
