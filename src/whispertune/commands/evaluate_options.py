"""The flags of `whispertune evaluate`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from whispertune.data.options import DataOptions
from whispertune.decoding.options import SearchOptions
from whispertune.errors import RecipeError
from whispertune.features.options import DENSE, FrameOptions
from whispertune.run.flags import help_text
from whispertune.system.options import PrecisionName

USAGE = "whispertune evaluate --model M --data F --language L [--beam-size N] [--output DIR] [--field value …]"

DESCRIPTION = """Decode a manifest with a model and score it against its transcripts.

Decoding is dense (plain Whisper) and bounded by Whisper's own 448 tokens only, as the model will be deployed.
WER and CER lead normalised; raw ones (with case and punctuation) stand below, each with a 95 % bootstrap interval.
What kinds of errors there are, outputs that repeat themselves and the worst clips are named. --baseline M has another
model decoded in the same way, and says whether the difference is more than chance.

Short clips do not show everything: --timestamps true stitches them into windows with known boundaries, --long_form
true into recordings of minutes, and --hallucination true has silence and noise decoded, in which nothing is said."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """One evaluation."""

    model: str
    """Model: a folder, an OpenAI .pt (with a tokenizer.json beside it, or openai-whisper installed), a Hub id, a run
    (its best/), or packaged:whisper-base."""

    baseline: str | None = None
    """Another model to decode in the same way, usually the one before fine-tuning. The difference is told with its
    interval (paired bootstrap)."""

    data: str
    """What to decode: a manifest (CSV, TSV or JSONL) or any corpus that `train` takes."""

    language: str | None = None
    """Language spoken, where a row names none."""

    language_token: str | None = None
    """A language of Whisper's whose token stands for `language`, which Whisper does not know."""

    task: Literal["transcribe", "translate"] = "transcribe"
    """What to write down, where a row names none."""

    beam_size: int = 8
    """Hypotheses kept side by side; 1 is greedy search."""

    length_penalty: float = 1.0
    """Exponent of the length that a hypothesis's log-probability is divided by."""

    frames: FrameOptions = field(default_factory=lambda: DENSE)

    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    precision: PrecisionName = "auto"
    """Of matrix products. auto: bf16 where the hardware multiplies it fast, else fp16 on a GPU, fp32 on a CPU."""

    max_excluded: float = 0.05
    """Share of rows that may be unusable."""

    workers: int = 2
    """Threads that decode audio."""

    empty_text: Literal["exclude", "keep"] = "exclude"
    """Rows without any text: `keep` scores what is written down where nothing is said."""

    merge_segments: float = 0.0
    """Join neighbouring segments of a recording up to so many seconds; 0 leaves them as they are."""

    columns: str | None = None
    """What the columns of a manifest are called, where that is unusual: text=transkript,audio=datei."""

    audio_root: str | None = None
    """The folder that recordings lie in, where that is not the one of the manifest or the subtitles."""

    timestamps: bool = False
    """Decode the clips once more, stitched and with timestamps: how many outputs have valid ones (monotonic, paired,
    inside the audio), and how far they are from the clips' boundaries."""

    long_form: bool = False
    """Transcribe long recordings too, as `whispertune transcribe` does: the data's own where its rows are segments of
    them, else its clips, joined with silences of 0.5 to 4 s into recordings of up to 10 minutes."""

    hallucination: bool = False
    """Decode generated silence and noise, 60 s of each of 5 kinds: words written down there, loops, outputs that ran
    into 448 tokens; loops among the data's own outputs too."""

    seed: int = 0
    """Of what these stitch and generate."""

    output: str | None = None
    """Folder for hypotheses.jsonl, summary.json, and excluded.jsonl: every row that was left out, and why."""

    def __post_init__(self) -> None:
        if self.language_token is not None and self.language is None:
            raise RecipeError("language_token is given without language: name the language that borrows it")
        if self.seed < 0:
            raise RecipeError(f"is {self.seed}; it must be at least 0", field="seed")
        try:
            self.search, self.reading  # noqa: B018 - built to have their ranges checked
        except RecipeError as error:  # here they are no sections
            raise RecipeError(error.problem, field=error.field and error.field.rpartition(".")[2]) from None

    @property
    def search(self) -> SearchOptions:
        return SearchOptions(beam_size=self.beam_size, length_penalty=self.length_penalty)

    @property
    def reading(self) -> DataOptions:
        return DataOptions(
            max_excluded=self.max_excluded,
            workers=self.workers,
            empty_text=self.empty_text,
            merge_segments=self.merge_segments,
            columns=self.columns,
            audio_root=self.audio_root,
        )


def usage() -> str:
    """What --help prints."""
    return help_text(EvaluateOptions, USAGE, DESCRIPTION)
