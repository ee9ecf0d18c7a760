"""A cache folder that cannot be written to: manifests are read, and states kept in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_samples import Command, Workspace


@pytest.mark.slow
def test_a_run_without_a_cache(workspace: Workspace, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/sys/kernel").is_dir():
        pytest.skip("no file system here that even root cannot write to")
    monkeypatch.setenv("XDG_CACHE_HOME", "/sys/kernel")
    monkeypatch.setattr("whispertune.data.index.FEWEST_ROWS", 1)
    trained = command(workspace.train())
    assert trained.status == 0, trained.err
    asked = command([*workspace.train(f"--output={workspace.folder / 'other'}"), "--states.store=disk"])
    assert asked.status == 0, asked.err
    assert "/sys/kernel/whispertune/states: the states cannot be kept there" in asked.err
    assert "in memory instead" in asked.err
