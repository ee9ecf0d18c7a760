"""Encoder states on disk: batches of bytes in one file, each with a checksum, and who may write them.

    CACHE/KEY/states       the batches, one right behind the other
    CACHE/KEY/journal-R    a heading, then a line for each batch that process R has finished: its number and CRC-32
    CACHE/KEY/use          empty; locked, shared, by whoever reads: a folder in use is never dropped
    CACHE/KEY/fill         empty; locked by whoever writes: a second run waits, then finds everything there

A line is written behind its batch, so a killed process leaves whole batches, which count, and a torn one, which does
not. Nothing is trusted: each line of a journal ends with its own checksum (begun with the key, so that it counts
in no other store), and each batch is read and compared before it is used. CRC-32 catches every change of up to 32
bits in a row. So no fsync is needed for correctness: there is one, at the end.

Reads go through file descriptors and not through a memory map: pages of the page cache do not count as this
process's memory, and a file that somebody cuts short is an error instead of a SIGBUS.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import accumulate
from pathlib import Path

from whispertune.errors import RunFolderError
from whispertune.run_folder import fsync_path, replacing_file

FORMAT = 1
"""Of these files; part of every heading."""
READ_BYTES = 1 << 22
"""Read at once while checksums are compared."""
RETRY_SECONDS = 0.2
USE, FILL, STATES, JOURNAL = "use", "fill", "states", "journal-"


def _checked(text: str, key: str) -> bytes:
    """A journal's line: the text and its checksum."""
    return f"{text} {zlib.crc32(text.encode(), zlib.crc32(key.encode())):08x}\n".encode()


def try_lock(path: Path) -> int | None:
    """Lock a file for oneself alone; its descriptor, or None while somebody else has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _use(folder: Path) -> int:
    """Make the folder and hold it against being dropped: the descriptor of its lock."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / USE
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            continue  # dropped in between
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        # It may have been dropped by the time the lock is ours.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                os.utime(descriptor)  # when it was last used
                return descriptor
        os.close(descriptor)


