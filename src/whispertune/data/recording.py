"""A recording that is being read, and what to say when it can't be."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

from whispertune.errors import AudioError


@dataclass(slots=True)
class Recording:
    """A recording that is being read: a file, or bytes within one."""

    audio: Path
    within: tuple[int, int] | None = None
    content: bytes | None = None
    head: bytes = b""

    def __str__(self) -> str:
        if self.within is None:
            return str(self.audio)
        return f"{self.audio} (recording of {self.within[1]} bytes at byte {self.within[0]})"

    def open(self) -> BinaryIO:
        """The recording's bytes."""
        return self.audio.open("rb") if self.content is None else io.BytesIO(self.content)


def convert(recording: Recording) -> str:
    """What to do about a recording that is of a kind, or damaged, so that it cannot be read."""
    return f"convert it, e.g. ffmpeg -i {recording.audio.name} -ar 16000 out.wav"


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
