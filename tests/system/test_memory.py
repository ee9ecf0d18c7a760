"""Freed memory is kept."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from whispertune.system.memory import cycles_left_alone

CODE = """
import resource, sys
from whispertune.system.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    blocks = [bytearray(20_000_000) for _ in range(5)]
    del blocks
before = faults()
for _ in range(10):
    blocks = [bytearray(20_000_000) for _ in range(5)]
    del blocks
print(faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is what is set")
def test_large_blocks_are_faulted_in_once() -> None:
    given_back, kept = (
        int(subprocess.run([sys.executable, "-c", CODE, how], capture_output=True, check=True, text=True).stdout)
        for how in ("default", "keep")
    )
    assert kept < given_back / 10


GIVEN_BACK = """
import re
from whispertune.system.memory import give_back_freed_memory, keep_freed_memory
def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
keep_freed_memory()
blocks = [bytearray(b"x") * 20_000_000 for _ in range(5)]
last = bytearray(1000)
del blocks
kept = resident()
give_back_freed_memory()
print(kept - resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is what is set")
def test_freed_memory_is_given_back_on_request() -> None:
    run = subprocess.run([sys.executable, "-c", GIVEN_BACK], capture_output=True, check=True, text=True)
    assert int(run.stdout) > 80_000_000


@pytest.mark.parametrize("enabled", [True, False])
def test_cycles_are_looked_for_again_afterwards(enabled: bool) -> None:
    """Also after an error; not if they were not before."""

    def fail() -> None:
        with cycles_left_alone():
            assert not gc.isenabled()
            raise ValueError("inside")

    (gc.enable if enabled else gc.disable)()
    try:
        with pytest.raises(ValueError, match="inside"):
            fail()
        assert gc.isenabled() is enabled
    finally:
        gc.enable()
