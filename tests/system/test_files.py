"""Writes that are whole or absent."""

from __future__ import annotations

import errno
import time
from pathlib import Path

import pytest

from whispertune.system.files import replacing_file, replacing_folder


def test_a_write_that_fails_names_the_file_and_leaves_the_old_one(tmp_path: Path) -> None:
    """The system's own error on a full disk names none."""
    path = tmp_path / "rows.jsonl"
    path.write_text("old")

    def write_half() -> None:
        with replacing_file(path) as temporary:
            temporary.write_text("ne")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match=r"No space left on device: '.*rows\.jsonl'"):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("ahead", [-1e9, -7200.0, 0.0, 7200.0, 1e9])
def test_a_folder_that_is_being_written_stays_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    """The clock is set while one run writes best/ and another one begins to; what was left goes, and both are whole."""
    left = tmp_path / ".best.whispertune-new-01234567"
    left.mkdir()
    now = time.time()
    with replacing_folder(tmp_path / "best") as one:
        (one / "model").write_text("one")
        monkeypatch.setattr(time, "time", lambda: now + ahead)
        with replacing_folder(tmp_path / "best") as other:
            assert one.exists()
            assert left.exists() is (ahead == 0.0)
            (other / "model").write_text("other")
        assert (tmp_path / "best/model").read_text() == "other"
    assert (tmp_path / "best/model").read_text() == "one"
    assert {path.name for path in tmp_path.iterdir()} - {left.name} == {"best"}
