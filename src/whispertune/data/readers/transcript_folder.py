"""A folder of recordings, each with a transcript beside it.

With times: NAME.srt, NAME.vtt, NAME.TextGrid (Praat), NAME.eaf (ELAN) or NAME.txt with Audacity's labels; any other
NAME.txt is the text of the whole recording.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from whispertune.data.readers.eaf import media_names, read_eaf
from whispertune.data.readers.labels import is_label_track, read_labels
from whispertune.data.readers.subtitles import Cue, read_cues
from whispertune.data.readers.textgrid import read_textgrid
from whispertune.data.readers.tiers import tier_cues
from whispertune.data.reading import AS_USUAL, Reading
from whispertune.data.remote import files_below
from whispertune.data.rows import make_row
from whispertune.data.text_files import read_bytes, read_text
from whispertune.data.utterances import Utterances
from whispertune.errors import ManifestError

AUDIO = frozenset(
    (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".mp4", ".webm", ".mkv", ".mov", ".aac", ".aiff", ".aif")
)
VIDEO = frozenset((".mp4", ".webm", ".mkv", ".mov"))
TIERS = (".textgrid", ".eaf")
TIMED = (".srt", ".vtt", *TIERS)
LABELS = ".labels.txt"
"""End of the names of Audacity's labels as `transcribe` writes them; NAME.txt is read as well."""
LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)*")  # as in talk.it.vtt


def recordings_in(folder: Path) -> Iterator[Path]:
    """Audio files below a folder, sorted, without hidden ones."""
    yield from filter(_is_recording, sorted(files_below(folder)))


def _is_eaf(path: Path) -> bool:
    return path.suffix.lower() == ".eaf"


def _is_recording(path: Path) -> bool:
    return path.suffix.lower() in AUDIO and not path.name.startswith(".") and path.is_file()


def holds_transcripts(folder: Path) -> bool:
    """Whether there are transcripts with times or .txt files below a folder."""
    return any(path.suffix.lower() in (*TIMED, ".txt") for path in files_below(folder))


def is_transcript(path: Path) -> bool:
    """Whether a file is a transcript with times."""
    if path.suffix.lower() in TIMED:
        return True
    try:
        return path.suffix.lower() == ".txt" and is_label_track(read_text(path))
    except ManifestError:
        return False


def add_transcript_folder(folder: Path, utterances: Utterances, reading: Reading = AS_USUAL) -> None:
    """Add every utterance of every recording below the folder, or its whole .txt; NAME.it.srt is Italian.

    A .txt without a recording is ignored, as it may be a note. If the user names another folder for the recordings, it
    must have the same structure; recordings there without a transcript are ignored. An .eaf may have another name than
    its recording, if it names that; of a video and its audio it needs only the audio.

    Raises:
        ManifestError: for a recording without a transcript or with several, a transcript of two recordings, and
            a transcript with times without a recording.
    """
    reading.require_no_columns(folder)
    root = Path(reading.base(folder))
    transcripts = _transcripts(folder)
    used: dict[Path, Path] = {}
    found = [(audio, transcripts.get(_key(audio.relative_to(root)), [])) for audio in recordings_in(root)]
    # A video whose audio is there as well needs no transcript of its own in ELAN; it comes after that.
    found.sort(key=lambda each: each[0].suffix.lower() in VIDEO and any(_is_eaf(path) for path, _ in each[1]))
    for audio, beside in found:
        if not beside and reading.audio_root is not None:
            continue
        try:
            path, language = _transcript(audio, beside)
            if path in used and _is_eaf(path) and audio.suffix.lower() in VIDEO:
                continue
            if path in used:
                problem = f"{path.name} is the transcript of {used[path].name} too"
                remedy = "remove one recording, or give each a transcript of its own"
                raise ManifestError(f"{problem}; {remedy}", file=audio)
            used[path] = audio
            _add_transcript(path, language, str(audio.relative_to(root)), str(root.absolute()), utterances, reading)
        except ManifestError as fault:
            used |= {path: audio for path, _ in beside if path not in used}
            utterances.report(fault)
    for path in sorted({path for beside in transcripts.values() for path, _ in beside}):
        if path.suffix.lower() in TIMED and path not in used:
            where = "beside it" if reading.audio_root is None else f"in {root}"
            what = "transcript" if path.suffix.lower() in TIERS else "subtitles"
            problem = f"no recording of that name {where}; fetch it, or remove the {what}"
            utterances.report(ManifestError(problem, file=path))


