"""Encoder states on disk: one file an encoding batch, and the lock that says the folder is in use.

    CACHE/KEY/NUMBER.states   a batch: its rows, then a CRC-32 over key, number and rows (4 bytes, little-endian)
    CACHE/KEY/use             empty; locked, shared, by whoever reads: a folder in use is never evicted

A batch is written aside and renamed, so a file that exists was whole once, and its checksum tells whether it still is
(CRC-32 catches every change of up to 32 bits in a row). A killed process therefore leaves whole batches, several
processes write theirs side by side, and two runs that encode the same batch write the same bytes. No fsync: what a
power failure takes is encoded again.

Reads go through file descriptors and not through a memory map: pages of the page cache do not count as this
process's memory, and a file that somebody cuts short is an error instead of a SIGBUS.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from whispertune.errors import RunFolderError
from whispertune.system.locks import try_lock

FORMAT = 2
"""Of these files; part of every key."""
READ_BYTES = 1 << 22
"""Read at once while checksums are compared."""
USE, ENDING, UNFINISHED = "use", ".states", ".new"
PARTIAL = 0xFFFFFFFF
"""What the checksum of a batch that is of use to this run alone is changed by."""
CHECK_BYTES = 4


def _use(folder: Path) -> int:
    """Make the folder and hold it against being evicted: the descriptor of its lock."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / USE
        try:
            descriptor = try_lock(path)
            if descriptor is None:
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            else:  # nobody else is here: what was being written was left by a process that was killed
                for unfinished in folder.glob(f"*{UNFINISHED}"):
                    unfinished.unlink(missing_ok=True)
        except FileNotFoundError:
            continue  # evicted in between
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        # It may have been evicted by the time the lock is ours.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                os.utime(descriptor)  # when it was last used
                return descriptor
        os.close(descriptor)


class StateFolder:
    """The files of one store: batch i has sizes[i] bytes.

    Held in use as long as this object lives. Raises OSError where the folder can't be made.
    """

    def __init__(self, path: Path, key: str, sizes: Sequence[int]) -> None:
        self._lock = -1
        self.path = path
        self._key, self._sizes = key, sizes
        self._lock = _use(path)

    def _file(self, number: int) -> Path:
        return self.path / f"{number:07d}{ENDING}"

    def _begin_check(self, number: int) -> int:
        """A checksum that counts for this batch of this store alone."""
        return zlib.crc32(f"{self._key} {number}".encode())

    def verified(self, batches: Iterable[int], *, partial: bool = False) -> tuple[set[int], int]:
        """Which of these batches are there and whole (each is read); how many are there and damaged.

        partial: whether those count that were written as not whole.
        """
        whole: set[int] = set()
        damaged = 0
        for number in batches:
            try:
                found = self._read_check(number)
            except FileNotFoundError:
                continue
            if found == 0 or (partial and found == PARTIAL):
                whole.add(number)
            elif found != PARTIAL:
                damaged += 1
        return whole, damaged

    def _read_check(self, number: int) -> int | None:
        """What the checksum differs by from that of the content: 0 or `PARTIAL`; None where it is damaged."""
        left, check = self._sizes[number], self._begin_check(number)
        buffer = memoryview(bytearray(min(READ_BYTES, left)))
        with self._file(number).open("rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size != left + CHECK_BYTES:
                return None
            while left:
                count = file.readinto(buffer[:left])
                if not count:
                    return None
                check = zlib.crc32(buffer[:count], check)
                left -= count
            found = check ^ int.from_bytes(file.read(), "little")
            return found if found in (0, PARTIAL) else None

    def write(self, number: int, data: memoryview, *, whole: bool = True) -> None:
        """Write a batch's bytes.

        whole: whether they will do for later runs; if not, these find the batch missing.

        Raises:
            OSError: if the disk is full, among others; nothing is left of the batch then.
        """
        unfinished = self.path / f"{number}-{secrets.token_hex(4)}{UNFINISHED}"
        try:
            write_checked(unfinished, data, zlib.crc32(data, self._begin_check(number)) ^ (0 if whole else PARTIAL))
            unfinished.replace(self._file(number))
        finally:
            unfinished.unlink(missing_ok=True)

    def read_into(self, buffer: memoryview, number: int, offset: int = 0) -> None:
        """Fill a buffer with the bytes of a batch from this offset on.

        Raises:
            RunFolderError: if the file has gone or become shorter.
        """
        try:
            with self._file(number).open("rb", buffering=0) as file:
                file.seek(offset)
                done = 0
                while done < len(buffer):
                    count = file.readinto(buffer[done:])
                    if not count:
                        raise EOFError
                    done += count
        except (FileNotFoundError, EOFError):
            raise RunFolderError(
                f"{self._file(number)}: was removed or cut short while a run read it; resume the run, which encodes it "
                "again"
            ) from None

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # `close` as a default: at the interpreter's end the module may be gone.
        if self._lock >= 0:
            close(self._lock)


def write_checked(path: Path, data: memoryview, check: int) -> None:
    """Write bytes and their checksum to a file."""
    with path.open("wb") as file:
        file.write(data)
        file.write(check.to_bytes(CHECK_BYTES, "little"))
