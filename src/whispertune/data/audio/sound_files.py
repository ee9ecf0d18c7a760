"""Open files that libsndfile reads, including WAVs whose headers lack the length."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import soundfile

from whispertune.data.audio import containers
from whispertune.data.audio.av_decoder import AvError
from whispertune.data.audio.recording import (
    HELD_BYTES,
    RAW_SUFFIXES,
    Recording,
    convert,
    convert_headerless,
    fail,
    fail_cut_short,
)
from whispertune.data.remote import RemotePath, read_part


def open_sound_file(recording: Recording) -> Any:
    """The recording as a `soundfile.SoundFile`; raises AudioError for raw audio, and LibsndfileError."""
    try:
        # As bytes, for names that are not UTF-8; on Windows libsndfile takes the characters themselves.
        path = str(recording.audio) if os.name == "nt" else os.fsencode(recording.audio)
        file = soundfile.SoundFile(path if recording.is_local_file else recording.open())
    except TypeError:  # soundfile asks for the format of what ends in .raw
        fail(recording, "is raw audio without a header", convert_headerless(recording))
    if not file.frames:
        if not recording.is_local_file and recording.content is None:  # a copy of it would be needed
            fail(recording, "has a header that gives no length", convert(recording))
        with recording.open() as raw:
            whole = containers.with_true_size(raw)
        if whole is not None:
            file.close()
            return soundfile.SoundFile(whole)
    return file


@contextmanager
def opened_recording(audio: Path, within: tuple[int, int] | None) -> Iterator[Recording]:
    """The recording; errors while it is read are raised as AudioError, those of a remote storage as they are."""
    recording = Recording(audio, within)
    try:
        with _named_faults(recording):
            yield recording
    finally:
        if recording.failures:
            raise recording.failures[0] from None


@contextmanager
def _named_faults(recording: Recording) -> Iterator[None]:
    audio = recording.audio
    try:
        _take_in(recording)
        with recording.open() as raw:
            recording.head, fault = raw.read(12), containers.mp4_fault(raw)
        if fault:
            fail(recording, f"cannot be decoded ({fault})", convert(recording))
        yield
    except FileNotFoundError:
        fail(recording, "no such file", "correct the path")
    except soundfile.LibsndfileError as error:
        # libsndfile's messages for an unknown format; that the file exists was checked above.
        unknown = error.error_string.startswith(("File does not exist", "Format not recognised"))
        if unknown and audio.suffix.lower() in RAW_SUFFIXES:
            fail(recording, "is raw audio without a header", convert_headerless(recording))
        reason = "no audio format is recognised" if unknown else error.error_string
        fail(recording, f"cannot be decoded ({reason})", convert(recording))
    except AvError as error:
        fail(recording, str(error), error.remedy or convert(recording))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        fail(recording, f"cannot be read ({reason})", "check the path and its permissions")


def _take_in(recording: Recording) -> None:
    """Require a file with content, and read it if it is small enough to be held and not a local file of its own."""
    audio, within = recording.audio, recording.within
    if isinstance(audio, RemotePath):
        recording.content = audio.whole_if_small() if within is None else None
        size = None if recording.content is None else len(recording.content)
    else:
        status = audio.stat()
        if stat.S_ISDIR(status.st_mode):
            fail(recording, "is a folder", "give an audio file")
        if not stat.S_ISREG(status.st_mode):
            fail(recording, "is not a regular file", "give an audio file")
        size = status.st_size
    if size == 0 or (within is not None and within[1] == 0):
        fail(recording, "is empty (0 bytes)", "fetch it again or remove its row")
    if within is not None:
        if within[1] <= HELD_BYTES:
            recording.content = read_part(audio, *within)
            size = within[0] + len(recording.content)
        if size is not None and size < sum(within):
            fail_cut_short(recording, f"{max(0, size - within[0])} of {within[1]} bytes are there")
