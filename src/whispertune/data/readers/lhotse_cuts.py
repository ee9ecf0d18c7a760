"""Lhotse's cuts, as JSON lines: each supervision of a cut is an utterance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from whispertune.data.readers.manifest import json_records, opened_text
from whispertune.data.reading import AS_USUAL, Reading
from whispertune.data.rows import base_with, make_row, shown
from whispertune.data.utterances import Utterances
from whispertune.errors import ManifestError

CUTS = ("MonoCut", "MultiCut", "MixedCut", "PaddingCut")
HARMLESS_TRANSFORMS = ("Resample",)  # the waveform is resampled anyway, and times do not change


def add_cuts(path: Path, utterances: Utterances, reading: Reading = AS_USUAL) -> None:
    """Add every supervision with its span of the recording.

    Relative paths are looked up from the current folder first, then from that of the file.

    Raises:
        ManifestError: for cuts that are mixed, padded, sped up or without recording, and recordings that are not local
            files.
    """
    source = str(path)
    reading.require_no_columns(path)
    usual = [str(Path.cwd()), str(path.absolute().parent)]
    bases = usual if reading.audio_root is None else [reading.base(path.parent)]
    with opened_text(path) as file:
        records = list(json_records(source, file, utterances.report))
    for number, cut in records:
        try:
            _add_cut(source, number, cut, bases, utterances)
        except ManifestError as fault:
            utterances.report(fault)


def _add_cut(source: str, number: int, cut: Mapping[str, Any], bases: Sequence[str], utterances: Utterances) -> None:
    if cut.get("type", "MonoCut") not in ("MonoCut", "MultiCut"):
        problem = f"a {cut['type'] if cut['type'] in CUTS else shown(cut['type'])} is not a span of a recording"
        _fail(source, number, "type", problem, "store the cuts unmixed")
    audio, num_channels = _recording(source, number, cut)
    start = _number(source, number, cut, "start", 0.0)
    supervisions = cut.get("supervisions")
    if not isinstance(supervisions, list) or not all(isinstance(s, Mapping) for s in supervisions):
        _fail(source, number, "supervisions", f"{shown(supervisions)} is not a list of objects", "write one, or []")
    for supervision in supervisions:
        begin = start + _number(source, number, supervision, "start", 0.0)
        channel = supervision.get("channel", cut.get("channel"))
        record = {
            "id": supervision.get("id") or cut.get("id"),
            "audio": audio,
            "text": supervision.get("text"),
            "start": round(max(0.0, begin), 6),
            "duration": supervision.get("duration", cut.get("duration")),
            "language": supervision.get("language"),
            "speaker": supervision.get("speaker"),
            "channel": channel if isinstance(channel, int) and num_channels > 1 else None,
        }
        make_row(source, number, record).add_to(utterances, base_with(audio, bases))


def _recording(source: str, number: int, cut: Mapping[str, Any]) -> tuple[str, int]:
    """Path of a cut's audio file, and its number of channels."""
    recording = cut.get("recording")
    if not isinstance(recording, Mapping):
        remedy = "write the cuts with their recordings, not only with features"
        _fail(source, number, "recording", f"{shown(recording)} is not a recording", remedy)
    transforms = recording.get("transforms") or []
    if not isinstance(transforms, list):
        problem = f"its transforms, {shown(transforms)}, are not a list"
        _fail(source, number, "recording", problem, "write a list, or []")
    names = [str(t.get("name", t)) if isinstance(t, Mapping) else str(t) for t in transforms]
    if altered := [name for name in names if name not in HARMLESS_TRANSFORMS]:
        remedy = "store the cuts without it (whispertune augments by itself: augment.*)"
        _fail(source, number, "recording", f"the recording is altered by {', '.join(altered[:5])}", remedy)
    sources = recording.get("sources")
    if not isinstance(sources, list) or len(sources) != 1 or not isinstance(sources[0], Mapping):
        remedy = "give one audio file per recording"
        _fail(source, number, "recording", f"{shown(sources)} is not one source", remedy)
    if sources[0].get("type") != "file":
        remedy = "save the audio to files (CutSet.save_audios) and write the cuts again; no command is ever run"
        _fail(source, number, "recording", f"its source is of the type {shown(sources[0].get('type'))}", remedy)
    audio = sources[0].get("source")
    if not isinstance(audio, str) or not audio.strip():
        _fail(source, number, "recording", f"its source, {shown(audio)}, is not a path", "give the recording's file")
    channels = recording.get("channel_ids") or sources[0].get("channels") or [0]
    if not isinstance(channels, list):
        _fail(source, number, "recording", f"its channels, {shown(channels)}, are not a list", "write a list, as [0]")
    return audio.strip(), len(channels)


def _number(source: str, number: int, record: Mapping[str, Any], field: str, default: float) -> float:
    value = record.get(field, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9:
        _fail(source, number, field, f"{shown(value)} is not a number of seconds", "give seconds, such as 3.25")
    return float(value)


def _fail(source: str, number: int, field: str, problem: str, remedy: str) -> NoReturn:
    raise ManifestError(f"{problem}; {remedy}", file=source, row=number, field=field)
