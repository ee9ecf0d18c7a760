"""A Windows that is none: whispertune runs on it as on a real one, as far as its files and modules are concerned.

`fcntl` and `resource` are missing, and so is what the `os` module lacks there; an open file, or one that is mapped,
can't be renamed, replaced or removed; a folder can't be opened; a read-only descriptor can't be synced; a rename
replaces nothing. torch is as in wheels without oneDNN's bf16 products (macOS).

    python pretend_windows.py train --model …       # any whispertune command
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import os
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

MISSING = {
    os: ("O_CLOEXEC", "fork", "getuid", "geteuid", "sysconf", "sched_getaffinity", "getloadavg", "uname"),
    sys.modules["signal"]: ("SIGKILL", "SIGUSR1", "SIGHUP", "SIGALRM"),
}
ALREADY_THERE = (asyncio, subprocess)
"""Modules that judge by `msvcrt` which system they are on: imported before it is there."""


class _Hidden:
    """Finds nothing under these names."""

    def find_spec(self, name: str, *_: object) -> None:
        if name in ("fcntl", "resource"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def _in_use(path: Any) -> bool:
    """Whether this process has the file, or one within the folder, open or mapped."""
    name = os.path.realpath(path)
    opened = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # that of the listing itself
            opened.append(str(descriptor.readlink()))
    mapped = re.findall(r" (/\S.*)$", Path("/proc/self/maps").read_text(), re.MULTILINE)
    return any(file == name or file.startswith(f"{name}/") for file in (*opened, *mapped))


def _refuse_open_files(function: Callable[..., Any], *, may_replace: bool) -> Callable[..., Any]:
    def refusing(path: Any, *others: Any, **named: Any) -> Any:
        for file in (path, *others[:1]):
            if _in_use(file):
                raise PermissionError(errno.EACCES, "The process cannot access the file: it is in use", str(file))
        if others and not may_replace and os.path.lexists(others[0]):
            raise FileExistsError(errno.EEXIST, "Cannot create a file when that file already exists", str(others[0]))
        return function(path, *others, **named)

    return refusing


def _files() -> None:
    original_open, original_fsync, original_utime = os.open, os.fsync, os.utime

    def open_file(path: Any, *arguments: Any, **named: Any) -> int:
        if Path(path).is_dir():
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return original_open(path, *arguments, **named)

    def fsync(descriptor: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        original_fsync(descriptor)

    def utime(path: Any, *arguments: Any, **named: Any) -> None:
        if isinstance(path, int):
            raise TypeError("utime: path should be string, bytes or os.PathLike, not int")
        original_utime(path, *arguments, **named)

    os.open, os.fsync, os.utime = open_file, fsync, utime  # type: ignore[assignment]
    for name, may_replace in (("rename", False), ("replace", True), ("unlink", True), ("rmdir", True)):
        setattr(os, name, _refuse_open_files(getattr(os, name), may_replace=may_replace))
    shutil._use_fd_functions = False  # type: ignore[attr-defined]


def _locking(descriptor: int, mode: int, count: int) -> None:
    """msvcrt.locking of one byte; two descriptors of one process exclude each other, as on Windows."""
    assert (mode, count) == (2, 1)
    assert os.lseek(descriptor, 0, os.SEEK_CUR) > 2**20  # a locked byte could not be read
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise PermissionError(errno.EACCES, "Permission denied") from None


class _Kernel32:
    """Figures of memory, in the layout of the Windows API."""

    def K32GetProcessMemoryInfo(self, process: Any, counters: Any, size: Any) -> int:  # noqa: N802
        entries = counters._obj
        assert (process.value, size.value, entries[0], ctypes.sizeof(entries)) == (2**64 - 1, 72, 72, 72)
        entries[1], entries[2] = 300 * 10**6, 200 * 10**6
        return 1

    def GlobalMemoryStatusEx(self, status: Any) -> int:  # noqa: N802
        assert (status._obj[0], ctypes.sizeof(status._obj)) == (64, 64)
        status._obj[2] = 8 * 10**9
        return 1


class _WithoutBf16:
    """torch.ops.mkldnn of a wheel without it."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"'_OpNamespace' 'mkldnn' object has no attribute {name!r}")


def pretend() -> None:
    """From now on, in this process."""
    _files()
    msvcrt = types.ModuleType("msvcrt")
    msvcrt.locking, msvcrt.LK_NBLCK = _locking, 2  # type: ignore[attr-defined]
    sys.modules["msvcrt"] = msvcrt
    ctypes.windll = types.SimpleNamespace(kernel32=_Kernel32())  # type: ignore[attr-defined]
    for name in ("fcntl", "resource"):
        sys.modules.pop(name, None)
    sys.meta_path.insert(0, _Hidden())  # type: ignore[arg-type]
    for module, names in MISSING.items():
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    torch.ops.mkldnn = _WithoutBf16()


if __name__ == "__main__":
    pretend()
    from whispertune import cli

    sys.exit(cli.main(sys.argv[1:]))
