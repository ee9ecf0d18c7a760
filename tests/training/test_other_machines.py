"""Commands on Windows and macOS, as far as one that is none (`pretend_windows.py`) can show it."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from training_samples import Samples, metrics, outcome

from whispertune.cli import COMMANDS
from whispertune.system import environment, memory

HERE = Path(__file__).parent


def on_windows(arguments: list[str], *, code: str = "") -> subprocess.CompletedProcess[str]:
    """A command in a process that takes its system for Windows; `code` runs in place of it."""
    command = [sys.executable, str(HERE / "pretend_windows.py"), *arguments]
    if code:
        start = f"import sys; sys.path.insert(0, {str(HERE)!r}); import pretend_windows; pretend_windows.pretend()\n"
        command = [sys.executable, "-c", start + code]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def test_every_command_starts() -> None:
    code = f"""
import contextlib, importlib, io
from whispertune import cli
for name in {list(COMMANDS)}:
    assert cli.main([name, "--help"]) == 0
    importlib.import_module(f"whispertune.commands.{{name}}")
import fcntl
"""
    ended = on_windows([], code=code)
    assert ended.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'fcntl'"
    assert all(f"whispertune {name}" in ended.stdout for name in COMMANDS)


def test_a_run_is_that_of_this_machine(samples: Samples, tmp_path: Path) -> None:
    """Trained, stopped, resumed from its stored states, scored and used; and the run of another process kept out."""
    stored = {"test": samples.test, "states__store": "disk"}  # auto stores nothing where a disk is full
    assert samples.train_run(tmp_path / "here", **stored) == 0
    there = tmp_path / "there"
    arguments = samples.arguments(there, precision="auto", **stored)
    half = on_windows([*arguments, "--checkpoint.every_steps=1"], code=f"""
from whispertune import cli
from whispertune.training.trainer import Trainer
original = Trainer._run_step
def stopping(self, *given):
    original(self, *given)
    if self.progress.step == 4:
        import signal
        signal.raise_signal(signal.SIGTERM)
Trainer._run_step = stopping
sys.exit(cli.main({[*arguments, "--checkpoint.every_steps=1"]!r}))
""")  # fmt: skip
    assert half.returncode == 1, half.stderr
    assert "resume" in half.stderr
    whole = on_windows(["resume", str(there)])
    assert whole.returncode == 0, whole.stderr
    assert "0.30 GB" in whole.stdout  # the peak that the API told
    ours, theirs = outcome(tmp_path / "here"), outcome(there)
    assert ours["metrics"] == theirs["metrics"]
    assert ours["state"] == theirs["state"]
    assert ours["files"]["best/model.safetensors"] == theirs["files"]["best/model.safetensors"]
    assert theirs["litter"] == []
    scored = on_windows(
        ["evaluate", f"--model={there}", f"--data={samples.test}", "--language=en", f"--output={tmp_path / 'scores'}"]
    )
    assert scored.returncode == 0, scored.stderr
    test = [row for row in metrics(there) if row.get("split") == "test" and row["model"] == "best"]
    assert json.loads((tmp_path / "scores/summary.json").read_text())["wer"] in [row["wer"] for row in test]
    checked = on_windows(["check", str(samples.train), "--language=en", f"--output={tmp_path / 'checked'}"])
    assert checked.returncode == 0, checked.stderr


def test_locks_and_evictions(tmp_path: Path) -> None:
    code = f"""
import os
from pathlib import Path
from whispertune.states import cache
from whispertune.states.files import StateFolder
from whispertune.system.files import replacing_folder
from whispertune.system.locks import is_in_use, mark_in_use, take_lock, try_lock
folder = Path({str(tmp_path)!r})
first = try_lock(folder / "lock")
assert first is not None and try_lock(folder / "lock") is None
os.write(first, b"mine"), os.lseek(first, 0, 0)
assert (folder / "lock").read_text() == "mine"
os.close(first)
os.close(take_lock(folder / "lock"))
assert mark_in_use(folder / "lock") is None and not is_in_use(folder / "lock")
for _ in range(2):
    with replacing_folder(folder / "best") as new:
        (new / "model").write_text("weights")
stores = folder / "states"
for letter in "ab":
    store = StateFolder(stores / (64 * letter), letter, [1])
    store.write(0, memoryview(b"x"))
    if letter == "a":
        beside = StateFolder(stores / (64 * letter), letter, [1])
        del store  # the one with the lock ends first
    else:
        del store
assert cache.make_room(stores, "c", 1, 1) == 1  # `a` is in use still
assert [path.name for path in stores.iterdir()] == [64 * "a"]
del beside
assert cache.make_room(stores, "c", 1, 1) == 1 and not list(stores.iterdir())
"""
    ended = on_windows([], code=code)
    assert ended.returncode == 0, ended.stderr


def test_memory_on_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    """`ru_maxrss` is in bytes there, and nothing is read from /proc."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert memory.peak_memory() >= 1024 * peak
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(memory, "resource", SimpleNamespace(
        getrusage=lambda _: SimpleNamespace(ru_maxrss=5 * 10**8), RUSAGE_SELF=0, getpagesize=lambda: 16384,
    ))  # fmt: skip
    assert memory.peak_memory() == 5 * 10**8
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: (_ for _ in ()).throw(FileNotFoundError()))
    assert memory.resident_memory() == 5 * 10**8
    assert environment.free_memory() == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def test_structures_of_windows_are_laid_out_as_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from pretend_windows import _Kernel32

    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=_Kernel32()), raising=False)
    monkeypatch.setattr(memory, "resource", None)
    assert (memory.peak_memory(), memory.resident_memory()) == (300 * 10**6, 200 * 10**6)
    assert memory.windows_free_memory() == 8 * 10**9
    assert ctypes.c_ulonglong(64).value.to_bytes(8, "little")[:4] == (64).to_bytes(4, "little")


def test_torch_without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """As macOS' wheels are."""
    from pretend_windows import _WithoutBf16

    from whispertune.system.precision import resolve_precision

    monkeypatch.setattr(torch.ops, "mkldnn", _WithoutBf16())
    assert resolve_precision("auto", torch.device("cpu")).name == "fp32"
