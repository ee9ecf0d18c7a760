"""A folder of recordings, each with its transcript beside it: NAME.txt, or NAME.srt or NAME.vtt with times."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from whispertune.data.rows import make_row
from whispertune.data.subtitles import read_cues
from whispertune.data.text_files import read_text
from whispertune.data.utterances import Utterances
from whispertune.errors import ManifestError

AUDIO = frozenset(
    (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".mp4", ".webm", ".mkv", ".mov", ".aac", ".aiff", ".aif")
)
SUBTITLES = (".srt", ".vtt")
LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)*")  # as in talk.it.vtt


def recordings_in(folder: Path) -> Iterator[Path]:
    """Audio files below a folder, sorted; hidden ones are left out."""
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in AUDIO and not path.name.startswith(".") and path.is_file():
            yield path


def add_transcript_folder(folder: Path, utterances: Utterances) -> None:
    """Add every subtitle of every recording below the folder, or its whole .txt; NAME.it.srt is in Italian.

    A .txt without a recording is a note, and left alone.

    Raises:
        ManifestError: for a recording without transcript or with several, a transcript of two recordings, and
            subtitles without recording.
    """
    transcripts = _transcripts(folder)
    used: dict[Path, Path] = {}
    for audio in recordings_in(folder):
        beside = transcripts.get(audio.parent / audio.stem, [])
        try:
            path, language = _transcript(audio, beside)
            if path in used:
                problem = f"{path.name} is the transcript of {used[path].name} too"
                remedy = "remove one recording, or give each a transcript of its own"
                raise ManifestError(f"{problem}; {remedy}", file=audio)
            used[path] = audio
            _add_recording(folder, audio, path, language, utterances)
        except ManifestError as fault:
            used |= {path: audio for path, _ in beside if path not in used}
            utterances.report(fault)
    for path in sorted({path for beside in transcripts.values() for path, _ in beside}):
        if path.suffix.lower() in SUBTITLES and path not in used:
            problem = "no recording of that name beside it; fetch it, or remove the subtitles"
            utterances.report(ManifestError(problem, file=path))


def _add_recording(folder: Path, audio: Path, path: Path, language: str | None, utterances: Utterances) -> None:
    """Add what the transcript `path` of a recording holds."""
    name = str(audio.relative_to(folder))
    if path.suffix.lower() == ".txt":
        whole = {"id": name, "audio": name, "text": " ".join(_text(path).split()), "language": language}
        make_row(str(path), 1, whole).add_to(utterances, str(folder.absolute()))
        return
    for cue in read_cues(str(path), _text(path), utterances.report):
        record: dict[str, object] = {
            "id": f"{name}#{cue.start:.3f}-{cue.end:.3f}@{cue.row}", "audio": name, "text": cue.text,
            "start": cue.start, "end": cue.end, "speaker": cue.speaker, "language": language,
        }  # fmt: skip
        make_row(str(path), cue.row, record).add_to(utterances, str(folder.absolute()))


def _text(path: Path) -> str:
    return read_text(path, empty="write what is said, or remove it and its recording")


def _transcripts(folder: Path) -> dict[Path, list[tuple[Path, str | None]]]:
    """Transcripts below a folder and the languages in their names, by the recordings' paths without their endings."""
    found: dict[Path, list[tuple[Path, str | None]]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in (*SUBTITLES, ".txt"):
            found.setdefault(path.parent / path.stem, []).append((path, None))
            name, dot, language = path.stem.rpartition(".")
            if dot and name and LANGUAGE.fullmatch(language):
                found.setdefault(path.parent / name, []).append((path, language))
    return found


def _transcript(audio: Path, beside: list[tuple[Path, str | None]]) -> tuple[Path, str | None]:
    """A recording's transcript and the language in its name; times go before plain text."""
    found = [entry for entry in beside if entry[0].suffix.lower() in SUBTITLES] or beside
    if len(found) != 1:
        several = f"several transcripts ({', '.join(path.name for path, _ in found)})" if found else "no transcript"
        remedy = "leave one" if found else f"write {audio.stem}.txt or .srt, or remove the recording"
        raise ManifestError(f"{several} beside it; {remedy}", file=audio)
    return found[0]