def add_transcript(path: Path, utterances: Utterances, reading: Reading = AS_USUAL) -> None:
    """Add every utterance of a transcript with times.

    The recording has the same name (or that which an .eaf gives), beside it or in the folder that the user names.

    Raises:
        ManifestError: if there is no such recording, or several.
    """
    reading.require_no_columns(path)
    root = Path(reading.base(path.absolute().parent))
    names = dict(_names(path, Path(path.name)))
    found = [audio for audio in sorted(root.iterdir()) if _is_recording(audio) and _key(Path(audio.name)) in names]
    if _is_eaf(path):  # it may name a video, too
        found = [audio for audio in found if audio.suffix.lower() not in VIDEO] or found
        found = [audio for audio in found if _key(Path(audio.name)) == _key(Path(path.name))] or found
    if len(found) != 1:
        several = f"several recordings of that name ({', '.join(each.name for each in found)})"
        problem = f"{several if found else 'no recording of that name'} in {root}"
        remedy = f"put {path.stem}.wav (or .mp3, …) there, or give its folder: --audio_root DIR"
        remedy = "keep only one" if found else remedy
        raise ManifestError(f"{problem}; {remedy}", file=path)
    language = names[_key(Path(found[0].name))]
    _add_transcript(path, language, found[0].name, str(root.absolute()), utterances, reading)


def _add_transcript(
    path: Path, language: str | None, name: str, base: str, utterances: Utterances, reading: Reading
) -> None:
    """Add the utterances of the recording `name` in the folder `base`."""
    id_ = name.encode("utf-8", "backslashreplace").decode()  # it may hold bytes that are not UTF-8
    cues = _cues(path, utterances, reading)
    if cues is None:
        whole = {"id": id_, "audio": name, "text": " ".join(_text(path).split()), "language": language}
        make_row(str(path), 1, whole, listed=True).add_to(utterances, base)
        return
    for cue in cues:
        record: dict[str, object] = {
            "id": f"{id_}#{cue.start:.3f}-{cue.end:.3f}@{cue.row}", "audio": name, "text": cue.text,
            "start": cue.start, "end": cue.end, "speaker": cue.speaker, "language": language,
        }  # fmt: skip
        make_row(str(path), cue.row, record, listed=True).add_to(utterances, base)


def _cues(path: Path, utterances: Utterances, reading: Reading) -> Iterable[Cue] | None:
    """The utterances of a transcript; None if it has no times."""
    source, ending = str(path), path.suffix.lower()
    if ending in TIERS:
        read = read_eaf if ending == ".eaf" else read_textgrid
        return tier_cues(source, read(source, read_bytes(path)), reading, utterances.report)
    text = _text(path)
    if ending == ".txt":
        return read_labels(source, text, utterances.report) if is_label_track(text) else None
    return read_cues(source, text, utterances.report)


def _text(path: Path) -> str:
    return read_text(path, empty="write the transcript, or remove it and its recording")


def _key(path: Path) -> str:
    """A recording's path without its ending, with composed accents (macOS decomposes them)."""
    return unicodedata.normalize("NFC", str(path.with_suffix("")))


def _names(file: Path, path: Path) -> Iterator[tuple[str, str | None]]:
    """(key, language) of the recordings that a transcript may belong to: talk.it.srt to talk, in Italian.

    path: of the file, below the folder that is read.
    """
    if _is_eaf(file):
        for name in media_names(read_bytes(file)):
            yield _key(path.with_name(name)), None
    yield _key(path), None
    if path.name.lower().endswith(LABELS):
        yield unicodedata.normalize("NFC", str(path)[: -len(LABELS)]), None
    name, dot, language = path.stem.rpartition(".")
    if dot and name and LANGUAGE.fullmatch(language):
        yield unicodedata.normalize("NFC", str(path.parent / name)), language


def _transcripts(folder: Path) -> dict[str, list[tuple[Path, str | None]]]:
    """(transcript, language in its name) below a folder, by the `_key` of their recordings."""
    found: dict[str, list[tuple[Path, str | None]]] = {}
    for path in sorted(files_below(folder)):
        if path.suffix.lower() in (*TIMED, ".txt") and path.is_file():
            for key, language in dict(_names(path, path.relative_to(folder))).items():
                found.setdefault(key, []).append((path, language))
    return found


def _transcript(audio: Path, beside: list[tuple[Path, str | None]]) -> tuple[Path, str | None]:
    """A recording's transcript and the language in its name; those with times take precedence over .txt."""
    found = [entry for entry in beside if entry[0].name.lower().endswith((*TIMED, LABELS))] or beside
    if len(found) != 1:
        several = f"several transcripts ({', '.join(path.name for path, _ in found)})" if found else "no transcript"
        remedy = "keep only one" if found else (
            f"write {audio.stem}.txt or .srt, or remove the recording (where the folder is given as --audio_root too, "
            "recordings without a transcript are ignored)")  # fmt: skip
        raise ManifestError(f"{several} beside it; {remedy}", file=audio)
    return found[0]
