"""A folder of recordings, each with a transcript beside it: NAME.txt, or NAME.srt or NAME.vtt with times."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from whispertune.data.readers.subtitles import read_cues
from whispertune.data.reading import AS_USUAL, Reading
from whispertune.data.rows import make_row
from whispertune.data.text_files import read_text
from whispertune.data.utterances import Utterances
from whispertune.errors import ManifestError

AUDIO = frozenset(
    (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".mp4", ".webm", ".mkv", ".mov", ".aac", ".aiff", ".aif")
)
SUBTITLES = (".srt", ".vtt")
LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)*")  # as in talk.it.vtt


def recordings_in(folder: Path) -> Iterator[Path]:
    """Audio files below a folder, sorted, without hidden ones."""
    for path in sorted(folder.rglob("*")):
        if _is_recording(path):
            yield path


def _is_recording(path: Path) -> bool:
    return path.suffix.lower() in AUDIO and not path.name.startswith(".") and path.is_file()


def holds_transcripts(folder: Path) -> bool:
    """Whether there are subtitles or .txt files below a folder."""
    return any(path.suffix.lower() in (*SUBTITLES, ".txt") for path in folder.rglob("*"))


def add_transcript_folder(folder: Path, utterances: Utterances, reading: Reading = AS_USUAL) -> None:
    """Add every subtitle of every recording below the folder, or its whole .txt; NAME.it.srt is Italian.

    A .txt without a recording is ignored, as it may be a note. If the user names another folder for the recordings, it
    must have the same structure; recordings there without a transcript are ignored.

    Raises:
        ManifestError: for a recording without a transcript or with several, a transcript of two recordings, and
            subtitles without a recording.
    """
    reading.require_no_columns(folder)
    root = Path(reading.base(folder))
    transcripts = _transcripts(folder)
    used: dict[Path, Path] = {}
    for audio in recordings_in(root):
        beside = transcripts.get(_key(audio.relative_to(root)), [])
        if not beside and reading.audio_root is not None:
            continue
        try:
            path, language = _transcript(audio, beside)
            if path in used:
                problem = f"{path.name} is the transcript of {used[path].name} too"
                remedy = "remove one recording, or give each a transcript of its own"
                raise ManifestError(f"{problem}; {remedy}", file=audio)
            used[path] = audio
            _add_transcript(path, language, str(audio.relative_to(root)), str(root.absolute()), utterances)
        except ManifestError as fault:
            used |= {path: audio for path, _ in beside if path not in used}
            utterances.report(fault)
    for path in sorted({path for beside in transcripts.values() for path, _ in beside}):
        if path.suffix.lower() in SUBTITLES and path not in used:
            where = "beside it" if reading.audio_root is None else f"in {root}"
            problem = f"no recording of that name {where}; fetch it, or remove the subtitles"
            utterances.report(ManifestError(problem, file=path))


def add_subtitles(path: Path, utterances: Utterances, reading: Reading = AS_USUAL) -> None:
    """Add every subtitle of one file; the recording has the same name, beside it or in the folder that the user names.

    Raises:
        ManifestError: if there is no such recording, or several.
    """
    reading.require_no_columns(path)
    root = Path(reading.base(path.absolute().parent))
    names = dict(_names(Path(path.name)))
    found = [audio for audio in sorted(root.iterdir()) if _is_recording(audio) and _key(Path(audio.name)) in names]
    if len(found) != 1:
        several = f"several recordings of that name ({', '.join(each.name for each in found)})"
        problem = f"{several if found else 'no recording of that name'} in {root}"
        remedy = f"put {path.stem}.wav (or .mp3, …) there, or give its folder: --audio_root DIR"
        remedy = "keep only one" if found else remedy
        raise ManifestError(f"{problem}; {remedy}", file=path)
    _add_transcript(path, names[_key(Path(found[0].name))], found[0].name, str(root.absolute()), utterances)


def _add_transcript(path: Path, language: str | None, name: str, base: str, utterances: Utterances) -> None:
    """Add the utterances of the recording `name` in the folder `base`."""
    id_ = name.encode("utf-8", "backslashreplace").decode()  # it may hold bytes that are not UTF-8
    if path.suffix.lower() == ".txt":
        whole = {"id": id_, "audio": name, "text": " ".join(_text(path).split()), "language": language}
        make_row(str(path), 1, whole, listed=True).add_to(utterances, base)
        return
    for cue in read_cues(str(path), _text(path), utterances.report):
        record: dict[str, object] = {
            "id": f"{id_}#{cue.start:.3f}-{cue.end:.3f}@{cue.row}", "audio": name, "text": cue.text,
            "start": cue.start, "end": cue.end, "speaker": cue.speaker, "language": language,
        }  # fmt: skip
        make_row(str(path), cue.row, record, listed=True).add_to(utterances, base)


def _text(path: Path) -> str:
    return read_text(path, empty="write the transcript, or remove it and its recording")


def _key(path: Path) -> str:
    """A recording's path without its ending, with composed accents (macOS decomposes them)."""
    return unicodedata.normalize("NFC", str(path.with_suffix("")))


def _names(path: Path) -> Iterator[tuple[str, str | None]]:
    """(key, language) of the recordings that a transcript may belong to: talk.it.srt to talk, in Italian."""
    yield _key(path), None
    name, dot, language = path.stem.rpartition(".")
    if dot and name and LANGUAGE.fullmatch(language):
        yield unicodedata.normalize("NFC", str(path.parent / name)), language


def _transcripts(folder: Path) -> dict[str, list[tuple[Path, str | None]]]:
    """(transcript, language in its name) below a folder, by the `_key` of their recordings."""
    found: dict[str, list[tuple[Path, str | None]]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in (*SUBTITLES, ".txt"):
            for key, language in _names(path.relative_to(folder)):
                found.setdefault(key, []).append((path, language))
    return found


def _transcript(audio: Path, beside: list[tuple[Path, str | None]]) -> tuple[Path, str | None]:
    """A recording's transcript and the language in its name; subtitles take precedence over .txt."""
    found = [entry for entry in beside if entry[0].suffix.lower() in SUBTITLES] or beside
    if len(found) != 1:
        several = f"several transcripts ({', '.join(path.name for path, _ in found)})" if found else "no transcript"
        remedy = "keep only one" if found else f"write {audio.stem}.txt or .srt, or remove the recording"
        raise ManifestError(f"{several} beside it; {remedy}", file=audio)
    return found[0]
