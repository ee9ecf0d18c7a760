"""What the check can find: kinds, whether they are errors, and what each means."""

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
    "repeated_id": "an id that another row has already",
    "unreadable_audio": "missing, empty, cut short, not decodable, or with samples that are no numbers",
    "silence": "nothing is heard",
    "noise": "noise or hum without speech",
    "too_short": "too short for a word",
    "too_long": "longer than Whisper's window of 30 s",
    "wrong_sample_rate": "plays too fast or too slow: the header's sample rate is not that of the samples",
    "too_fast": "far more text than fits in the audio: part of it is missing, or the text is another's",
    "empty_text": "no text",
    "unspoken_text": "text of which normalisation leaves nothing (punctuation only)",
    "too_many_tokens": "text longer than Whisper's 448 tokens",
    "special_token": "a special token of Whisper's, which would be trained on letter by letter",
    "markup": "tags, bracketed sounds, HTML or links that nobody says",
    "other_script": "written in another script than the language's",
    "encoding_damage": "characters that a wrong encoding has spoilt, or question marks in place of letters",
    "unknown_language": "a language that Whisper has no token for",
    "leaked_audio": "the same recording stands in two of train, valid and test",
    "wrong_transcript": "the model hears something else",
}
UNUSABLE = frozenset(
    ("unreadable_audio", "silence", "too_short", "too_long", "empty_text", "unspoken_text", "too_many_tokens")
) | {"unknown_language", "special_token"}
"""Errors that leave a model nothing to say."""
NOTES: dict[str, str] = {
    "clipped": "clipped: peaks are cut flat",
    "quiet": "very quiet",
    "noisy": "hardly any speech stands out of the noise",
    "fast": "much text for the audio",
    "slow": "little text for the audio",
    "digits": "digits: the error rate depends on how numbers are written",
    "question_mark": "a question mark in mid-sentence: in place of a letter, perhaps",
    "symbols": "symbols that are read aloud in more than one way",
    "foreign_letters": "a few letters of another script",
    "duplicate_audio": "the same recording twice in one set",
    "duplicate_text": "the same text several times in one set",
    "leaked_text": "text that stands in train too, in the same or nearly the same words",
    "leaked_speaker": "a speaker who is in train too",
    "doubtful_transcript": "the model hears something rather different",
}
MEANINGS = {**ERRORS, **NOTES}

FIELDS: dict[str, tuple[str, ...]] = {
    "text": (
        "too_fast", "empty_text", "unspoken_text", "too_many_tokens", "markup", "special_token", "other_script",
        "encoding_damage", "wrong_transcript", "fast", "slow", "digits", "question_mark", "symbols", "foreign_letters",
        "duplicate_text", "leaked_text", "doubtful_transcript",
    ),
    "id": ("repeated_id",),
    "language": ("unknown_language",),
    "speaker": ("leaked_speaker",),
}  # fmt: skip
"""Kinds by the field they are about; all others are about the audio."""


def field_of(kind: str) -> str:
    """The field of a row that findings of a kind are about."""
    return next((field for field, kinds in FIELDS.items() if kind in kinds), "audio")


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault of one row. row: index into all rows of the check."""

    row: int
    kind: str
    detail: str

    @property
    def severity(self) -> Severity:
        return "error" if self.kind in ERRORS else "note"


@dataclass(frozen=True, slots=True)
class Source:
    """A manifest, its part in training if known, and its rows, which are `first` … among all rows.

    faults: of rows that could not be read, which are not among them.
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
    """The part that a file's name suggests: `train_clean.csv` is train, `dev.tsv` valid."""
    words = "".join(char if char.isalpha() else " " for char in path.stem.lower()).split()
    roles: dict[str, Role] = {"train": "train", "training": "train", "valid": "valid", "validation": "valid"}
    roles |= {"val": "valid", "dev": "valid", "test": "test", "testing": "test", "eval": "test"}
    return next((roles[word] for word in words if word in roles), "")
