"""Paths in object storage and on the web (s3://, gs://, hf://, https://), read through fsspec as local files are.

    path = as_path("s3://bucket/train.csv")     # a `Path`: / .parent .name .suffix .open("rb") .exists() …

Everything is read by ranges of at most 4 MiB (a recording within a shard by one, of at most 32 MiB), so that a
connection that breaks costs one range, which is asked for again. What is at fault decides which error is raised: an
object that is missing is an OSError, as for a local file; no credentials or no library is a DataError; storage that
stays away is a StorageError, which ends a run that can be resumed. The content of a URL is taken to stay the same.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from stat import S_IFDIR, S_IFREG
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

from whispertune.errors import DataError, StorageError, WhispertuneError
from whispertune.system.counts import counted
from whispertune.system.files import sha256_of

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    LocalPath = Path
else:
    LocalPath = type(Path())  # Python 3.11 can't derive from Path itself

T = TypeVar("T")
URL = re.compile(r"(s3|gs|hf|https?)://")
EXTRAS = {"s3": "s3", "gs": "gcs", "https": "http", "http": "http"}
"""The extra of whispertune that a scheme needs; hf:// comes with huggingface_hub."""
CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE (another endpoint: AWS_ENDPOINT_URL)",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS to the file of a service account, or run gcloud auth login",
    "hf": "set HF_TOKEN, or run hf auth login",
}
BLOCK_BYTES = 4 << 20
"""Read at once; most clips are smaller, so they take a single request."""
KEPT_BLOCKS = 16
VERSIONS = ("ETag", "etag", "md5Hash", "Content-MD5", "Digest", "blob_id", "LastModified", "Last-Modified")
"""Names under which file systems give a checksum, or else the time of the last change."""
TRIES = 5
"""Of file systems without retries of their own; s3fs and gcsfs have them."""
FIRST_WAIT = 0.5  # seconds; doubled with each try


def is_remote(text: str) -> bool:
    """Whether it is the URL of a file in object storage or on the web."""
    return "://" in text and URL.match(text) is not None


def as_path(text: str | Path) -> Path:
    """The path of a file, local or remote."""
    if not is_remote(str(text)):
        return Path(text)
    path = RemotePath(text)
    if str(path) != str(text).rstrip("/"):
        raise DataError(f"{text}: URLs with empty or dot parts (//, /./) cannot be read; give the object another name")
    return path


class RemotePath(LocalPath):
    """The URL of an object, where a `Path` is expected. Only what whispertune uses is supported."""

    __slots__ = ()

    def __str__(self) -> str:
        return self.parts[0] + "//" + "/".join(self.parts[1:])

    def __fspath__(self) -> str:
        return str(self)

    @property
    def scheme(self) -> str:
        return self.parts[0].removesuffix(":")

    def absolute(self) -> RemotePath:
        return self

    def is_absolute(self) -> bool:
        return True

    def open(self, mode: str = "r", *_: Any, **__: Any) -> Any:
        """The object, for reading bytes."""
        if mode != "rb":
            raise OSError(errno.EROFS, "is remote, and only read", str(self))
        _block(self, 0)  # raises now what is wrong with it
        return open_remote(self)

    def exists(self, **_: Any) -> bool:
        try:
            _info(self)
        except FileNotFoundError:
            return False
        return True

    def is_dir(self, **_: Any) -> bool:
        return not self.scheme.startswith("http") and bool(_asked(self, lambda fs, key: fs.isdir(key)))

    def is_file(self, **_: Any) -> bool:
        try:
            return _info(self).get("type") != "directory"
        except FileNotFoundError:
            return False

    def stat(self, **_: Any) -> os.stat_result:
        info = _info(self)
        kind = S_IFDIR if info.get("type") == "directory" else S_IFREG
        return os.stat_result((kind, 0, 0, 1, 0, 0, int(info.get("size") or 0), 0, 0, 0))

    def rglob(self, pattern: str, **_: Any) -> Iterator[RemotePath]:  # type: ignore[override]
        """Everything below, whatever the pattern."""
        assert pattern == "*"
        return (RemotePath(f"{self.scheme}://{key}") for key in _asked(self, lambda fs, key: fs.find(key)))

    def glob(self, pattern: str, **_: Any) -> Iterator[RemotePath]:  # type: ignore[override]
        found = _asked(self, lambda fs, key: fs.glob(f"{key.rstrip('/')}/{pattern}"))
        return (RemotePath(name if is_remote(name) else f"{self.scheme}://{name}") for name in found)

    def whole_if_small(self) -> bytes | None:
        """The content, read in one request; None if it has more than 4 MiB."""
        first = _block(self, 0)
        return first if len(first) < BLOCK_BYTES else None

    def version(self) -> str:
        """What changes with the content: its checksum or date, and size; "" if the storage gives neither."""
        info = _info(self)
        found = [str(info[name]) for name in VERSIONS if info.get(name) is not None]
        return repr([info.get("size"), *found]) if found else ""


def files_below(folder: Path) -> Iterator[Path]:
    """All files below a folder, in no order; subfolders that cannot be listed, or vanish meanwhile, are left out."""
    if isinstance(folder, RemotePath):
        yield from folder.rglob("*")
    else:
        for parent, _, names in os.walk(folder):
            yield from (Path(parent, name) for name in names)


