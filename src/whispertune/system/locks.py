"""File locks, which the system releases when a process ends, even if it is killed."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF)
"""Errors of a file system without locks."""


def try_lock(path: Path) -> int | None:
    """Lock a file, creating it if necessary; returns its descriptor, or None if another process holds the lock.

    Raises:
        OSError: if the file cannot be created, or its file system has no locks.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
            return os.open(path, os.O_RDWR | os.O_CLOEXEC)
        if descriptor is None:
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor
        os.close(descriptor)  # the previous holder has removed the file


def mark_in_use(path: Path) -> int | None:
    """Mark a file or folder as in use until the descriptor is closed; None where there are no locks."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def is_in_use(path: Path) -> bool:
    """Whether a process, this one too, has marked a file or folder; raises OSError where it is gone or not ours."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    finally:
        os.close(descriptor)
    return False
