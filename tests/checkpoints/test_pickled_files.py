"""`torch.save` files that are damaged: one line that says what to do, whatever torch says."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from whispertune.checkpoints.pickled import load_pickled
from whispertune.errors import CheckpointError


def saved() -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": torch.arange(100.0), "b": 3}, buffer)
    return buffer.getvalue()


SMALL = saved()


def refused(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_pickled(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


def test_whole(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(SMALL)
    loaded = load_pickled(tmp_path / "a.pt")
    assert torch.equal(loaded["a"], torch.arange(100.0))
    assert loaded["b"] == 3


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(st.integers(1, len(SMALL) - 1))
def test_cut_short_anywhere(tmp_path: Path, size: int) -> None:
    complaint = refused(tmp_path / "a.pt", SMALL[:size])
    assert "damaged" in complaint
    assert len(complaint) < len(str(tmp_path)) + 250


def test_empty_and_absent(tmp_path: Path) -> None:
    assert "is empty; copy or download it again" in refused(tmp_path / "a.pt", b"")
    with pytest.raises(CheckpointError, match=r"b\.pt: can't be read \(No such file or directory\)"):
        load_pickled(tmp_path / "b.pt")


def test_code_is_not_run(tmp_path: Path) -> None:
    torch.save({"a": Path("/")}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="no code in it was run"):
        load_pickled(tmp_path / "a.pt")
