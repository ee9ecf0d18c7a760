"""File locks, which the system releases when a process ends, even if it is killed."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

fcntl: Any
msvcrt: Any
try:
    import fcntl
except ModuleNotFoundError:  # Windows
    import msvcrt

    fcntl = None

POSIX_FILES = fcntl is not None
"""Whether a file can be renamed or removed while it is open, and a folder be opened. On Windows neither is possible."""
LOCKED_BYTE = 2**30
"""On Windows, where locked bytes cannot be read: one far behind the end of any file that is locked."""

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF)
"""Errors of a file system without locks."""


def _lock(descriptor: int) -> None:
    """Lock an open file or folder for this descriptor alone.

    Raises:
        BlockingIOError: if another one has locked it.
        OSError: if its file system has no locks.
    """
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)
    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    except PermissionError as error:
        raise BlockingIOError(*error.args) from None
    finally:
        os.lseek(descriptor, 0, os.SEEK_SET)


def share(descriptor: int) -> None:
    """Let others share the lock of an open file; on Windows it is enough that they open it (`states/cache.py`)."""
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_SH)


def try_lock(path: Path) -> int | None:
    """Lock a file, creating it if necessary; returns its descriptor, or None if another process holds the lock.

    Raises:
        OSError: if the file cannot be created, or its file system has no locks.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _lock(descriptor)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def take_lock(path: Path) -> int | None:
    """As `try_lock` for a file that its holder may remove; without file locks it always succeeds."""
    while True:
        try:
            descriptor = try_lock(path)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            return os.open(path, os.O_RDWR)
        if descriptor is None:
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)  # the previous holder has removed the file


def mark_in_use(path: Path) -> int | None:
    """Mark a file or folder as in use until the descriptor is closed; None where there are no locks, and on Windows,
    where what is open could not be renamed when it is complete."""
    if not POSIX_FILES:
        return None
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _lock(descriptor)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def is_in_use(path: Path) -> bool:
    """Whether a process, this one too, has marked a file or folder; raises OSError where it is gone or not ours."""
    if not POSIX_FILES:
        return False
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _lock(descriptor)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    finally:
        os.close(descriptor)
    return False
