"""What a correction leaves behind: a manifest to train on, and transcripts in the formats of other programs."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from whispertune.check.cleaned import audio_path, written_if_empty
from whispertune.check.written import writing
from whispertune.correct.journal import Correction
from whispertune.correct.segments import Recording, Segment
from whispertune.data.audio_files import output_names
from whispertune.decoding.options import ENDINGS, SubtitleOptions
from whispertune.system.files import write_text

MANIFEST, LEFT_OUT, TRANSCRIPTS = "corrected.jsonl", "left-out.jsonl", "transcripts"
COMMAND = "correct"
PAUSE = 0.5
"""Seconds between two snapshots at least; more where writing one takes long."""


def reason_to_leave_out(segment: Segment, *, only_done: bool) -> str | None:
    """Why a segment is not in the manifest; None if it is. only_done: whether unseen texts are left out."""
    if segment.status == "unusable":
        return f"unusable: {segment.note}" if segment.note else "unusable"
    if not segment.text.strip():
        return "no text"
    if only_done and segment.status != "done":
        return "not corrected yet" if segment.status == "todo" else "skipped"
    return None


def manifest_row(segment: Segment, recording: Recording, folder: Path) -> dict[str, Any]:
    """A row of a manifest in `folder`: its other columns, and those that training reads."""
    whole = segment.start == 0 and segment.end >= recording.duration - 0.001
    fields = {
        "id": segment.id, "audio": audio_path(recording.audio, folder), "text": segment.text.strip(),
        "start": None if whole else segment.start, "end": None if whole else segment.end,
        "language": segment.language, "speaker": segment.speaker, "channel": recording.channel,
        "note": segment.note.strip() or None,
    }  # fmt: skip
    always = written_if_empty(segment.further)
    kept = {name: value for name, value in segment.further.items() if name not in fields}
    return {name: value for name, value in fields.items() if value is not None or name in always} | kept


class Saver:
    """Writes the files of a correction, one thread at a time.

    only_done: whether the manifest leaves out texts that nobody has looked at. formats: of transcripts.
    """

    def __init__(self, correction: Correction, *, only_done: bool, formats: Sequence[str]) -> None:
        self._correction, self._only_done, self._formats = correction, only_done, formats
        self._lock = threading.Lock()

    def manifest(self) -> tuple[int, float]:
        """Write corrected.jsonl, and left-out.jsonl with reasons, in the order of recordings and times.

        Returns the number of rows of the former and their seconds.

        Raises:
            RunFolderError: if somebody else has changed the files.
        """
        rows, left, seconds = [], [], 0.0
        session, folder = self._correction.session, self._correction.folder
        with self._lock:
            with self._correction.lock:
                parts = [(recording, session.of_recording(n)) for n, recording in enumerate(session.recordings)]
            for recording, segments in parts:
                for segment in segments:
                    row = manifest_row(segment, recording, folder)
                    reason = reason_to_leave_out(segment, only_done=self._only_done)
                    if reason is None:
                        rows.append(row)
                        seconds += segment.end - segment.start
                    else:
                        left.append({**row, "reason": reason})
            for name, those in ((MANIFEST, rows), (LEFT_OUT, left)):
                with writing(folder / name, COMMAND) as file:
                    file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in those)
        return len(rows), seconds

    def everything(self) -> tuple[int, float, list[Path]]:
        """The manifest and the transcripts; returns what `manifest` does, and the transcripts' paths."""
        rows, seconds = self.manifest()
        with self._lock:
            return rows, seconds, write_transcripts(self._correction, self._formats)


def write_transcripts(correction: Correction, formats: Sequence[str]) -> list[Path]:
    """Write a transcript of each recording in each format below DIR/transcripts; segments that are unusable or without
    text are not in them, and channels are speakers."""
    if not formats:
        return []
    from whispertune.decoding.annotation_files import written_as  # here, as it takes PyTorch
    from whispertune.decoding.fallback import WindowResult
    from whispertune.decoding.long_form import Segment as Spoken
    from whispertune.decoding.long_form import Transcript
    from whispertune.decoding.rules import Hypothesis

    session, folder = correction.session, correction.folder
    unknown = WindowResult(Hypothesis((), 0.0), "", 0.0, 0.0, 1.0, 0.0)  # these formats hold no scores
    with correction.lock:
        segments = {number: session.of_recording(number) for number in range(len(session.recordings))}
    by_audio: dict[str, list[int]] = {}
    for number, recording in enumerate(session.recordings):
        by_audio.setdefault(recording.audio, []).append(number)
    written = []
    names = output_names([Path(audio) for audio in by_audio])
    for name, (audio, numbers) in zip(names, by_audio.items(), strict=True):
        spoken = [
            Spoken(
                start=segment.start, end=segment.end, text=segment.text, tokens=(), window=0.0, result=unknown,
                channel=session.recordings[number].channel,
                speaker=segment.speaker or _channel_name(session.recordings[number].channel),
            )
            for number in numbers for segment in segments[number]
            if segment.status != "unusable" and segment.text.strip()
        ]  # fmt: skip
        spoken.sort(key=lambda found: (found.start, found.end))
        duration = max(session.recordings[number].duration for number in numbers)
        transcript = Transcript(spoken, "", None, duration, [])
        for kind in formats:
            path = folder / TRANSCRIPTS / f"{name}.{ENDINGS[kind]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, written_as(kind, transcript, Path(audio), path.parent, SubtitleOptions()))
            written.append(path)
    return written


def _channel_name(channel: int | None) -> str | None:
    return None if channel is None else f"channel {channel}"


class Snapshots:
    """Writes the manifest in the background soon after each change. fault: why the last one failed."""

    def __init__(self, write: Callable[[], object]) -> None:
        self._write = write
        self._changed, self._ended = threading.Event(), threading.Event()
        self.fault: str | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def changed(self) -> None:
        """To be called after each change."""
        self._changed.set()

    def close(self) -> None:
        """End; the last changes are left to the caller to write."""
        self._ended.set()
        self._changed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.is_set():
            self._changed.wait()
            if self._ended.is_set():
                return
            self._changed.clear()
            began = time.monotonic()
            try:
                self._write()
                self.fault = None
            except Exception as error:  # shown on the page; the journal holds every edit
                self.fault = str(error) or type(error).__name__
            self._ended.wait(max(PAUSE, 4 * (time.monotonic() - began)))
