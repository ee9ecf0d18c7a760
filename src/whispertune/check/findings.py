"""Kinds of findings: errors and notes, and their meanings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from whispertune.data.utterances import Utterances
from whispertune.errors import ManifestError

Severity = Literal["error", "note"]
Role = Literal["train", "valid", "test", ""]

ERRORS: dict[str, str] = {
    "bad_row": "a row, or a file of the corpus, that cannot be read",
    "repeated_id": "an id that another row already has",
    "unreadable_audio": "missing, empty, cut short, not decodable, or with samples that are not finite",
    "silence": "silent",
    "noise": "noise or hum without speech",
    "too_short": "too short for a word",
    "too_long": "longer than Whisper's window of 30 s",
    "wrong_sample_rate": "plays too fast or too slow: the header's sample rate is not that of the samples",
    "too_fast": "far more text than fits in the audio: audio is missing, or the text belongs to another clip",
    "empty_text": "no text",
    "unspoken_text": "nothing is left of the text after normalisation (only punctuation)",
    "too_many_tokens": "text longer than Whisper's 448 tokens",
    "special_token": "one of Whisper's special tokens, which would be tokenised as plain letters",
    "markup": "tags, bracketed sounds, HTML or links, which are not spoken",
    "other_script": "written in a script other than the language's",
    "encoding_damage": "characters damaged by a wrong encoding, or question marks in place of letters",
    "unknown_language": "a language that Whisper has no token for",
    "leaked_audio": "the same recording is in two of train, valid and test",
    "wrong_transcript": "the model's own transcript is quite different",
    "marked": "marked in the file that was given with --exclude",
}
UNUSABLE = frozenset(
    ("unreadable_audio", "silence", "too_short", "too_long", "empty_text", "unspoken_text", "too_many_tokens")
) | {"unknown_language", "special_token"}
"""Errors that exclude a row from the model-based check."""
NOTES: dict[str, str] = {
    "clipped": "clipped: the peaks are cut off",
    "quiet": "very quiet",
    "noisy": "speech that is hardly louder than the noise",
    "fast": "much text for the audio",
    "slow": "little text for the audio",
    "digits": "digits: the error rate depends on how numbers are written",
    "question_mark": "a question mark in mid-sentence, perhaps in place of a letter",
    "symbols": "symbols that can be read aloud in several ways",
    "foreign_letters": "a few letters of another script",
    "duplicate_audio": "the same recording twice in one set",
    "duplicate_text": "the same text several times in one set",
    "leaked_text": "the same or nearly the same text is in train too",
    "leaked_speaker": "a speaker who is in train too",
    "doubtful_transcript": "the model's own transcript is somewhat different",
}
MEANINGS = {**ERRORS, **NOTES}

FIELDS: dict[str, tuple[str, ...]] = {
    "text": (
        "too_fast", "empty_text", "unspoken_text", "too_many_tokens", "markup", "special_token", "other_script",
        "encoding_damage", "wrong_transcript", "marked", "fast", "slow", "digits", "question_mark", "symbols",
        "foreign_letters", "duplicate_text", "leaked_text", "doubtful_transcript",
    ),
    "id": ("repeated_id",),
    "language": ("unknown_language",),
    "speaker": ("leaked_speaker",),
}  # fmt: skip
"""Kinds by the field they concern; all others concern the audio."""


def field_of(kind: str) -> str:
    """The field of a row that a kind of finding concerns."""
    return next((field for field, kinds in FIELDS.items() if kind in kinds), "audio")


@dataclass(frozen=True, slots=True)
class Finding:
    """A finding about one row. row: index among all rows of the check."""

    row: int
    kind: str
    detail: str

    @property
    def severity(self) -> Severity:
        return "error" if self.kind in ERRORS else "note"


@dataclass(frozen=True, slots=True)
class Source:
    """A manifest, its role in training if known, and its rows. first: index of its first row among all rows.

    faults: those of rows that could not be read, which are not included.
    """

    path: Path
    role: Role
    rows: Utterances
    first: int
    faults: Sequence[ManifestError] = ()

    @property
    def name(self) -> str:
        return self.role or self.path.stem


def guessed_role(path: Path) -> Role:
    """The role that a file's name suggests: `train_clean.csv` is train, `dev.tsv` valid."""
    words = "".join(char if char.isalpha() else " " for char in path.stem.lower()).split()
    roles: dict[str, Role] = {"train": "train", "training": "train", "valid": "valid", "validation": "valid"}
    roles |= {"val": "valid", "dev": "valid", "test": "test", "testing": "test", "eval": "test"}
    return next((roles[word] for word in words if word in roles), "")
