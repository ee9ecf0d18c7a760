"""Encoder states on disk: one file per encoding batch, and a lock while the folder is in use.

    CACHE/KEY/NUMBER.states   a batch: its rows, then a CRC-32 over key, number and rows (4 bytes, little-endian)
    CACHE/KEY/use             empty; readers hold a shared lock on it, so that a folder in use is never evicted

A batch is written aside and renamed, so an existing file was once complete, and its checksum shows whether it still is
(CRC-32 detects every error burst of up to 32 bits). A killed process therefore leaves only complete batches, several
processes can write side by side, and two runs that encode the same batch write the same bytes. There is no fsync:
batches lost in a power failure are encoded again.

Files are read through descriptors instead of a memory map, so that the page cache does not count as this process's
memory, and a truncated file is an error instead of a SIGBUS.
"""

from __future__ import annotations

import os
import secrets
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from whispertune.errors import RunFolderError
from whispertune.system.locks import share, try_lock

FORMAT = 2
"""Version of the file format; part of every key."""
READ_BYTES = 1 << 22
"""Block size for verifying checksums."""
USE, ENDING, UNFINISHED = "use", ".states", ".new"
PARTIAL = 0xFFFFFFFF
"""XORed with the checksum of a batch that is only valid for this run."""
CHECK_BYTES = 4


def _use(folder: Path) -> int:
    """Create the folder and lock it against eviction; returns the descriptor of the lock."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / USE
        try:
            descriptor = try_lock(path)
            if descriptor is None:
                descriptor = os.open(path, os.O_RDWR)
            else:  # not in use: unfinished files were left by a killed process
                for unfinished in folder.glob(f"*{UNFINISHED}"):
                    unfinished.unlink(missing_ok=True)
        except FileNotFoundError:
            continue  # evicted in between
        share(descriptor)
        # The folder may have been evicted before we got the lock.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                os.utime(path)  # time of last use, for eviction
                return descriptor
        os.close(descriptor)


class StateFolder:
    """The files of one store; batch i has sizes[i] bytes.

    The folder is locked as long as this object lives. Raises OSError if it can't be created.
    """

    def __init__(self, path: Path, key: str, sizes: Sequence[int]) -> None:
        self._lock = -1
        self.path = path
        self._key, self._sizes = key, sizes
        self._lock = _use(path)

    def _file(self, number: int) -> Path:
        return self.path / f"{number:07d}{ENDING}"

    def _begin_check(self, number: int) -> int:
        """The checksum's initial value, specific to this batch of this store."""
        return zlib.crc32(f"{self._key} {number}".encode())

    def verified(self, batches: Iterable[int], *, partial: bool = False) -> tuple[set[int], int]:
        """Read these batches; returns those that are complete and intact, and the number of damaged ones.

        partial: also accept batches that were written with whole=False.
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
        """The stored checksum XOR that of the content: 0 or `PARTIAL`; None if the batch is damaged."""
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

        whole: whether later runs may use the batch; otherwise it counts as missing for them.

        Raises:
            OSError: if the disk is full, for example; no part of the batch is left then.
        """
        unfinished = self.path / f"{number}-{secrets.token_hex(4)}{UNFINISHED}"
        try:
            write_checked(unfinished, data, zlib.crc32(data, self._begin_check(number)) ^ (0 if whole else PARTIAL))
            unfinished.replace(self._file(number))
        finally:
            unfinished.unlink(missing_ok=True)

    def read_into(self, buffer: memoryview, number: int, offset: int = 0) -> None:
        """Fill a buffer with the bytes of a batch from `offset` on.

        Raises:
            RunFolderError: if the file was removed or truncated.
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
        # `close` is a default argument, as at interpreter exit the module may already be gone.
        if self._lock >= 0:
            close(self._lock)


def write_checked(path: Path, data: memoryview, check: int) -> None:
    """Write bytes and a checksum to a file."""
    with path.open("wb") as file:
        file.write(data)
        file.write(check.to_bytes(CHECK_BYTES, "little"))
