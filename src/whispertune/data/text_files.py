"""Read text files of a corpus, in bounded memory."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NoReturn, cast

from whispertune.errors import ManifestError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

EMPTY = "write a row per utterance, with audio and text"
MOST_LINE_BYTES = 16 << 20
"""Longest line, as lines are read as a whole; a recording of many hours with all its segments takes less than 2 MiB."""
MOST_EXPANSION = 100
"""Largest compression ratio of a manifest; real ones reach 40, deflate can reach 1,000."""
ALWAYS_UNPACKED = 64 << 20
"""Bytes that any compressed manifest may decompress to, whatever its ratio."""


def read_text(path: Path, *, empty: str = EMPTY) -> str:
    """The content, without a byte order mark.

    Raises:
        ManifestError: no such file, unreadable, not UTF-8, or blank (`empty` says what it should hold).
    """
    return decode_text(str(path), read_bytes(path), empty=empty)


def read_bytes(path: Path) -> bytes:
    """The content as it is; raises ManifestError."""
    require_readable(path)
    return path.read_bytes()


def require_readable(path: Path) -> None:
    """Raises ManifestError if a file can't be opened."""
    try:
        if path.is_dir():
            raise ManifestError(f"{path}: is a folder; give the manifest file in it")
        path.open("rb").close()
    except FileNotFoundError:
        raise ManifestError(f"{path}: no such file; check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise ManifestError(f"{str(path)!r}: cannot be read ({reason}); check the path and its permissions") from None


def decode_text(name: str, content: bytes, *, empty: str | None = EMPTY) -> str:
    """Decode UTF-8; raises ManifestError with the row of the first bad byte, or with what the content seems to be."""
    try:
        text = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        _refuse_byte(name, content, content[error.start], content.count(b"\n", 0, error.start) + 1)
    if empty is not None and not text.strip():
        raise ManifestError(f"is empty; {empty}", file=name)
    return text


@contextmanager
def opened_bytes(path: Path) -> Iterator[BinaryIO]:
    """Open a file of lines, decompressed if its name ends in .gz; `seek(0)` starts again.

    Raises:
        ManifestError: for a line longer than 16 MiB (of an uncompressed file: while it is read), and for a compressed
            file that decompresses to much more than any manifest would.
        OSError, EOFError, zlib.error: while it is read, like `gzip`.
    """
    packed = path.name.lower().endswith(".gz")
    with path.open("rb") as raw, gzip.open(raw) if packed else raw as file:
        limit = max(ALWAYS_UNPACKED, MOST_EXPANSION * path.stat().st_size) if packed else None
        lines = io.BufferedReader(_BoundedLines(path, cast(BinaryIO, file), limit), 1 << 16)
        if packed:  # fast compared with parsing rows, so a decompression bomb is reported at once
            with suppress(OSError, EOFError, zlib.error):  # damage is reported when the reader gets to it
                while lines.read(1 << 20):
                    pass
            lines.seek(0)
        yield lines


def refuse_first_bad_byte(path: Path) -> None:
    """Raise ManifestError for the first byte of a file (of `opened_bytes`) that is not UTF-8, if there is one."""
    with opened_bytes(path) as file:
        head = file.read(1024)
        file.seek(0)
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                _refuse_byte(str(path), head + line, line[error.start], number)


def _refuse_byte(name: str, content: bytes, byte: int, row: int) -> NoReturn:
    """Raise ManifestError: a byte is not UTF-8, or what the content is instead."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ManifestError("is UTF-16; save the file as UTF-8", file=name) from None
    if b"\0" in content:
        raise ManifestError("holds binary data instead of text; check the path", file=name) from None
    raise ManifestError(f"byte 0x{byte:02x} is not UTF-8; save the file as UTF-8", file=name, row=row) from None


class _BoundedLines(io.RawIOBase):
    """A file with bounds on the length of its lines and on its total size.

    limit: most bytes in total, if there is a bound.
    """

    def __init__(self, path: Path, file: BinaryIO, limit: int | None) -> None:
        self._path, self._file, self._limit = path, file, limit
        self._begin()

    def _begin(self) -> None:
        self._row, self._line_bytes, self._total = 1, 0, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._total

    def seek(self, offset: int, whence: int = 0) -> int:
        """Back to the beginning, the one place that readers ask for."""
        if offset or whence:
            raise io.UnsupportedOperation("only from its beginning")
        self._begin()
        return self._file.seek(0)

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        content = self._file.read(len(view))
        view[: len(content)] = content
        self._total += len(content)
        # The end of the last line in here; a table's lines may end as in 1990, by \r alone.
        end = content.rfind(b"\n")
        end = content.rfind(b"\r") if end < 0 else end
        self._line_bytes = len(content) - end - 1 + (0 if end >= 0 else self._line_bytes)
        self._row += content.count(b"\n")
        if self._line_bytes > MOST_LINE_BYTES:
            problem = f"a line of more than {MOST_LINE_BYTES >> 20} MiB; check which file is meant, and its line ends"
            raise ManifestError(problem, file=self._path, row=self._row)
        if self._limit is not None and self._total > self._limit:
            problem = f"unpacks to more than {MOST_EXPANSION} times its size, as no manifest does"
            raise ManifestError(f"{problem}; if it is one, unpack it with gunzip first", file=self._path)
        return len(content)
