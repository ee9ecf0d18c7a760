"""Idle threads give their core away soon, unless the user has chosen otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from whispertune.cli import SPINS, share_cores


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"GOMP_SPINCOUNT": SPINS}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
    ],
)
def test_never_against_the_user(given: dict[str, str], expected: dict[str, str]) -> None:
    share_cores(given)
    assert given == expected


def test_openmp_reads_it() -> None:
    """It is set before torch, and with it GCC's OpenMP, is loaded."""
    program = (
        "import sys; from whispertune import cli; assert 'torch' not in sys.modules; "
        "cli.main = lambda: (__import__('torch').rand(2) @ __import__('torch').rand(2), 0)[1]; cli.entry_point()"
    )
    environment = {
        name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    environment |= {"OMP_DISPLAY_ENV": "VERBOSE"}
    shown = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    settings = shown.stdout + shown.stderr
    if "GOMP_SPINCOUNT" not in settings:
        pytest.skip("this torch is not built with GCC's OpenMP")
    assert f"GOMP_SPINCOUNT = '{SPINS}'" in settings
