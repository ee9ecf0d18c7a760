"""Options for reading a corpus: what its columns are called, and the folder of its recordings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from whispertune.data.remote import is_remote
from whispertune.errors import ManifestError, RecipeError

# The first of these columns that is present counts.
AUDIO_COLUMNS = ("audio", "audio_filepath", "wav", "path", "file_name")
TEXT_COLUMNS = ("text", "wrd", "sentence", "transcription", "transcript")
KINDS: dict[str, tuple[str, ...]] = {
    "audio": AUDIO_COLUMNS,
    "text": TEXT_COLUMNS,
    "id": ("id", "ID"),
    "language": ("language", "locale"),
    "task": ("task",),
    "start": ("start", "offset"),
    "end": ("end",),
    "duration": ("duration",),
    "speaker": ("speaker", "client_id"),
    "prompt": ("prompt",),
    "channel": ("channel",),
}
ALL_COLUMNS = frozenset(name for names in KINDS.values() for name in names)

Named = tuple[tuple[str, str], ...]
"""(kind, column) pairs: the user's names of columns."""


class Columns(NamedTuple):
    """The column used for each kind, of those that are present."""

    audio: str | None
    text: str | None
    id: str | None
    language: str | None
    task: str | None
    start: str | None
    end: str | None
    duration: str | None
    speaker: str | None
    prompt: str | None
    channel: str | None


@dataclass(frozen=True, slots=True)
class Reading:
    """How the user wants a corpus to be read.

    columns: names of columns, where they are not the usual ones. audio_root: the folder that audio paths are relative
    to (None: the format's own). tier: of annotations, the one with the transcript; speaker: where it says who speaks.
    """

    columns: Named = ()
    audio_root: str | None = None
    tier: str | None = None
    speaker: str | None = None

    def base(self, usual: Path | str) -> str:
        """The folder that audio paths are relative to; `usual` unless the user names one.

        Raises:
            ManifestError: if the user's is not a folder.
        """
        if self.audio_root is None:
            return str(usual)
        if is_remote(self.audio_root):
            return self.audio_root.rstrip("/")
        try:
            if Path(self.audio_root).is_dir():
                return str(Path(self.audio_root).absolute())
        except (OSError, ValueError):
            pass
        raise ManifestError(f"audio_root {self.audio_root}: no such folder; give the folder that holds the recordings")

    def require_no_columns(self, corpus: Path | str) -> None:
        """Raise ManifestError if column names are given for a format without columns."""
        if self.columns:
            named = ", ".join("=".join(pair) for pair in self.columns)
            raise ManifestError(f"{corpus}: columns {named} is given, but this format has no columns; leave it out")

    def require_no_tiers(self, corpus: Path | str) -> None:
        """Raise ManifestError if a tier or its speakers are chosen for a format without tiers."""
        for name, value in (("tier", self.tier), ("speaker", self.speaker)):
            if value is not None:
                raise ManifestError(f"{corpus}: {name} {value} is given, but there are no tiers in it; leave it out")

    def require_no_root(self, corpus: Path | str) -> None:
        """Raise ManifestError if a folder of recordings is given for a format that contains them."""
        if self.audio_root is not None:
            problem = f"audio_root {self.audio_root} is given, but this format contains its recordings"
            raise ManifestError(f"{corpus}: {problem}; leave it out")

    def require_columns(self, file: Path | str, row: int | None, present: Sequence[str]) -> None:
        """Raise ManifestError if a column that the user names, or any column with audio or text, is missing."""
        found = ", ".join(map(repr, present)) or "none"
        for kind, name in self.columns:
            if name not in present:
                problem = f"no column {name!r} (for {kind}) among {found}; correct --columns"
                raise ManifestError(problem, file=file, row=row)
        columns = choose_columns(tuple(present), self.columns)
        missing = [kind for kind, chosen in (("audio", columns.audio), ("text", columns.text)) if chosen is None]
        if missing:
            problem = f"no {missing[0]} column among {found}" + (", and no text column" if missing[1:] else "")
            # Without times, segments would be read as whole recordings; without channels, calls as a mean of both.
            likewise = [kind for kind in ("start", "end", "channel") if getattr(columns, kind) is None]
            named = ",".join([*map("=".join, self.columns), *(f"{kind}=NAME" for kind in (*missing, *likewise))])
            remedy = f"rename one to {', '.join(KINDS[missing[0]])}, or say which it is: --columns {named}"
            if likewise:
                remedy += f" ({', '.join(likewise)}: if you have such columns)"
            raise ManifestError(f"{problem}; {remedy}", file=file, row=row)

    def renamed(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The record with the user's columns renamed to the usual names."""
        result = dict(record)
        for kind, name in self.columns:
            if name in record:
                for usual in KINDS[kind]:
                    result.pop(usual, None)
                result[kind] = record[name]
        return result


AS_USUAL = Reading()


def parse_columns(given: str) -> Named:
    """Parse `text=transkript, audio=datei`; semicolons separate as well.

    Raises:
        RecipeError: for an unknown kind, one that is given twice, or an empty name.
    """
    pairs: dict[str, str] = {}
    for part in re.split("[,;]", given):
        kind, equals, name = (piece.strip() for piece in part.partition("="))
        if not equals or not name or kind not in KINDS:
            kinds = ", ".join(KINDS)
            raise RecipeError(f"is {given!r}; write it as text=NAME,audio=NAME; there are {kinds}", field="columns")
        if kind in pairs:
            raise RecipeError(f"is {given!r}: {kind} is named twice; leave one out", field="columns")
        pairs[kind] = name
    return tuple(pairs.items())


@lru_cache(maxsize=64)
def choose_columns(present: tuple[str, ...], named: Named = ()) -> Columns:
    """The first column of each kind that is present; the user's names take precedence."""
    own = {kind: (name,) for kind, name in named if name in present}
    chosen = ((own.get(kind, names)) for kind, names in KINDS.items())
    return Columns(*(next((name for name in names if name in present), None) for names in chosen))
