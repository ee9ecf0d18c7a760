"""What is to be corrected, as segments: from anything that `train` reads, or the JSON that `transcribe` writes."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from whispertune.check.cleaned import Records, manifest_row
from whispertune.correct.segments import MOST_CHARACTERS, SHORTEST, UNPRINTABLE, Recording, Segment, Word
from whispertune.data.audio.waveforms import probe_audio
from whispertune.data.readers.manifest import JSON_LINES, json_records
from whispertune.data.readers.nested import SEGMENTS
from whispertune.data.remote import files_below
from whispertune.data.timed_text import write_times
from whispertune.data.utterances import Utterance, Utterances
from whispertune.errors import AudioError, ManifestError

TRANSCRIPT = {"text", "segments", "language"}
"""Keys of the JSON that `transcribe` writes, and openai-whisper."""
SCORES = ("words", "confidence", "avg_logprob")
"""Columns about a text that no longer hold when it is corrected."""


def is_transcript_json(path: Path) -> bool:
    """Whether a file is a recording's transcript as JSON."""
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.keys() >= TRANSCRIPT and isinstance(content["segments"], list)


def transcripts_at(path: Path) -> list[Path]:
    """The transcripts as JSON that a path is or, if it is a folder, holds."""
    candidates = sorted(found for found in files_below(path) if found.suffix == ".json") if path.is_dir() else [path]
    return [found for found in candidates if is_transcript_json(found)]


def rows_of_json(
    paths: Sequence[Path], language: str | None, audio_root: str | None
) -> Iterator[tuple[Utterance, dict[str, Any]]]:
    """(utterance, the JSON of its segment) for each segment with text of these transcripts.

    The ids begin with the recording's path below the folder that all recordings share.

    Raises:
        ManifestError: if one names no recording, or a segment is malformed.
    """
    audios = [_audio_of(path, audio_root) for path in paths]
    shared = os.path.commonpath([audio.absolute().parent for audio in audios]) if audios else ""
    for path, audio in zip(paths, audios, strict=True):
        yield from _rows_of(path, audio, Path(os.path.relpath(audio.absolute(), shared)).as_posix(), language)


def _audio_of(path: Path, audio_root: str | None) -> Path:
    """The recording that a transcript names."""
    audio = json.loads(path.read_text(encoding="utf-8")).get("audio")
    if not isinstance(audio, str) or not audio:
        raise ManifestError(f"{path}: names no recording; transcribe it again with whispertune, which writes `audio`")
    where = Path(audio)
    if audio_root is not None:
        return Path(audio_root) / where.name
    return where if where.is_absolute() or where.exists() else path.parent / where


def _rows_of(path: Path, audio: Path, name: str, language: str | None) -> Iterator[tuple[Utterance, dict[str, Any]]]:
    content = json.loads(path.read_text(encoding="utf-8"))
    spoken = language or content["language"]
    for number, segment in enumerate(content["segments"], start=1):
        try:
            start, end, text = float(segment["start"]), float(segment["end"]), str(segment["text"]).strip()
            channel, speaker = segment.get("channel"), segment.get("speaker")
        except (LookupError, TypeError, ValueError, AttributeError):
            raise ManifestError(
                f"segment {number} has no start, end or text; transcribe the recording again", file=path
            ) from None
        if text and math.isfinite(start) and end > start >= 0:
            yield Utterance(
                id=f"{name}#{start:.3f}-{end:.3f}@{number}", audio=audio, text=text, start=start, end=end,
                language=spoken if isinstance(spoken, str) else None,
                channel=channel if isinstance(channel, int) else None,
                speaker=None if speaker is None else UNPRINTABLE.sub(" ", str(speaker)).strip() or None,
                source=str(path), row=number,
            ), segment  # fmt: skip


