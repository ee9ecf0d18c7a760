"""Keep freed memory for the next large tensor instead of handing it back to the system.

glibc maps every block over 32 MB anew and returns it when it is freed, so each training step would fault in and zero
hundreds of megabytes of gradients and logits: a quarter of its time, measured (docs/experiments.md).
"""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
KEEP_ALL = 2**31 - 1
GROW_BY = 64 * 2**20


def keep_freed_memory() -> bool:
    """Tell glibc's allocator; returns whether there is one. Other systems are left as they are."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, KEEP_ALL), (M_TOP_PAD, GROW_BY))
    return all(mallopt(name, value) == 1 for name, value in settings)