class StateFolder:
    """The files of one store: batch i has sizes[i] bytes.

    Held in use as long as this object lives. Raises OSError where the folder can't be made.
    bad_lines: of the journals, as `filling` found them.
    """

    def __init__(self, path: Path, key: str, sizes: Sequence[int]) -> None:
        self._data = self._journal = self._lock = -1
        self.path = path
        self._key = key
        self._offsets = [0, *accumulate(sizes)]
        heading = {"format": FORMAT, "key": key, "bytes": self._offsets[-1], "batches": len(sizes)}
        self._heading = json.dumps(heading)
        self.bad_lines = 0
        self._lock = _use(path)

    @property
    def num_bytes(self) -> int:
        return self._offsets[-1]

    @contextmanager
    def filling(
        self,
        *,
        rank: int = 0,
        barrier: Callable[[], None] = lambda: None,
        waiting: Callable[[], None] = lambda: None,
        agree: Callable[[bool], bool] = lambda own: own,
    ) -> Iterator[None]:
        """Hold the right to write while the block runs, together with the other ranks of this run.

        Rank 0 takes the lock; while another run has it all ranks wait, calling `agree` (which tells them what rank 0
        says) and `waiting` (which may raise, in all or in none) again and again: none waits longer than a moment for
        another. barrier: waits for all ranks; called twice, and behind the second one everything is written.

        Raises:
            OSError: if the disk is full, among others.
        """
        lock = None
        try:
            while True:
                if rank == 0:
                    lock = try_lock(self.path / FILL)
                if agree(lock is not None):
                    break
                waiting()
                time.sleep(RETRY_SECONDS)
            if rank == 0:
                self._prepare()
            barrier()
            self._open_data()
            yield
            if self._journal >= 0:
                os.fsync(self._data)
                os.fsync(self._journal)
                os.close(self._journal)
                self._journal = -1
                fsync_path(self.path)
            barrier()
        finally:
            if lock is not None:
                os.close(lock)

    def _prepare(self) -> None:
        """Reserve the space, and bring all journals' good lines together in this process's own."""
        data = self.path / STATES
        if not data.exists() or data.stat().st_size != self.num_bytes:
            for path in (data, *self._journals()):
                path.unlink(missing_ok=True)
            descriptor = os.open(data, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                # A full disk shows here, not an hour later.
                if hasattr(os, "posix_fallocate") and self.num_bytes:
                    os.posix_fallocate(descriptor, 0, self.num_bytes)
                else:
                    os.ftruncate(descriptor, self.num_bytes)
            except OSError:
                data.unlink()
                raise
            finally:
                os.close(descriptor)
        listed, self.bad_lines = self.listed()
        journals = self._journals()
        if self.bad_lines or [path.name for path in journals] not in ([], [f"{JOURNAL}0"]):
            lines = [_checked(self._heading, self._key)]
            lines += [_checked(f"{n} {check}", self._key) for n in sorted(listed) for check in sorted(listed[n])]
            with replacing_file(self.path / f"{JOURNAL}0") as temporary:
                temporary.write_bytes(b"".join(lines))
            for path in journals:
                if path.name != f"{JOURNAL}0":
                    path.unlink(missing_ok=True)

    def _journals(self) -> list[Path]:
        return sorted(path for path in self.path.glob(f"{JOURNAL}*") if path.name[len(JOURNAL) :].isdigit())

    def _open_data(self) -> None:
        if self._data < 0:
            self._data = os.open(self.path / STATES, os.O_RDWR | os.O_CLOEXEC)

    def listed(self) -> tuple[dict[int, set[str]], int]:
        """The checksums (of one batch several, if it was written again) that journals give; how many lines are bad."""
        found: dict[int, set[str]] = {}
        bad = 0
        for journal in self._journals():
            lines = journal.read_bytes().split(b"\n")
            bad += lines.pop() != b""  # torn: its end is missing
            if not lines or lines[0] + b"\n" != _checked(self._heading, self._key):
                bad += 1
                continue
            for line in lines[1:]:
                text = line.rpartition(b" ")[0].decode("ascii", "replace")
                number, _, check = text.partition(" ")
                if line + b"\n" == _checked(text, self._key) and number.isdigit():
                    found.setdefault(int(number), set()).add(check)
                else:
                    bad += 1
        return found, bad

    def verified(self, batches: Iterable[int]) -> tuple[set[int], int]:
        """Which of these batches are there and whole (each is read); how many were listed and are not."""
        listed, _ = self.listed()
        wanted = [number for number in batches if number in listed]
        whole = {number for number in wanted if self._checksum(number) in listed[number]}
        return whole, len(wanted) - len(whole)

    def _checksum(self, number: int) -> str:
        begin, end = self._offsets[number], self._offsets[number + 1]
        buffer = memoryview(bytearray(min(READ_BYTES, end - begin)))
        check = 0
        while begin < end:
            count = os.preadv(self._data, [buffer[: end - begin]], begin)
            if count == 0:
                return "cut short"
            check = zlib.crc32(buffer[:count], check)
            begin += count
        return f"{check:08x}"

    def write(self, number: int, data: memoryview, *, rank: int = 0) -> None:
        """Put a batch's bytes in their place, then its line in this process's journal (inside `filling`)."""
        if self._journal < 0:
            self._journal = self._open_journal(rank)
        begin = self._offsets[number]
        done = 0
        while done < len(data):
            done += os.pwrite(self._data, data[done:], begin + done)
        line = _checked(f"{number} {zlib.crc32(data):08x}", self._key)
        if os.write(self._journal, line) != len(line):
            raise OSError("the journal could not be written")

    def _open_journal(self, rank: int) -> int:
        path = self.path / f"{JOURNAL}{rank}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        if os.fstat(descriptor).st_size == 0:
            os.write(descriptor, _checked(self._heading, self._key))
        return descriptor

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill a buffer of bytes from this offset on.

        Raises:
            RunFolderError: if the file has become shorter.
        """
        done = 0
        while done < len(buffer):
            count = os.preadv(self._data, [buffer[done:]], offset + done)
            if count == 0:
                raise RunFolderError(f"{self.path}: was cut short while a run read it; start that run again")
            done += count

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # `close` as a default: at the interpreter's end the module may be gone.
        for descriptor in (self._data, self._journal, self._lock):
            if descriptor >= 0:
                close(descriptor)
