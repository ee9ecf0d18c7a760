"""Writes are whole or absent, whatever happens in their middle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from whispertune.errors import RunFolderError
from whispertune.run.run_folder import RunFolder
from whispertune.system.files import (
    make_writable,
    read_jsonl,
    recover_folder,
    replacing_file,
    replacing_folder,
    write_jsonl,
    write_text,
)

OLD = ".best.whispertune-old"


class PowerCut(BaseException):
    """Nothing that code may catch by accident."""


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def fill(folder: Path, content: str) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "weights").write_text(content)
    (folder / content).touch()


def replace_folder(path: Path, content: str) -> None:
    with replacing_folder(path) as folder:
        assert list(folder.iterdir()) == []
        fill(folder, content)


def content_of(path: Path) -> str:
    content = (path / "deep" / "weights").read_text()
    assert names(path) == {"deep", content}  # nothing of another version beside it
    return content


@pytest.mark.parametrize("letter", ["a", "क"])
@pytest.mark.parametrize("missing", [0, 17, 18])
def test_every_name_that_a_file_may_have_can_be_replaced(tmp_path: Path, letter: str, missing: int) -> None:
    """Up to 255 bytes of it; two long names that begin alike have temporary ones of their own."""
    size = 253 - missing
    stem = letter * (size // len(letter.encode()))
    stem += "x" * (size - len(stem.encode()))
    one, other = tmp_path / f"{stem}.1", tmp_path / f"{stem}.2"
    with replacing_file(one) as first, replacing_file(other) as second:
        first.write_text("one")
        second.write_text("other")
    assert (one.read_text(), other.read_text()) == ("one", "other")
    with replacing_folder(tmp_path / f"{stem}.d") as folder:
        (folder / "file").touch()
    assert names(tmp_path) == {one.name, other.name, f"{stem}.d"}


def test_replacing_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    for text in ("one", "two"):
        with replacing_file(path) as temporary:
            assert temporary.parent == tmp_path  # a rename must not cross file systems
            temporary.write_text(text)
            assert not path.exists() or path.read_text() == "one"
        assert path.read_text() == text
    assert names(tmp_path) == {"file.txt"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, PowerCut])
def test_failed_file_leaves_the_old_one(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail() -> None:
        with replacing_file(path) as temporary:
            temporary.write_text("half of the n")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == {"file.txt"}


def test_file_that_cannot_be_put_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def no_rename(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", no_rename)
    with pytest.raises(OSError, match="No space"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == {"file.txt"}


def test_replacing_folder(tmp_path: Path) -> None:
    path = tmp_path / "best"
    for content in ("one", "two", "three"):
        replace_folder(path, content)
        assert content_of(path) == content
        assert names(tmp_path) == {"best"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, PowerCut])
@pytest.mark.parametrize("there", [True, False])
def test_failed_folder_leaves_the_old_one(tmp_path: Path, error: type[BaseException], there: bool) -> None:
    path = tmp_path / "best"
    if there:
        replace_folder(path, "old")

    def fail() -> None:
        with replacing_folder(path) as folder:
            fill(folder, "new")
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == ({"best"} if there else set())
    assert not there or content_of(path) == "old"


@pytest.mark.parametrize("failing", [1, 2])
def test_folder_whose_rename_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    """An error (not a kill) at either rename: the old content is there at the next start at the latest."""
    path = tmp_path / "best"
    replace_folder(path, "old")
    rename, calls = Path.rename, []

    def sometimes(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == failing:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", sometimes)
    with pytest.raises(OSError, match="Input"):
        replace_folder(path, "new")
    monkeypatch.undo()
    recover_folder(path)
    assert content_of(path) == "old"
    replace_folder(path, "newer")
    assert content_of(path) == "newer"
    assert names(tmp_path) == {"best"}


KILLED = """
import os, sys
from pathlib import Path
from whispertune.system.files import replacing_folder

rename, calls, die_before = Path.rename, [], int(sys.argv[2])

def counting(self, target):
    calls.append(target)
    if len(calls) == die_before:
        os.kill(os.getpid(), 9)
    return rename(self, target)

Path.rename = counting
with replacing_folder(Path(sys.argv[1])) as folder:
    (folder / "deep").mkdir()
    (folder / "deep" / "weights").write_text("new")
    (folder / "new").touch()
    if die_before == 0:
        os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("die_before", [0, 1, 2])
def test_kill_at_any_point(tmp_path: Path, die_before: int) -> None:
    """0: while it is filled; 1: before the first rename; 2: between the two."""
    path = tmp_path / "run" / "best"
    path.parent.mkdir()
    replace_folder(path, "old")
    killed = subprocess.run([sys.executable, "-c", KILLED, path, str(die_before)], check=False)
    assert killed.returncode == -9
    assert path.exists() == (die_before != 2)
    with RunFolder(path.parent).claimed():  # what the next start does
        assert content_of(path) == "old"
    replace_folder(path, "newer")
    assert content_of(path) == "newer"
    assert names(path.parent) == {"best", "last", "test", "valid"}


