"""Text files of a corpus, read whole or refused in one line."""

from __future__ import annotations

from pathlib import Path

from whispertune.errors import ManifestError

EMPTY = "write a row per utterance, with audio and text"


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
        raise ManifestError(f"{str(path)!r}: cannot be read ({reason}); check the path and its rights") from None


def decode_text(name: str, content: bytes, *, empty: str | None = EMPTY) -> str:
    """UTF-8 as text; raises ManifestError, naming the row of the first bad byte or what else the content is."""
    try:
        text = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise ManifestError("is UTF-16; save the file as UTF-8", file=name) from None
        if b"\0" in content:
            raise ManifestError("holds binary data and no text; check which file is meant", file=name) from None
        line = content.count(b"\n", 0, error.start) + 1
        byte = content[error.start]
        problem = f"byte 0x{byte:02x} is not UTF-8; save the file as UTF-8"
        raise ManifestError(problem, file=name, row=line) from None
    if empty is not None and not text.strip():
        raise ManifestError(f"is empty; {empty}", file=name)
    return text
