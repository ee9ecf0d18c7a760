"""Recordings embedded in a page: short, as MP3, within a limit on their total size."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import soundfile

from whispertune.data.audio.recording import TooLongError
from whispertune.data.audio.waveforms import SAMPLE_RATE, load_utterance
from whispertune.data.utterances import Utterance
from whispertune.errors import AudioError

PLAYED_SECONDS = 20
MOST_AUDIO_BYTES = 12_000_000
"""Total size of all players; MP3 at 16 kHz takes 4 to 8 kB per second."""


class Players:
    """The audio of utterances as `data:` URLs, up to a total size."""

    def __init__(self, most_bytes: int = MOST_AUDIO_BYTES) -> None:
        self._left = most_bytes
        self._made: dict[str, str | None] = {}

    @property
    def full(self) -> bool:
        """Whether the page has no room for another recording."""
        return self._left <= 0

    def address(self, row: Utterance) -> str | None:
        """The URL for an audio element; None if the recording cannot be read, or the limit is reached."""
        key = f"{row.source}:{row.row}:{row.id}"
        if key not in self._made:
            if self.full:
                return None
            self._made[key] = _address(row)
            self._left -= len(self._made[key] or "")
        return self._made[key]


def _address(row: Utterance) -> str | None:
    try:
        try:
            waveform = load_utterance(row, max_samples=PLAYED_SECONDS * SAMPLE_RATE)
        except TooLongError:
            waveform = load_utterance(replace(row, end=row.start + PLAYED_SECONDS))
    except AudioError:
        return None
    content = io.BytesIO()
    soundfile.write(content, waveform.clip(-1, 1), SAMPLE_RATE, format="MP3")
    return f"data:audio/mpeg;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
