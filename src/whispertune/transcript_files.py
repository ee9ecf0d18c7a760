"""Transcripts of recordings as files: plain text, subtitles (SRT, WebVTT), JSON."""

from __future__ import annotations

import html
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from whispertune.decoding.long_form import Segment, Transcript
from whispertune.errors import RecipeError


def clock(seconds: float, *, decimal: str = ".", hours: bool = True) -> str:
    """3661.5 as `01:01:01.500`; without `hours`, they are shown only where there are any."""
    total = round(seconds * 1000)
    rest, milliseconds = divmod(total, 1000)
    shown = f"{rest // 60 % 60:02d}:{rest % 60:02d}{decimal}{milliseconds:03d}"
    return f"{rest // 3600:02d}:{shown}" if hours or rest >= 3600 else shown


def as_lines(transcript: Transcript) -> str:
    """For people: `[00:00.000 --> 00:02.400] Pronto.`, a segment a line."""
    return "".join(
        f"[{clock(segment.start, hours=False)} --> {clock(segment.end, hours=False)}] {segment.text.strip()}\n"
        for segment in transcript.segments
    )


def as_txt(transcript: Transcript) -> str:
    """The text alone, a segment a line."""
    return "".join(f"{segment.text.strip()}\n" for segment in transcript.segments)


def as_srt(transcript: Transcript) -> str:
    """SubRip. An arrow in the text would be read as times."""
    cues = []
    for number, segment in enumerate(transcript.segments, start=1):
        times = f"{clock(segment.start, decimal=',')} --> {clock(segment.end, decimal=',')}"
        cues.append(f"{number}\n{times}\n{segment.text.strip().replace('-->', '->')}\n\n")
    return "".join(cues)


def as_vtt(transcript: Transcript) -> str:
    """WebVTT, in which & and < are escaped (W3C)."""
    cues = ["WEBVTT\n\n"]
    for segment in transcript.segments:
        text = html.escape(segment.text.strip(), quote=False)
        cues.append(f"{clock(segment.start)} --> {clock(segment.end)}\n{text}\n\n")
    return "".join(cues)


def as_json(transcript: Transcript, *, audio: Path, model: str, n_best: int = 1) -> str:
    """Everything: times (seconds), scores, language; with `n_best` above 1 each window's hypotheses as well."""
    content: dict[str, Any] = {
        "audio": str(audio),
        "model": model,
        "duration": round(transcript.duration, 3),
        "language": transcript.language,
        "language_prob": _rounded(transcript.language_prob),
        "text": transcript.text,
        "segments": [_entry(number, segment) for number, segment in enumerate(transcript.segments)],
    }
    if n_best > 1:
        content["windows"] = [
            {
                "start": round(window, 2),
                "hypotheses": [
                    {"text": text, "score": _rounded(score), "log_prob": _rounded(log_prob)}
                    for text, score, log_prob in hypotheses[:n_best]
                ],
            }
            for window, hypotheses in transcript.alternatives
        ]
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"


def _entry(number: int, segment: Segment) -> dict[str, Any]:
    return {
        "id": number,
        "start": round(segment.start, 2),
        "end": round(segment.end, 2),
        "text": segment.text.strip(),
        "avg_logprob": _rounded(segment.result.mean_log_prob),
        "compression_ratio": _rounded(segment.result.compression_ratio),
        "no_speech_prob": _rounded(segment.result.no_speech_prob),
        "temperature": segment.result.temperature,
        "window": round(segment.window, 2),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


WRITERS: dict[str, Callable[[Transcript], str]] = {"txt": as_txt, "srt": as_srt, "vtt": as_vtt}
"""Formats that need nothing but the transcript."""
FORMATS = (*WRITERS, "json")


def output_names(audios: Sequence[Path]) -> list[str]:
    """A name, without the format's suffix, for the transcript of each recording; no two alike.

    The file's own, if no other has the same; else with its folders below the one that all recordings share; else
    with its own suffix too. Raises RecipeError for recordings that none of that tells apart.
    """
    shared = Path(os.path.commonpath([path.resolve().parent for path in audios])) if audios else Path()
    below = [path.resolve().relative_to(shared) for path in audios]
    names = [path.stem for path in audios]
    for longer in ([str(path.with_suffix("")) for path in below], [str(path) for path in below]):
        # Names that differ in nothing but case are one file on some systems.
        counts = Counter(name.casefold() for name in names)
        names = [long if counts[name.casefold()] > 1 else name for name, long in zip(names, longer, strict=True)]
    first: dict[str, Path] = {}
    for name, path in zip(names, audios, strict=True):
        if name.casefold() in first:
            both = f"{first[name.casefold()]} and {path}"
            raise RecipeError(f"{both} would be written to the same file; rename one or transcribe them one by one")
        first[name.casefold()] = path
    return names


class Recordings:
    """Which recording each transcript in a folder is of, in a file of its own there (a line a transcript)."""

    FILE = ".recordings.jsonl"

    def __init__(self, folder: Path) -> None:
        self._file = folder / self.FILE
        self._known: dict[str, dict[str, Any]] = {}
        for line in self._file.read_text(encoding="utf-8").split("\n") if self._file.exists() else []:
            with suppress(json.JSONDecodeError):  # torn, by a kill
                entry = json.loads(line)
                self._known[entry["name"]] = entry

    def other_than(self, name: str, audio: Path) -> str | None:
        """The recording that a transcript is of, if it is known to be another: another file, not one that was moved."""
        entry = self._known.get(name)
        return None if entry is None or _same_recording(entry, _described(name, audio)) else str(entry["audio"])

    def add(self, name: str, audio: Path) -> None:
        """Raises OSError if it cannot be written."""
        entry = _described(name, audio)
        if self._known.get(name) != entry:
            self._known[name] = entry
            with self._file.open("a", encoding="utf-8") as file:
                file.write("\n" + json.dumps(entry))  # a torn line before it stays a line of its own


def _described(name: str, audio: Path) -> dict[str, Any]:
    found = audio.stat() if audio.exists() else None
    return {
        "name": name,
        "audio": str(audio.resolve()),
        "bytes": None if found is None else found.st_size,
        "modified": None if found is None else found.st_mtime_ns,
    }


def _same_recording(one: dict[str, Any], other: dict[str, Any]) -> bool:
    moved = one["bytes"] is not None and (one["bytes"], one["modified"]) == (other["bytes"], other["modified"])
    return one["audio"] == other["audio"] or moved
