"""The flags of `whispertune export`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from whispertune.errors import RecipeError
from whispertune.run.flags import help_text

USAGE = """whispertune export --model M --to huggingface|ctranslate2|ggml|openai --output DIR [--field value …]
       … --verify [AUDIO …]   transcribe these clips, or some of --data, with the exported model and with the source"""

DESCRIPTION = """Write a model for what runs Whisper: transformers, faster-whisper, whisper.cpp, openai-whisper.

With --verify the exported model is run in its own program before it is put in place, twice. First in the same
computation as the source: greedy, without timestamps, clips padded with silence. If a transcript differs, both are
shown, nothing is written and the exit status is 1. Then by the program's own defaults, on the clips as they are: what
differs is only reported, with the error rates of both where --data has the texts."""

Format = Literal["huggingface", "ctranslate2", "ggml", "openai"]
Quantization = Literal[
    "float32", "float16", "bfloat16", "int16", "int8", "int8_float32", "int8_float16", "int8_bfloat16"
]
_CHOICES: dict[str, tuple[str, ...]] = {
    "huggingface": ("float32",),
    "ctranslate2": get_args(Quantization),
    "ggml": ("float32", "float16"),
    "openai": ("float32", "float16"),
}


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """One export."""

    model: str
    """Model: a folder, an OpenAI .pt, a Hub id, a run (its best/), or packaged:whisper-base."""

    to: Format
    """What to write: a Hugging Face folder, CTranslate2's (faster-whisper), whisper.cpp's, OpenAI's."""

    output: str
    """Folder to write. An earlier export there is replaced; a folder with anything else in it is refused."""

    quantization: Quantization | None = None
    """How weights are stored, float32 by default. Hugging Face: float32; OpenAI: float32 or float16; ggml: these
    too, but float16 by default, as whisper.cpp 1.5 to 1.8 aborts on float32; CTranslate2: all."""

    max_shard_gb: float | None = None
    """Hugging Face: most gigabytes (of 10^9 bytes) in one file of weights; larger ones are cut into several with an
    index. 50 by default, as in transformers."""

    tokenizer: str | None = None
    """Folder with the tokenizer.json of an OpenAI .pt, which has none of its own."""

    data: str | None = None
    """Manifest to take clips for --verify from, where no audio files are given."""

    clips: int = 8
    """How many clips of --data, spread over it."""

    language: str | None = None
    """Language spoken in the clips, where a row names none and the model was not trained on one."""

    task: Literal["transcribe", "translate"] = "transcribe"
    """What --verify has written down."""

    max_different: float = 0.0
    """Share of the clips whose transcripts --verify lets differ; quantised models need some."""

    def __post_init__(self) -> None:
        choices = _CHOICES[self.to]
        if self.quantization is not None and self.quantization not in choices:
            raise RecipeError(f"is {self.quantization}; {self.to} takes {' or '.join(choices)}", field="quantization")
        if self.max_shard_gb is not None:
            if self.to != "huggingface":
                raise RecipeError(f"max_shard_gb is for --to huggingface; {self.to} keeps its weights in one file")
            if not self.max_shard_gb > 0:
                raise RecipeError(f"is {self.max_shard_gb}; it must be above 0", field="max_shard_gb")
        if self.clips < 1:
            raise RecipeError(f"is {self.clips}; it must be at least 1", field="clips")
        if not 0 <= self.max_different <= 1:
            raise RecipeError(f"is {self.max_different}; it must lie between 0 and 1", field="max_different")

    @property
    def stored(self) -> str:
        """How weights are stored."""
        return self.quantization or ("float16" if self.to == "ggml" else "float32")


def usage() -> str:
    """What --help prints."""
    return help_text(ExportOptions, USAGE, DESCRIPTION)
