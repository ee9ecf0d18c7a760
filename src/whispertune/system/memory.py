"""Keep freed memory for the next large tensor instead of returning it to the system.

glibc returns the free end of the heap to the system and maps large blocks anew each time, so each training step would
fault in and zero its activations and gradients, which took a quarter of its time (docs/experiments.md). Blocks over
32 MB are left to glibc: keeping them fragments the heap, which doubled the memory of a run. Larger buffers that every
step needs are kept by their owners.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

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
