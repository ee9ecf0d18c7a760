"""The flags of `whispertune check`."""

from __future__ import annotations

from dataclasses import dataclass, field

from whispertune.data.options import ReadingOptions
from whispertune.errors import RecipeError
from whispertune.run.help_text import help_text
from whispertune.run.options import LanguageOptions
from whispertune.system.fields import FLAT
from whispertune.system.options import DeviceOptions, SharingOptions

USAGE = """whispertune check F… [--train F] [--valid F] [--test F] [--language L]
                         [--model M] [--output DIR] [--fix DIR]
                         [--field value …]"""

DESCRIPTION = """Check data before you spend compute on it: audio, texts, duplicates, leakage between the sets.

What would spoil training or scoring is an error; what is unusual but harmless is a note. The exit status is 2 if
there is any error. With --model, a Whisper model ranks the transcripts that are likely wrong. F is anything that train
reads; a file named after train, valid (dev) or test is taken as that set."""


@dataclass(frozen=True, kw_only=True)
class CheckOptions(DeviceOptions, LanguageOptions):
    """Data and output."""

    train: str | None = None
    """Training data."""

    valid: str | None = None
    """Validation data."""

    test: str | None = None
    """Test data."""

    output: str | None = None
    """Folder for check.jsonl, summary.json, check.html and, with a model, ranking.jsonl."""

    fix: str | None = None
    """Folder for copies of the manifests without the rows that have errors, and excluded.jsonl with the reasons."""

    no_audio: bool = False
    """Check manifests and texts only, not the audio."""

    model: str | None = None
    """Whisper model that finds transcripts that are likely wrong, in any form that train takes as --model."""

    reading: ReadingOptions = field(default_factory=ReadingOptions, metadata=FLAT)
    processes: SharingOptions = field(default_factory=SharingOptions)

    def check(self) -> None:
        super().check()
        if self.model and self.no_audio:
            raise RecipeError("is given with no_audio, but it needs the audio: leave one of them out", field="model")


def usage() -> str:
    """The text of --help."""
    return help_text(CheckOptions, USAGE, DESCRIPTION)
