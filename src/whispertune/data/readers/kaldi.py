"""A Kaldi data folder: wav.scp, text and, if present, segments, utt2spk and utt2lang."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn, TypeAlias

from whispertune.data.reading import AS_USUAL, Reading
from whispertune.data.rows import base_with, make_row, shown
from whispertune.data.text_files import read_text
from whispertune.data.utterances import Utterances
from whispertune.errors import ManifestError

_Table: TypeAlias = dict[str, tuple[int, str]]
"""Key -> (line, the rest of the line)."""


def is_kaldi(folder: Path) -> bool:
    """Whether the folder holds a wav.scp."""
    return (folder / "wav.scp").is_file()


def add_kaldi(folder: Path, utterances: Utterances, reading: Reading = AS_USUAL) -> None:
    """Add every utterance of `text`, in its order. Commands in the folder are never run.

    Raises:
        ManifestError: for a command or an archive in place of a file, an utterance without a recording, a bad line.
    """
    reading.require_no_columns(folder)
    recordings = _table(folder / "wav.scp")
    segments = _table(folder / "segments") if (folder / "segments").exists() else None
    speakers, languages = (
        _table(folder / name) if (folder / name).exists() else {} for name in ("utt2spk", "utt2lang")
    )
    path = folder / "text"
    # Paths in a wav.scp are relative to where Kaldi's scripts run: the current folder, or the data folder.
    usual = [str(Path.cwd()), str(folder.absolute())]
    bases = usual if reading.audio_root is None else [reading.base(folder)]
    for number, id_, text in _lines(path):
        try:
            recording, span = _span(folder, number, id_, segments)
            if recording not in recordings:
                problem = f"{shown(recording)} is not in wav.scp"
                _fail(path, number, "id", problem, "add its recording or delete the line")
            line, audio = recordings[recording]
            _require_file(folder / "wav.scp", line, audio)
        except ManifestError as fault:
            utterances.report(fault)
            continue
        record = {"id": id_, "text": text, **span, "audio": audio}
        record |= {"speaker": speakers.get(id_, (0, ""))[1], "language": languages.get(id_, (0, ""))[1]}
        make_row(str(path), number, record).add_to(utterances, base_with(audio, bases))


def _span(folder: Path, number: int, id_: str, segments: _Table | None) -> tuple[str, dict[str, object]]:
    """An utterance's recording, and the fields of its span."""
    if segments is None:
        return id_, {}
    if id_ not in segments:
        _fail(folder / "text", number, "id", f"{shown(id_)} is not in segments", "add it there or delete the line")
    line, span = segments[id_]
    fields = span.split()
    if len(fields) not in (3, 4):
        problem = f"{shown(span)} is not `RECORDING START END [CHANNEL]`"
        _fail(folder / "segments", line, "start", problem, "write a line as `UTTERANCE RECORDING 1.25 3.5`")
    found: dict[str, object] = {
        "start": fields[1],
        "end": None if fields[2] == "-1" else fields[2],
    }  # -1: the file's end
    if len(fields) == 4:  # numbered from 0, as in manifests
        found["channel"] = make_row(str(folder / "segments"), line, {"channel": fields[3]}).channel()
    return fields[0], found


def _require_file(path: Path, number: int, audio: str) -> None:
    """Refuse a command or an archive position, which a wav.scp may hold instead of a file."""
    if audio.endswith("|"):
        remedy = "run the command yourself, and give the file it writes (whispertune runs no commands from data)"
        _fail(path, number, "audio", f"{shown(audio)} is a command", remedy)
    name, _, offset = audio.rpartition(":")
    if audio == "-" or audio.endswith(".ark") or (name and offset.isdigit()):
        _fail(path, number, "audio", f"{shown(audio)} is not an audio file", "unpack it with wav-copy; give the files")


def _table(path: Path) -> _Table:
    table: _Table = {}
    for number, key, rest in _lines(path):
        if key in table:
            _fail(path, number, "id", f"{shown(key)} is repeated", f"line {table[key][0]} already has it; remove one")
        if not rest:
            _fail(path, number, "id", f"{shown(key)} has no value", "write `KEY VALUE`")
        table[key] = number, rest
    return table


def _lines(path: Path) -> Iterator[tuple[int, str, str]]:
    for number, line in enumerate(read_text(path, empty="write a line `KEY VALUE` per entry").split("\n"), 1):
        if line.strip():
            key, *rest = line.strip().split(None, 1)
            yield number, key, rest[0] if rest else ""


def _fail(path: Path, number: int, field: str, problem: str, remedy: str) -> NoReturn:
    raise ManifestError(f"{problem}; {remedy}", file=path, row=number, field=field)
