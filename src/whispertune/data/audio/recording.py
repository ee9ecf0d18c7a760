"""A recording that is being read, and what to say when it can't be."""

from __future__ import annotations

import io
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

from whispertune.errors import AudioError

TELEPHONE = {"mulaw": (".ul", ".ulaw", ".mulaw", ".mu"), "alaw": (".al", ".alaw")}
RAW_CODINGS = {suffix: (coding, 8_000) for coding, suffixes in TELEPHONE.items() for suffix in suffixes}
RAW_SUFFIXES = (*RAW_CODINGS, ".raw", ".pcm", ".sln", ".s16")


class TooLongError(AudioError):
    """A span holds more samples (`num_samples`, at 16 kHz) than were to be decoded."""

    num_samples: int


@dataclass(slots=True)
class Recording:
    """A recording that is being read: a file, or bytes within one; max_samples: of a span, at 16 kHz."""

    audio: Path
    within: tuple[int, int] | None = None
    content: bytes | None = None
    head: bytes = b""
    max_samples: int | None = None

    def __str__(self) -> str:
        if self.within is None:
            return str(self.audio)
        return f"{self.audio} (recording of {self.within[1]} bytes at byte {self.within[0]})"

    def open(self) -> BinaryIO:
        """The recording's bytes."""
        return self.audio.open("rb") if self.content is None else io.BytesIO(self.content)


def convert(recording: Recording) -> str:
    """What to do about a recording that is of a kind, or damaged, so that it cannot be read."""
    return f"convert it, e.g. ffmpeg -i {shlex.quote(str(recording.audio))} -ar 16000 out.wav"


def convert_headerless(recording: Recording) -> str:
    """What to do about a recording without a header: of its coding, rate and channels nothing is known."""
    coding, rate = RAW_CODINGS.get(recording.audio.suffix.lower(), ("s16le", 16_000))
    source = shlex.quote(str(recording.audio))
    return (
        f"convert it, saying how it was recorded, e.g. ffmpeg -f {coding} -ar {rate} -ac 1 -i {source} out.wav "
        "(16 bits: s16le, telephone: -f mulaw or alaw -ar 8000, stereo: -ac 2)"
    )


def fail_channel(recording: Recording, channel: int, there: int) -> NoReturn:
    """Raise AudioError: a channel is not there."""
    fail(recording, f"has no channel {channel}", f"it has {there}, counted from 0: correct the row's channel")


def fail_cut_short(recording: Recording, reason: str) -> NoReturn:
    """Raise AudioError: the recording ends too early."""
    fail(recording, f"is cut short ({reason})", f"fetch it again or, if it is whole, {convert(recording)}")


def fail(recording: Recording, problem: str, remedy: str) -> NoReturn:
    """Raise AudioError: what is wrong with a recording, and the remedy; in one line of printable characters."""
    message = f"{recording}: {problem}; {remedy}"
    raise AudioError("".join(char if char.isprintable() else repr(char)[1:-1] for char in message)) from None


def require_short(recording: Recording, num_samples: int) -> None:
    """Raise TooLongError before memory is asked for: a row that forgot its end may last hours."""
    if recording.max_samples is not None and num_samples > recording.max_samples:
        failed = TooLongError(
            f"{recording}: lasts {num_samples / 16_000:.1f} s, of which {recording.max_samples / 16_000:g} s at most "
            "are decoded; cut it, with start and end columns"
        )
        failed.num_samples = num_samples
        raise failed
