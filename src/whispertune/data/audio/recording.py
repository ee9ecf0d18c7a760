"""A recording that is being read, and the errors for one that can't be."""

from __future__ import annotations

import io
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NoReturn, cast

from whispertune.data.remote import RemotePath, Seekable, open_remote
from whispertune.errors import AudioError, WhispertuneError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

TELEPHONE = {"mulaw": (".ul", ".ulaw", ".mulaw", ".mu"), "alaw": (".al", ".alaw")}
RAW_CODINGS = {suffix: (coding, 8_000) for coding, suffixes in TELEPHONE.items() for suffix in suffixes}
RAW_SUFFIXES = (*RAW_CODINGS, ".raw", ".pcm", ".sln", ".s16")


HELD_BYTES = 32 << 20
"""Larger recordings within a file are not read ahead; a window of 30 s is a tenth of this."""


class TooLongError(AudioError):
    """A span has more samples (`num_samples`, at 16 kHz) than the limit."""

    num_samples: int


@dataclass(slots=True)
class Recording:
    """A recording that is being read: a file, or bytes within one. content: those bytes, unless they are too many.

    max_samples: longest span, at 16 kHz. failures: of the storage, while a library was reading, which would lose them.
    """

    audio: Path
    within: tuple[int, int] | None = None
    content: bytes | None = None
    head: bytes = b""
    max_samples: int | None = None
    failures: list[WhispertuneError] = field(default_factory=list)

    def __str__(self) -> str:
        if self.within is None:
            return str(self.audio)
        return f"{self.audio} (recording of {self.within[1]} bytes at byte {self.within[0]})"

    @property
    def is_local_file(self) -> bool:
        """Whether it is a whole file on this machine, which libraries can open by its name."""
        return self.within is None and not isinstance(self.audio, RemotePath)

    def open(self) -> BinaryIO:
        """The recording's bytes."""
        if self.content is not None:
            return io.BytesIO(self.content)
        if self.within is not None:
            return cast(BinaryIO, io.BufferedReader(_Part(self.audio, *self.within, self.failures)))
        if isinstance(self.audio, RemotePath):
            return open_remote(self.audio, self.failures)
        return self.audio.open("rb")


class _Part(Seekable):
    """A range of bytes of a file, as a file."""

    def __init__(self, path: Path, first: int, num_bytes: int, failures: list[WhispertuneError]) -> None:
        self._file = open_remote(path, failures) if isinstance(path, RemotePath) else path.open("rb")
        self._first, self._num_bytes = first, num_bytes

    def _size(self) -> int:
        return self._num_bytes

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        self._file.seek(self._first + self._position)
        count: int = self._file.readinto(view[: max(0, self._num_bytes - self._position)])  # type: ignore[attr-defined]
        self._position += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def convert(recording: Recording) -> str:
    """Remedy for a recording that is damaged or has an unsupported format."""
    return f"convert it, e.g. ffmpeg -i {shlex.quote(str(recording.audio))} -ar 16000 out.wav"


def convert_headerless(recording: Recording) -> str:
    """Remedy for a recording without a header, whose coding, rate and channels are unknown."""
    coding, rate = RAW_CODINGS.get(recording.audio.suffix.lower(), ("s16le", 16_000))
    source = shlex.quote(str(recording.audio))
    return (
        f"convert it, saying how it was recorded, e.g. ffmpeg -f {coding} -ar {rate} -ac 1 -i {source} out.wav "
        "(16 bits: s16le, telephone: -f mulaw or alaw -ar 8000, stereo: -ac 2)"
    )


def fail_channel(recording: Recording, channel: int, there: int) -> NoReturn:
    """Raise AudioError: the channel does not exist."""
    fail(recording, f"has no channel {channel}", f"it has {there}, numbered from 0; correct the row's channel")


def fail_cut_short(recording: Recording, reason: str) -> NoReturn:
    """Raise AudioError: the recording ends too early."""
    fail(recording, f"is cut short ({reason})", f"fetch it again or, if it is complete, {convert(recording)}")


def fail(recording: Recording, problem: str, remedy: str) -> NoReturn:
    """Raise AudioError with the problem and the remedy, in one line of printable characters."""
    message = f"{recording}: {problem}; {remedy}"
    raise AudioError("".join(char if char.isprintable() else repr(char)[1:-1] for char in message)) from None


def require_short(recording: Recording, num_samples: int) -> None:
    """Raise TooLongError before memory is allocated: a row without an end may last hours."""
    if recording.max_samples is not None and num_samples > recording.max_samples:
        failed = TooLongError(
            f"{recording}: lasts {num_samples / 16_000:.1f} s, and at most {recording.max_samples / 16_000:g} s "
            "are decoded; cut it, with start and end columns"
        )
        failed.num_samples = num_samples
        raise failed
