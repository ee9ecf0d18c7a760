"""The cache folder keeps its bound, and never loses what is in use or what is not its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from whispertune.states import cache
from whispertune.states.cache import make_room, room_for
from whispertune.states.files import StateFolder
from whispertune.states.options import default_folder

NEW = "9" * 64


def store(folder: Path, digit: str, num_bytes: int, age: float) -> Path:
    """A store that was used `age` seconds ago, and that nobody uses now."""
    key = digit * 64
    files = StateFolder(folder / key, key, [num_bytes])
    files.write(0, memoryview(bytes(num_bytes)))
    os.utime(folder / key / "use", (1e9 - age, 1e9 - age))
    return folder / key


def names(folder: Path) -> str:
    return "".join(sorted(path.name[0] for path in folder.iterdir()))


def test_the_longest_unused_go_first(tmp_path: Path) -> None:
    for digit, age in (("a", 30), ("b", 50), ("c", 10), ("d", 40)):
        store(tmp_path, digit, 10_000, age)
    assert make_room(tmp_path, NEW, 10_000, 52_000) == 0
    assert names(tmp_path) == "abcd"
    assert make_room(tmp_path, NEW, 10_000, 35_000) == 2
    assert names(tmp_path) == "ac"
    assert make_room(tmp_path, NEW, 10_000, 1) == 2
    assert names(tmp_path) == ""


def test_reading_a_store_makes_it_the_newest(tmp_path: Path) -> None:
    for digit, age in (("a", 30), ("b", 20)):
        store(tmp_path, digit, 10_000, age)
    StateFolder(tmp_path / ("a" * 64), "a" * 64, [10_000])
    make_room(tmp_path, NEW, 10_000, 25_000)
    assert names(tmp_path) == "a"


def test_what_is_in_use_stays(tmp_path: Path) -> None:
    for digit, age in (("a", 30), ("b", 20)):
        store(tmp_path, digit, 10_000, age)
    used = StateFolder(tmp_path / ("a" * 64), "a" * 64, [10_000])
    assert make_room(tmp_path, NEW, 10_000, 1) == 1
    assert names(tmp_path) == "a"
    assert not room_for(tmp_path, 10_000, 15_000)
    del used
    assert room_for(tmp_path, 10_000, 15_000)
    assert names(tmp_path) == "a"
    assert not room_for(tmp_path, 20_000, 15_000)


def test_a_disk_that_is_nearly_full_counts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for digit, age in (("a", 30), ("b", 20)):
        store(tmp_path, digit, 10_000, age)
    monkeypatch.setattr(cache, "free_bytes", lambda folder: cache.SPARE_BYTES + 5_000)
    assert room_for(tmp_path, 5_000, 10**9)
    assert room_for(tmp_path, 24_000, 10**9)
    assert not room_for(tmp_path, 26_000, 10**9)
    assert make_room(tmp_path, NEW, 5_000, 10**9) == 0
    assert make_room(tmp_path, NEW, 14_000, 10**9) == 1
    assert names(tmp_path) == "b"


def test_nothing_else_is_ever_removed(tmp_path: Path) -> None:
    store(tmp_path, "a", 10_000, 5)
    theses = [tmp_path / "thesis", tmp_path / ("b" * 63), tmp_path / ("c" * 64), tmp_path / "notes.dropped"]
    for path in theses:
        path.mkdir()
        (path / "states").write_bytes(b"years of work")
    (tmp_path / "letter.txt").write_text("dear")
    make_room(tmp_path, NEW, 10_000, 1)
    assert all((path / "states").exists() for path in theses)
    assert (tmp_path / "letter.txt").exists()
    assert not (tmp_path / ("a" * 64)).exists()


def test_one_that_was_half_removed_is_cleared_away(tmp_path: Path) -> None:
    half = store(tmp_path, "a", 10_000, 5)
    half.rename(half.with_name(half.name + ".dropped"))
    make_room(tmp_path, NEW, 1, 10**9)
    assert names(tmp_path) == ""


def test_a_store_that_was_evicted_is_begun_anew(tmp_path: Path) -> None:
    path = store(tmp_path, "a", 10_000, 5)
    make_room(tmp_path, NEW, 1, 1)
    assert not path.exists()
    assert StateFolder(path, "a" * 64, [10_000]).verified([0]) == (set(), 0)


def test_what_is_there_of_a_store_takes_no_further_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = store(tmp_path, "a", 10_000, 90)
    store(tmp_path, "b", 10_000, 5)
    assert make_room(tmp_path, own.name, 20_000, 31_000) == 0
    assert names(tmp_path) == "ab"
    monkeypatch.setattr(cache, "free_bytes", lambda folder: cache.SPARE_BYTES + 10_000)
    assert make_room(tmp_path, own.name, 20_000, 31_000) == 0
    assert make_room(tmp_path, own.name, 20_010, 10**9) == 1
    assert names(tmp_path) == "a"


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "whispertune" / "states"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_folder() == tmp_path / "home" / ".cache" / "whispertune" / "states"
    assert make_room(default_folder(), NEW, 1, 1) == 0
    assert room_for(default_folder(), 10, 100)


@pytest.mark.parametrize("used", [0.0, 4e9])
def test_what_is_in_use_stays_whatever_the_clock_says(tmp_path: Path, used: float) -> None:
    """A computer without a battery starts in 1970; one whose clock was ahead is set back."""
    for digit in "ab":
        store(tmp_path, digit, 10_000, age=10)
    held = StateFolder(tmp_path / ("a" * 64), "a" * 64, [10_000])
    for digit in "ab":
        os.utime(tmp_path / (digit * 64) / "use", (used, used))
    assert make_room(tmp_path, NEW, 10_000, 25_000) == 1
    assert names(tmp_path) == "a"
    assert held.verified([0]) == ({0}, 0)
