"""The flags of `whispertune check`."""

from __future__ import annotations

from dataclasses import dataclass

from whispertune.errors import RecipeError
from whispertune.run.flags import help_text
from whispertune.system.options import PrecisionName

USAGE = """whispertune check F… [--train F --valid F --test F] [--language L] [--model M] [--output DIR] [--fix DIR]
                         [--no-audio] [--field value …]"""

DESCRIPTION = """Look data over before compute is spent on it: audio, texts, duplicates, leakage between the sets.

What spoils training or scoring is an error; what is unusual but sound is a note. Exit status 2 if there is any error.
With --model an untouched Whisper ranks the transcripts that are likely wrong. F is whatever train reads; a file named
after train, valid (dev) or test is taken for that set."""


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """One check."""

    train: str | None = None
    """Training manifest."""

    valid: str | None = None
    """Validation manifest."""

    test: str | None = None
    """Test manifest."""

    language: str | None = None
    """Language spoken, where a row names none: its script is then known."""

    language_token: str | None = None
    """A language of Whisper's whose token `language`, which Whisper does not know, borrows."""

    model: str | None = None
    """A Whisper that says which transcripts are likely wrong."""

    output: str | None = None
    """Folder for check.jsonl, summary.json, check.html and, with a model, ranking.jsonl."""

    fix: str | None = None
    """Folder for manifests without the rows that have errors, and excluded.jsonl with the reasons."""

    no_audio: bool = False
    """Look at manifests and texts alone."""

    columns: str | None = None
    """What the columns of manifests are called, where that is unusual: text=transkript,audio=datei."""

    audio_root: str | None = None
    """The folder that recordings lie in, where that is not the one of the manifests or the subtitles."""

    workers: int = 2
    """Threads that decode and measure audio."""

    device: str = "auto"
    """Of the model: auto, cpu, cuda or cuda:N."""

    precision: PrecisionName = "auto"
    """Of the model's matrix products. auto: bf16 where the hardware multiplies it fast, else fp16 on a GPU, fp32 on a
    CPU."""

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise RecipeError(f"is {self.workers}; it must be at least 1", field="workers")
        if self.model and self.no_audio:
            raise RecipeError("model is given with no_audio, but a model listens: leave one of them out")


def usage() -> str:
    """What --help prints."""
    return help_text(CheckOptions, USAGE, DESCRIPTION)
