"""Keep freed memory for the next large tensor instead of handing it back to the system.

glibc returns the end of the heap to the system whenever it is free, and maps large blocks anew each time, so each
training step would fault in and zero its activations and gradients: a quarter of its time, measured
(docs/experiments.md). Blocks over 32 MB are left to it: kept as well, they leave holes that nothing else fits in, which
doubled the memory of a run. What is larger and needed at each step is kept by its owner.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
KEEP_ALL = 2**31 - 1
GROW_BY = 16 * 2**20
LARGEST_KEPT = 32 * 2**20
"""Bytes: the most that glibc lets this be set to."""


def _glibc(name: str) -> Any:
    """A function of glibc's allocator, or None on another system."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None


def give_back_freed_memory() -> None:
    """Between stages of a run: the next one needs other sizes, for which the holes of the last are of no use."""
    malloc_trim = _glibc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def keep_freed_memory() -> bool:
    """Tell glibc's allocator; returns whether there is one. Other systems are left as they are."""
    mallopt = _glibc("mallopt")
    if mallopt is None:
        return False
    settings = ((M_MMAP_THRESHOLD, LARGEST_KEPT), (M_TRIM_THRESHOLD, KEEP_ALL), (M_TOP_PAD, GROW_BY))
    return all(mallopt(name, value) == 1 for name, value in settings)
