"""The memory of this process, and how freed memory is kept for the next large tensor instead of being returned.

glibc returns the free end of the heap to the system and maps large blocks anew each time, so each training step would
fault in and zero its activations and gradients, which took a quarter of its time (docs/experiments.md). Blocks over
32 MB are left to glibc: keeping them fragments the heap, which doubled the memory of a run. Larger buffers that every
step needs are kept by their owners.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

resource: Any
try:
    import resource
except ModuleNotFoundError:  # Windows
    resource = None

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
KEEP_ALL = 2**31 - 1
GROW_BY = 16 * 2**20
LARGEST_KEPT = 32 * 2**20
"""Bytes; glibc's largest allowed value."""


def _glibc(name: str) -> Any:
    """A function of glibc's allocator, or None on another system."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None


def give_back_freed_memory() -> None:
    """Return free memory to the system, between stages of a run, as the next one needs other sizes."""
    malloc_trim = _glibc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def keep_freed_memory() -> bool:
    """Configure glibc's allocator; returns False on other systems, where nothing is changed."""
    mallopt = _glibc("mallopt")
    if mallopt is None:
        return False
    settings = ((M_MMAP_THRESHOLD, LARGEST_KEPT), (M_TRIM_THRESHOLD, KEEP_ALL), (M_TOP_PAD, GROW_BY))
    return all(mallopt(name, value) == 1 for name, value in settings)


def peak_memory() -> int:
    """Peak resident memory of this process in bytes."""
    if resource is None:
        return _windows_memory()[0]
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere
    return unit * int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def resident_memory() -> int:
    """Resident memory of this process in bytes; its peak, where the system does not report it."""
    if resource is None:
        return _windows_memory()[1]
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return peak_memory()
    return pages * int(resource.getpagesize())


def _windows_memory() -> tuple[int, int]:
    """Peak and present working set of this process in bytes."""
    counters = (ctypes.c_size_t * 9)(72)  # PROCESS_MEMORY_COUNTERS: its size (4 bytes), page faults, peak, present, …
    this_process = ctypes.c_void_p(-1)
    _kernel32().K32GetProcessMemoryInfo(this_process, ctypes.byref(counters), ctypes.c_ulong(72))
    return counters[1], counters[2]


def windows_free_memory() -> int:
    """Free memory of the machine in bytes, on Windows."""
    status = (ctypes.c_ulonglong * 8)(64)  # MEMORYSTATUSEX: its size (4 bytes), load, total, free, …
    _kernel32().GlobalMemoryStatusEx(ctypes.byref(status))
    return status[2]


def _kernel32() -> Any:
    return ctypes.windll.kernel32  # type: ignore[attr-defined]


@contextmanager
def cycles_left_alone() -> Iterator[None]:
    """Without Python's search for reference cycles, which grows with the objects that are alive.

    For work on millions of rows that makes no cycles: dividing a million takes 38 s instead of 50.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
