"""Locks on files, which the system lets go of when a process ends, however it ends."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF)
"""What a file system without locks answers."""


def try_lock(path: Path) -> int | None:
    """Lock a file for this process, which makes it; the descriptor, or None while another process has it.

    Raises:
        OSError: where the file cannot be made, or its file system has no locks.
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
    """As `try_lock`, of a file that its holder may remove; where there are no locks nobody is kept out."""
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
        os.close(descriptor)  # who had it has removed it meanwhile
