"""The flags of `whispertune correct`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from whispertune.data.options import ReadingOptions
from whispertune.decoding.options import FORMATS
from whispertune.errors import RecipeError
from whispertune.run.help_text import help_text
from whispertune.run.options import LanguageOptions
from whispertune.system.fields import FLAT, Bounds
from whispertune.system.options import DeviceOptions

WRITTEN = tuple(kind for kind in FORMATS if kind != "json")
"""Formats that corrected transcripts are written in."""
USAGE = """whispertune correct F|AUDIO… [--model M] [--language L] [--output DIR]
                           [--field value …]
       whispertune correct --output DIR          # go on with a correction"""

DESCRIPTION = """Correct transcripts on a page in your browser: listen, correct, save, train again.

F is anything that train reads, or the JSON that transcribe writes (a file, or the folder); with --model, AUDIO may be
recordings without transcripts, which the model transcribes first. The segments that are most likely wrong come first:
those that a model (--model) doubts, or those with the lowest confidence, if the transcripts have one.

The page is served on this machine only, and its address contains a secret token. Everything can be done by keyboard;
F1 lists the keys. Every change is on disk before the page goes on, and can be undone back to the
beginning, even if the server was killed: the same command goes on where you stopped. Your own files are never changed.

It writes DIR/corrected.jsonl, a manifest that train reads; DIR/left-out.jsonl with the other segments and the reasons;
with --format, or by default if transcripts were given, DIR/transcripts; and DIR/journal.jsonl, the history."""


@dataclass(frozen=True, kw_only=True)
class CorrectOptions(DeviceOptions, LanguageOptions):
    """What to correct, and what to write."""

    output: str = "corrections"
    """Folder for what is written (DIR). Each correction needs a folder of its own."""

    model: str | None = None
    """Whisper model, in any form that train takes as --model: it transcribes recordings, or finds the transcripts that
    are likely wrong."""

    keep: Literal["auto", "all", "done"] = "auto"
    """Which segments the manifest holds: `all` that are not marked as unusable, or only those that were marked as
    `done`. `auto` is `done` for what a model has transcribed, otherwise `all`."""

    format: str | None = None
    """Formats of the transcripts in DIR/transcripts, separated by commas: textgrid, eaf, srt, vtt, txt, tsv, audacity;
    or none. By default the format of the transcripts that were given, textgrid for JSON, and none for a manifest."""

    valid: str | None = None
    """Validation data for the training command that is printed at the end."""

    port: Annotated[int, Bounds(ge=0, le=65535)] = 0
    """Port of the page; 0 takes any free one."""

    open: bool = True
    """Open the page in the browser."""

    reading: ReadingOptions = field(default_factory=ReadingOptions, metadata=FLAT)

    def check(self) -> None:
        super().check()
        self.formats  # noqa: B018 - built to have it checked

    @property
    def formats(self) -> tuple[str, ...] | None:
        """Formats of the transcripts; None for those that were given."""
        if self.format is None or self.format == "none":
            return None if self.format is None else ()
        named = tuple(dict.fromkeys(part.strip().lower() for part in self.format.split(",")))
        for name in named:
            if name not in WRITTEN:
                raise RecipeError(f"is {name!r}; choose from {', '.join(WRITTEN)}, none", field="format")
        return named


def usage() -> str:
    """The text of --help."""
    return help_text(CorrectOptions, USAGE, DESCRIPTION)
