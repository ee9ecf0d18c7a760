"""Find recordings, name the transcript of each, and remember which recording a transcript is of."""

from __future__ import annotations

import glob
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from whispertune.data.remote import as_path, files_below, is_remote
from whispertune.errors import RecipeError
from whispertune.system.files import write_text

AUDIO_SUFFIXES = (
    *(".wav", ".wave", ".w64", ".rf64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au"),
    *(".snd", ".caf", ".sph", ".m4a", ".m4b", ".mp4", ".aac", ".mov", ".webm", ".mkv"),
)
"""What counts as audio in a folder; a file that is named directly is tried whatever its suffix."""


def find_audio(given: Sequence[str]) -> list[Path]:
    """The recordings among the given files, folders and patterns, in that order and without repeats.

    Raises:
        RecipeError: if nothing is given, or a folder or pattern holds no audio.
    """
    if not given:
        raise RecipeError("nothing to transcribe; name files or folders: whispertune transcribe --model M talk.mp3")
    found: dict[Path, Path] = {}
    for text in given:
        for match in _matching(text):
            found.setdefault(_real(match), match)
    return list(found.values())


def _matching(text: str) -> list[Path]:
    path = as_path(text)
    if text.startswith("http") and is_remote(text):  # neither folders nor patterns: a ? begins a query
        return [path]
    if is_remote(text) and glob.has_magic(text):
        folder, name = path.parent, path.name
        if not (matches := sorted(folder.glob(name))):
            raise RecipeError(f"{text}: no object matches this pattern; check the URL")
        return matches
    if is_remote(text) and path.suffix.lower() in AUDIO_SUFFIXES:
        return [path]
    try:
        if path.is_dir():
            matches = sorted(p for p in files_below(path) if p.suffix.lower() in AUDIO_SUFFIXES and p.is_file())
            if not matches:
                raise RecipeError(f"{path}: no audio in this folder; if its files have other suffixes, name the files")
            return matches
        if not path.exists() and glob.has_magic(text):
            matches = sorted(p for p in map(Path, glob.iglob(text, recursive=True)) if p.is_file())  # noqa: PTH207
            if not matches:
                raise RecipeError(f"{text}: no file matches this pattern; check the path")
            return matches
    except OSError:  # the name is too long for any file; reading it will report that
        pass
    return [path]


def output_names(audios: Sequence[Path]) -> list[str]:
    """A distinct name, without the format's suffix, for the transcript of each recording.

    The file's own stem if it is unique; else with the folders below the one that all recordings share; else with its
    own suffix too. Raises RecipeError for recordings that are still not distinct.
    """
    whole = [Path("/", *_real(path).parts) for path in audios]  # a URL as if it were a folder: /s3:/bucket/a.wav
    shared = Path(os.path.commonpath([path.parent for path in whole])) if audios else Path()
    below = [path.relative_to(shared) for path in whole]
    names = [path.stem for path in audios]
    for longer in ([str(path.with_suffix("")) for path in below], [str(path) for path in below]):
        # Names that differ only in case are one file on some systems.
        counts = Counter(name.casefold() for name in names)
        names = [long if counts[name.casefold()] > 1 else name for name, long in zip(names, longer, strict=True)]
    first: dict[str, Path] = {}
    for name, path in zip(names, audios, strict=True):
        if name.casefold() in first:
            both = f"{first[name.casefold()]} and {path}"
            raise RecipeError(f"{both} would be written to the same file; rename one or transcribe them one by one")
        first[name.casefold()] = path
    return names


class TranscriptIndex:
    """Which recording each transcript in a folder is of, kept in a JSONL file in that folder.

    added: the entries of this session, by name.
    """

    FILE = ".recordings.jsonl"

    def __init__(self, folder: Path) -> None:
        self._file = folder / self.FILE
        self._known: dict[str, dict[str, Any]] = {}
        self.added: dict[str, dict[str, Any]] = {}
        for line in self._file.read_text(encoding="utf-8").split("\n") if self._file.exists() else []:
            with suppress(json.JSONDecodeError):  # an incomplete line, left by a killed process
                entry = json.loads(line)
                self._known[entry["name"]] = entry

    def other_than(self, name: str, audio: Path) -> str | None:
        """The recording that the transcript is of, if it is known to be a different file (not the same file, moved)."""
        entry = self._known.get(name)
        return None if entry is None or _same_recording(entry, _described(name, audio)) else str(entry["audio"])

    def add(self, name: str, audio: Path) -> None:
        """Record that the transcript `name` is of `audio`. Raises OSError if that cannot be written."""
        entry = _described(name, audio)
        if self._known.get(name) != entry:
            self._known[name] = self.added[name] = entry
            with self._file.open("a", encoding="utf-8") as file:
                file.write("\n" + json.dumps(entry))  # starts a new line after an incomplete one

    def settle(self, added: Iterable[Mapping[str, dict[str, Any]]]) -> None:
        """Write the file anew, sorted by name. added: by the processes that have written transcripts."""
        for entries in added:
            self._known |= entries
        with suppress(OSError):  # what was appended serves as well
            write_text(self._file, "".join(f"\n{json.dumps(self._known[name])}" for name in sorted(self._known)))


def _described(name: str, audio: Path) -> dict[str, Any]:
    found = audio.stat() if os.path.exists(audio) else None  # noqa: PTH110 - never raises, whatever the name
    return {
        "name": name,
        "audio": str(_real(audio)),
        "bytes": None if found is None else found.st_size,
        "modified": None if found is None else found.st_mtime_ns,
    }


def _same_recording(one: dict[str, Any], other: dict[str, Any]) -> bool:
    moved = one["bytes"] is not None and (one["bytes"], one["modified"]) == (other["bytes"], other["modified"])
    return one["audio"] == other["audio"] or moved


def _real(path: Path) -> Path:
    """The path without symbolic links; `Path.resolve` would raise RuntimeError where they go in circles."""
    return path if is_remote(str(path)) else Path(os.path.realpath(path))
