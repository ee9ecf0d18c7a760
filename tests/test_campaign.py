"""A little of the campaign of kills and damages (`tests/campaign.py` runs as much of it as is wanted)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_kills_and_damages() -> None:
    campaign = Path(__file__).with_name("campaign.py")
    command = [sys.executable, str(campaign), "--kills", "2", "--damages", "20", "--seconds", "120"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
