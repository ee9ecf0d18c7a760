"""The flags of `whispertune align`."""

from __future__ import annotations

from dataclasses import dataclass, field

from whispertune.align.options import ConfidenceOptions
from whispertune.decoding.options import FallbackOptions, require_used_glossary
from whispertune.errors import RecipeError
from whispertune.run.flags import help_text
from whispertune.run.options import ModelOptions
from whispertune.system.fields import FLAT
from whispertune.system.options import DeviceOptions

USAGE = """whispertune align AUDIO … --text F --model M [--language L] --output DIR [--field value …]
       AUDIO is a file, a folder or a pattern, as for transcribe; several recordings hold the text in this order"""

DESCRIPTION = """Find the times of a plain text in long recordings, and cut them into pieces to train on.

The model transcribes the recordings, its words are matched with the text letter by letter, and each sentence that was
heard is cut out at the pauses around it. Then the decoder reads the sentence to the piece: where it is far less likely
than what was heard, the piece is left out. So the text may lack sentences that are said, and have some that are not.

A line of the text is a sentence; one of more than 200 characters is a paragraph, and cut at its full stops.

DIR/manifest.jsonl has a row for each piece: audio, start, end, duration, text, confidence, and the line of the text.
DIR/excluded.jsonl has the sentences that were left out, and why."""


@dataclass(frozen=True, kw_only=True)
class AlignOptions(DeviceOptions, ModelOptions):
    """Text, model and output."""

    text: str
    """File with the text (UTF-8), in the order in which it is said."""

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
