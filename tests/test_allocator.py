"""Freed memory is kept."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import resource, sys
from whispertune.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    block = bytearray(100_000_000)
    del block
before = faults()
for _ in range(10):
    block = bytearray(100_000_000)
    del block
print(faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is what is set")
def test_large_blocks_are_faulted_in_once() -> None:
    given_back, kept = (
        int(subprocess.run([sys.executable, "-c", CODE, how], capture_output=True, check=True, text=True).stdout)
        for how in ("default", "keep")
    )
    assert kept < given_back / 10
