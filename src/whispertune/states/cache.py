"""The cache folder of stored encoder states: its size limit and eviction."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from whispertune.states.files import USE
from whispertune.system.locks import POSIX_FILES, try_lock

SPARE_BYTES = 2 * 10**9
"""Disk space left free for everything else, such as a run's checkpoints."""


def _stores(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """(time of last use, bytes, folder) of each store; other files in the folder are ignored."""
    for path in folder.iterdir() if folder.is_dir() else []:
        try:
            if re.fullmatch(r"[0-9a-f]{64}", path.name):
                yield (path / USE).stat().st_mtime, sum(file.stat().st_size for file in path.iterdir()), path
        except OSError:
            continue  # it has just been evicted, or belongs to another user


def _drop(store: Path) -> bool:
    """Remove a store unless it is in use; returns whether it was removed."""
    try:
        lock = try_lock(store / USE)
        if lock is None:
            return False
        try:
            if not POSIX_FILES:  # the folder of an open file cannot be renamed, so whoever has it open keeps the store
                os.close(lock)
            # Renamed at once: whoever waits for the lock finds the name free and starts a new store.
            dropped = store.rename(store.with_name(f"{store.name}.dropped"))
        finally:
            if POSIX_FILES:
                os.close(lock)
        shutil.rmtree(dropped)
    except OSError:
        return False
    return True


def free_bytes(folder: Path) -> int:
    """Free disk space at the folder, which need not exist yet."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def room_for(folder: Path, num_bytes: int, max_bytes: int) -> bool:
    """Whether a store of this size would fit after evicting everything that is not in use; evicts nothing."""
    unused = unused_bytes(folder)
    used = sum(size for _, size, _ in _stores(folder)) - unused
    return used + num_bytes <= max_bytes and free_bytes(folder) + unused - num_bytes >= SPARE_BYTES


def unused_bytes(folder: Path) -> int:
    """Bytes of the stores that are not in use."""
    return sum(size for _, size, path in _stores(folder) if not _in_use(path))


def _in_use(store: Path) -> bool:
    try:
        lock = try_lock(store / USE)
    except OSError:
        return True
    if lock is None:
        return True
    os.close(lock)
    return False


def make_room(folder: Path, key: str, num_bytes: int, max_bytes: int) -> int:
    """Evict the least recently used stores, never one in use, until the store `key` fits; returns how many."""
    for leftover in folder.iterdir() if folder.is_dir() else []:  # of a process that was killed during an eviction
        if re.fullmatch(r"[0-9a-f]{64}\.dropped", leftover.name):
            shutil.rmtree(leftover, ignore_errors=True)
    stores = sorted(_stores(folder))
    own = sum(size for _, size, path in stores if path.name == key)  # its existing files take no additional space
    total, free = sum(size for _, size, _ in stores) - own, free_bytes(folder) + own
    evicted = 0
    for _, size, path in stores:
        if total + num_bytes <= max_bytes and free - num_bytes >= SPARE_BYTES:
            break
        if path.name != key and _drop(path):
            total, free, evicted = total - size, free + size, evicted + 1
    return evicted