def test_killed_behind_the_second_rename(tmp_path: Path) -> None:
    """The old folder is still there, but the new one counts; and it is no obstacle to the next one."""
    path = tmp_path / "best"
    replace_folder(path, "new")
    replace_folder(tmp_path / OLD, "old")
    recover_folder(path)
    assert content_of(path) == "new"
    replace_folder(tmp_path / OLD, "old")
    replace_folder(path, "newer")
    assert content_of(path) == "newer"
    assert names(tmp_path) == {"best"}


def test_a_failure_upon_a_kill(tmp_path: Path) -> None:
    """Killed between the renames, and the next replacement fails: it is back in its place all the same."""
    path = tmp_path / "best"
    replace_folder(tmp_path / OLD, "old")

    def fail() -> None:
        with replacing_folder(path):
            raise PowerCut

    with pytest.raises(PowerCut):
        fail()
    assert content_of(path) == "old"
    assert names(tmp_path) == {"best"}


@pytest.mark.parametrize("there", [True, False])
def test_what_a_user_keeps_beside_it_stays(tmp_path: Path, there: bool) -> None:
    """A backup by `mv best best.old` is neither put back nor removed."""
    path = tmp_path / "best"
    for name in ("best.old", "best.new", "file.old", "file.new"):
        (tmp_path / name).mkdir()
        fill(tmp_path / name, "kept")
    if there:
        replace_folder(path, "one")
    recover_folder(path)
    assert path.exists() == there
    replace_folder(path, "two")
    write_text(tmp_path / "file", "text")
    assert content_of(path) == "two"
    assert names(tmp_path) == {"best", "file", "best.old", "best.new", "file.old", "file.new"}
    assert all(content_of(tmp_path / name) == "kept" for name in ("best.old", "best.new", "file.old", "file.new"))


def test_jsonl(tmp_path: Path) -> None:
    rows = [{"text": "perché\u2028no", "wer": 0.5}, {"text": None, "list": [1, 2]}, {"text": 'a "b"\n\x85c\udc80'}]
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, rows)
    raw = path.read_bytes().decode("utf-8")
    assert raw.count("\n") == 3
    assert "perché" in raw
    assert [json.loads(line) for line in raw.split("\n")[:-1]] == rows
    assert read_jsonl(path) == rows

    def failing() -> object:
        yield {"a": 1}
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        write_jsonl(path, failing())  # type: ignore[arg-type]
    assert read_jsonl(path) == rows
    write_jsonl(path, [])
    assert read_jsonl(path) == []


def test_layout(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "a" / "run")
    folder.create()
    folder.create()
    assert {path.name for path in folder.path.iterdir()} == {"last", "test", "valid"}
    contract = ["recipe.yaml", "environment.json", "metrics.jsonl", "excluded.jsonl", "best", "test", "report.html"]
    paths = [
        folder.recipe,
        folder.environment,
        folder.metrics,
        folder.excluded,
        folder.best,
        folder.test,
        folder.report,
    ]
    assert [str(path.relative_to(folder.path)) for path in paths] == contract
    assert folder.state.parent.name == "last"
    steps = [folder.validation(step).name for step in (0, 25, 1_000_000)]
    assert steps == sorted(steps)


def test_what_a_folder_holds(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert not folder.holds_something_else()
    assert not folder.has_begun()
    folder.create()
    write_jsonl(folder.excluded, [])
    assert not folder.holds_something_else()
    write_text(folder.recipe, "epochs: 1")
    assert folder.holds_something_else()  # a recipe.yaml of the user's own
    write_text(folder.environment, "{}")
    assert not folder.holds_something_else()
    assert not folder.has_begun()
    stray = folder.path / "last" / "stray"
    stray.touch()
    assert folder.holds_something_else()
    stray.unlink()
    folder.metrics.touch()
    assert folder.has_begun()
    assert not folder.holds_something_else()


def test_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        with pytest.raises(RunFolderError, match="--output: cannot write to"):
            make_writable(path)

    def read_only(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", read_only)
    with pytest.raises(RunFolderError, match="Permission denied"):
        RunFolder(tmp_path / "run").create()


def test_writes_are_durable_before_they_take_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content reaches the disk before the rename, the rename before the function returns."""
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def traced_fsync(descriptor: int) -> None:
        events.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def traced_replace(self: Path, target: Path) -> Path:
        events.append("replace")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(Path, "replace", traced_replace)
    write_text(tmp_path / "file", "text")
    assert events[1:] == ["replace", tmp_path.name]
    assert events[0].startswith(".file.whispertune-new-")


def test_what_a_process_killed_at_its_start_left_is_removed(tmp_path: Path) -> None:
    """A file half written and a probe of whether the folder is writable: neither is somebody's own."""
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    left = [folder.path / ".recipe.yaml.whispertune-new-0123abcd", folder.path / f".whispertune-writable-{'0a' * 8}"]
    for path in left:
        path.write_text("half")
    assert not folder.holds_something_else()
    with folder.claimed():
        assert not any(path.exists() for path in left)
    (folder.path / ".notes.whispertune-mine").write_text("kept")
    assert folder.holds_something_else()