def read_segments(
    rows: Sequence[Utterance],
    extras: Sequence[Mapping[str, Any]],
    further: Sequence[Mapping[str, Any]],
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[list[Recording], list[Segment]]:
    """Recordings and segments of utterances, in their order; of recordings only the headers are read.

    extras: what else is known about the text of each: words, confidence. further: other columns to be kept.
    A recording that cannot be read has its fault, and its segments are unusable.
    """
    numbers: dict[tuple[str, int | None], int] = {}
    recordings: list[Recording] = []
    segments: list[Segment] = []
    latest: dict[int, float] = {}
    for rank, (row, extra, kept) in enumerate(zip(rows, extras, further, strict=True)):
        key = (str(row.audio.absolute()), row.channel)
        if key not in numbers:
            numbers[key] = len(recordings)
            recordings.append(_recording(*key))
        number = numbers[key]
        known = recordings[number]
        end = row.end if row.end is not None else known.duration
        latest[number] = max(latest.get(number, 0.0), end, row.start + SHORTEST)
        fault = known.fault
        if fault is None and (row.start + SHORTEST > known.duration or end <= row.start):
            fault = f"starts at {row.start:g} s, but the recording lasts {known.duration:g} s"
        if fault is None:
            end = min(end, known.duration)
        text = UNPRINTABLE.sub(" ", write_times(row.segments) if row.segments else row.text)
        segments.append(Segment(
            row.id, number, round(row.start, 3), round(max(end, row.start + SHORTEST), 3), text,
            row.speaker, row.language, words_of(extra), confidence_of(extra), None,
            UNPRINTABLE.sub(" ", fault or str(extra.get("note") or ""))[:MOST_CHARACTERS],
            "todo" if fault is None else "unusable", rank, None, kept,
        ))  # fmt: skip
        advance(1)
    for number, end in latest.items():
        if recordings[number].fault is not None:
            recordings[number] = replace(recordings[number], duration=end)
    return recordings, segments


def further_of(rows: Utterances) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(extras, further) of each row of a corpus, as `read_segments` takes them."""
    records, raw = Records(rows), _Raw()
    for row in rows:
        given = records.of(row.source, row.row)
        kept = {} if given is None else manifest_row({}, given)
        kept |= {name: value for name in ("task", "prompt") if (value := getattr(row, name)) is not None}
        extra = dict(given.record) if given is not None else {}
        extra |= raw.segment(row.source, row.row)
        yield extra, {name: value for name, value in kept.items() if name not in (*SCORES, "note")}


class _Raw:
    """The segments of JSON lines with a recording each, whose scores the manifest's reader leaves out."""

    def __init__(self) -> None:
        self._source = ""
        self._segments: dict[int, Iterator[Any]] = {}

    def segment(self, source: str, number: int) -> dict[str, Any]:
        """What the next segment of this line says; {} if the line has none."""
        if source != self._source:
            self._source, self._segments = source, {}
            path = Path(source)
            if path.is_file() and path.suffix.lower() in JSON_LINES:
                with path.open(encoding="utf-8-sig") as file:
                    for line, record in json_records(source, file, lambda _: None):
                        name = next((name for name in SEGMENTS if record.get(name)), None)
                        found = record[name] if name else None
                        if isinstance(found, list):
                            self._segments[line] = iter(found)
        found = next(self._segments.get(number, iter(())), {})
        return found if isinstance(found, dict) else {}


def _recording(audio: str, channel: int | None) -> Recording:
    try:
        num_frames, rate = probe_audio(Path(audio))
    except AudioError as error:
        return Recording(audio, 0.0, channel, fault=str(error))
    return Recording(audio, math.floor(num_frames / rate * 1000) / 1000, channel)


def words_of(extra: Mapping[str, Any]) -> tuple[Word, ...]:
    """The words of a segment with their times, as `transcribe` or openai-whisper writes them; () if there are none."""
    given = extra.get("words")
    found = []
    for word in given if isinstance(given, list) else []:
        try:
            text = word.get("text", word.get("word"))
            made = Word(float(word["start"]), float(word["end"]), str(text).strip(),
                        _share(word.get("confidence", word.get("probability"))))  # fmt: skip
        except (LookupError, TypeError, ValueError, AttributeError):
            return ()
        if not (math.isfinite(made.start) and math.isfinite(made.end)) or text is None:
            return ()
        found.append(made)
    return tuple(found)


def confidence_of(extra: Mapping[str, Any]) -> float | None:
    """The confidence in a segment, 0 to 1: as given, of its words, or from its mean log-probability."""
    if (given := _share(extra.get("confidence"))) is not None:
        return given
    known = [word.confidence for word in words_of(extra) if word.confidence is not None]
    if known:
        return round(sum(known) / len(known), 4)
    log_prob = extra.get("avg_logprob")
    usable = isinstance(log_prob, int | float) and not isinstance(log_prob, bool) and math.isfinite(log_prob)
    return round(math.exp(min(0.0, float(log_prob))), 4) if usable and log_prob is not None else None


def _share(value: object) -> float | None:
    """A number between 0 and 1, else None; as text too, as CSV has it."""
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except ValueError:
        return None
    return number if 0 <= number <= 1 else None
