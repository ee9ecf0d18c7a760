"""The flags of `whispertune align`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from whispertune.align.options import ConfidenceOptions
from whispertune.decoding.options import FallbackOptions, require_used_glossary
from whispertune.errors import RecipeError
from whispertune.run.help_text import help_text
from whispertune.run.options import ModelOptions
from whispertune.system.fields import FLAT
from whispertune.system.options import DeviceOptions

USAGE = """whispertune align AUDIO … --text F --model M [--language L] --output DIR
                         [--field value …]"""

DESCRIPTION = """Find where a plain text is said in long recordings, and make a manifest of its sentences to train on.

AUDIO is a file, a folder (all audio in it and its subfolders) or a pattern such as 'talks/*.mp3'; several recordings
hold the text in the order in which they are given.

The model transcribes the recordings, and its words are matched with the text letter by letter. The piece of each
sentence that was recognised begins and ends in the pauses around it. Then the model scores the sentence on its piece;
if it finds the sentence far less likely than its own transcript of the piece, the piece is left out. So the text may
lack sentences that are said, and have some that are not.

Each line of the text is a sentence. Lines of more than 200 characters are taken for paragraphs and divided at the ends
of their sentences.

DIR/manifest.jsonl has a row for each piece: audio, start, end, duration, text, confidence, and the line of the text. No
audio is copied. DIR/excluded.jsonl has the sentences that were left out, and why."""


@dataclass(frozen=True, kw_only=True)
class AlignOptions(DeviceOptions, ModelOptions):
    """Text, model and output."""

    text: str
    """File with the text (UTF-8), in the order in which it is said."""

    language: str | None = None
    """Language spoken (it, Italian, …). By default the one that the model was fine-tuned on."""

    task: Literal["transcribe", "translate"] = "transcribe"
    """Only `transcribe`: a translation is not what is said in the recording."""

    output: str
    """Folder for manifest.jsonl and excluded.jsonl."""

    confidence: ConfidenceOptions = field(default_factory=ConfidenceOptions, metadata=FLAT)
    search: FallbackOptions = field(default_factory=lambda: FallbackOptions(beam_size=1, best_of=1), metadata=FLAT)

    def check(self) -> None:
        super().check()
        require_used_glossary(self.search, "glossary")
        if self.task != "transcribe":
            raise RecipeError("is translate, but a translation is not what is said in the recording", field="task")


def usage() -> str:
    """The text of --help."""
    return help_text(AlignOptions, USAGE, DESCRIPTION)