def open_remote(path: RemotePath, failures: list[WhispertuneError] | None = None) -> BinaryIO:
    """The object, for reading bytes. failures: where those of the storage go, instead of being raised; it then seems to
    end there. For libraries that would swallow an exception."""
    return cast(BinaryIO, io.BufferedReader(_RemoteFile(path, failures), BLOCK_BYTES))


def read_part(path: Path, first: int, num_bytes: int) -> bytes:
    """Bytes of a file from `first` on; fewer if it ends before."""
    if isinstance(path, RemotePath):
        return _read(path, first, num_bytes)
    with path.open("rb") as file:
        file.seek(first)
        return file.read(num_bytes)


def content_sha256(path: Path) -> str:
    """sha256 of a file; of a remote one it is computed again only if its version changes."""
    version = path.version() if isinstance(path, RemotePath) else ""
    return _sha256(path, version) if version else sha256_of(path)


@lru_cache(maxsize=256)
def _sha256(path: Path, version: str) -> str:
    return sha256_of(path)


class Seekable(io.RawIOBase, ABC):
    """What files have in common that are read from a position, which seeking alone does not check."""

    _position = 0

    @abstractmethod
    def _size(self) -> int:
        """Bytes of the file."""

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        position = offset + (0 if whence == io.SEEK_SET else self._position if whence == io.SEEK_CUR else self._size())
        if position < 0:
            raise ValueError(f"negative position {position}")
        self._position = position
        return position


class _RemoteFile(Seekable):
    """An object as a file that is read by blocks. The last blocks are kept for all of these."""

    def __init__(self, path: RemotePath, failures: list[WhispertuneError] | None) -> None:
        self._path, self._failures, self._num_bytes = path, failures, -1

    def _size(self) -> int:
        if self._num_bytes < 0:
            first = _block(self._path, 0)
            self._num_bytes = len(first) if len(first) < BLOCK_BYTES else _size(self._path)
        return self._num_bytes

    def readinto(self, buffer: WriteableBuffer) -> int:
        view, number = memoryview(buffer), self._position // BLOCK_BYTES
        try:
            there = not self._position or self._position < self._size()
            block = memoryview(_block(self._path, number) if there else b"")
        except WhispertuneError as error:
            if self._failures is None:
                raise
            self._failures.append(error)
            return 0
        block = block[self._position - number * BLOCK_BYTES :][: len(view)]
        view[: len(block)] = block
        self._position += len(block)
        return len(block)


@lru_cache(maxsize=KEPT_BLOCKS)
def _block(path: RemotePath, number: int) -> bytes:
    return _read(path, number * BLOCK_BYTES, BLOCK_BYTES)


def _read(path: RemotePath, first: int, num_bytes: int) -> bytes:
    def read(fs: Any, key: str) -> bytes:
        try:
            content = cast(bytes, fs.cat_file(key, start=first, end=first + num_bytes))
        except Exception:
            with suppress(Exception):
                if first == 0 and fs.info(key).get("size") == 0:  # an empty object has no ranges
                    return b""
            raise
        # A web server may ignore ranges, and send everything.
        return content if len(content) <= num_bytes else content[first : first + num_bytes]

    return _asked(path, read)


@lru_cache(maxsize=4096)
def _size(path: RemotePath) -> int:
    size = _info(path).get("size")
    if size is None:
        raise OSError(errno.EIO, "the server does not say how large it is", str(path))
    return int(size)


def _info(path: RemotePath) -> dict[str, Any]:
    return cast(dict[str, Any], _asked(path, lambda fs, key: fs.info(key)))


@lru_cache(maxsize=16)
def _file_system(scheme: str) -> Any:
    try:
        return importlib.import_module("fsspec").filesystem(scheme)
    except ImportError as error:
        extra = EXTRAS.get(scheme)
        remedy = f"pip install 'whispertune[{extra}]'" if extra else "pip install huggingface_hub"
        raise DataError(f"{scheme}:// needs a library that is not installed ({error}); {remedy}") from None


def _asked(path: RemotePath, ask: Callable[[Any, str], T]) -> T:
    """What the file system answers: ask(file system, key). Asked again if the connection fails.

    Raises:
        FileNotFoundError: there is no such object.
        DataError: missing library or credentials, or no permission.
        StorageError: it failed each time.
    """
    system = _file_system(path.scheme)
    key = str(system._strip_protocol(str(path)))
    tries = 1 if hasattr(system, "retries") else TRIES
    for number in range(1, tries + 1):
        try:
            return ask(system, key)
        except Exception as raised:
            error: BaseException = raised
            if isinstance(raised, FileNotFoundError):
                # fsspec says so of a web server's errors of any kind.
                error = (path.scheme.startswith("http") and raised.__cause__) or raised
                if error is raised or getattr(error, "status", None) == 404:
                    raise FileNotFoundError(errno.ENOENT, "no such object", str(path)) from None
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            status = error.status if hasattr(error, "status") else getattr(error, "code", None)
            if isinstance(error, PermissionError) or "Credentials" in type(error).__name__ or status in (401, 403):
                remedy = CREDENTIALS.get(path.scheme, "give a URL that needs no login, such as a signed one")
                raise DataError(f"{path}: no permission to read it ({reason}); {remedy}") from None
            if number == tries or (isinstance(status, int) and 400 <= status < 500 and status not in (408, 429)):
                break
            time.sleep(FIRST_WAIT * 2 ** (number - 1))
    tried = counted(getattr(system, "retries", tries), "time")
    raise StorageError(
        f"{path}: cannot be read ({reason}), tried {tried}; when the storage can be reached again, give the command "
        "again"
    )
