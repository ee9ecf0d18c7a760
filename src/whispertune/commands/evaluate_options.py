"""The flags of `whispertune evaluate`."""

from __future__ import annotations

from dataclasses import dataclass, field

from whispertune.data.options import DataOptions
from whispertune.decoding.options import SearchOptions
from whispertune.features.options import DENSE, FrameOptions
from whispertune.run.help_text import help_text
from whispertune.run.options import ModelOptions
from whispertune.system.fields import FLAT, Seed
from whispertune.system.options import DeviceOptions, SharingOptions

USAGE = """whispertune evaluate --model M --data F [--language L] [--beam_size N]
                            [--output DIR] [--field value …]"""

DESCRIPTION = """Decode data with a model and score the output against the transcripts.

Decoding is dense (plain Whisper) and limited only by Whisper's own 448 tokens, as the model will be deployed. WER and
CER are normalised; below them stand the raw ones (with case and punctuation), each with a 95 % bootstrap interval. The
report also shows the kinds of errors, outputs that repeat themselves, the worst clips, and the rates by source and by
language where there are several. --baseline M decodes with another model in the same way and reports whether the
difference is significant; --glossary F reports how many of the words that matter to you were recognised.

Short clips do not show everything: --timestamps true stitches them into windows with known boundaries, --long_form
true into recordings of several minutes, and --hallucination true decodes silence and noise, for which nothing should be
written."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(DeviceOptions, ModelOptions):
    """Model, data and what is measured."""

    data: str
    """Data to decode: a manifest (CSV, TSV or JSONL), or any other data that `train` reads."""

    output: str | None = None
    """Folder for hypotheses.jsonl, summary.json and excluded.jsonl (every row that was left out, and why)."""

    baseline: str | None = None
    """Another model to decode in the same way, usually the one before fine-tuning. The difference is reported with its
    interval (matched pairs)."""

    timestamps: bool = False
    """Decode the clips once more, stitched together and with timestamps: report how many outputs have valid ones
    (monotonic, paired, inside the audio), and how far they are from the clips' boundaries."""

    long_form: bool = False
    """Transcribe long recordings too, as `whispertune transcribe` does: the data's own if its rows are segments of
    some, otherwise its clips, joined with silences of 0.5 to 4 s into recordings of up to 10 minutes."""

    hallucination: bool = False
    """Decode generated silence and noise, 60 s of each of 5 kinds: report words written there, loops, and outputs that
    reach 448 tokens; and loops among the outputs for the data."""

    seed: Seed = 0
    """Random seed for stitching clips and generating silence and noise."""

    search: SearchOptions = field(default_factory=SearchOptions, metadata=FLAT)
    reading: DataOptions = field(default_factory=DataOptions, metadata=FLAT)
    frames: FrameOptions = field(default_factory=lambda: DENSE)
    processes: SharingOptions = field(default_factory=SharingOptions)


def usage() -> str:
    """The text of --help."""
    return help_text(EvaluateOptions, USAGE, DESCRIPTION)
