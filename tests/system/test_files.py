"""Writes that are whole or absent."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from whispertune.system.files import replacing_file


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
