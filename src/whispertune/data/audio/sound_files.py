"""Open files that libsndfile reads, including WAVs whose headers lack the length."""

from __future__ import annotations

import os
from typing import Any

import soundfile

from whispertune.data.audio import containers
from whispertune.data.audio.recording import Recording, convert, convert_headerless, fail


def open_sound_file(recording: Recording) -> Any:
    """The recording as a `soundfile.SoundFile`; raises AudioError for raw audio, and LibsndfileError."""
    try:
        # As bytes, for names that are not UTF-8; on Windows libsndfile takes the characters themselves.
        path = str(recording.audio) if os.name == "nt" else os.fsencode(recording.audio)
        file = soundfile.SoundFile(path if recording.within is None else recording.open())
    except TypeError:  # soundfile asks for the format of what ends in .raw
        fail(recording, "is raw audio without a header", convert_headerless(recording))
    if not file.frames:
        if recording.within is not None and recording.content is None:  # a copy of it would be needed
            fail(recording, "has a header that gives no length", convert(recording))
        with recording.open() as raw:
            whole = containers.with_true_size(raw)
        if whole is not None:
            file.close()
            return soundfile.SoundFile(whole)
    return file
