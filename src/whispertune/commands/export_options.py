"""The flags of `whispertune export`."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from whispertune.errors import RecipeError
from whispertune.run.flags import takes
from whispertune.run.help_text import help_text
from whispertune.run.options import CardOptions, ModelOptions
from whispertune.system.fields import Bounds, PositiveInt, Share

USAGE = """whispertune export --model M --output DIR
                          --to huggingface|ctranslate2|ggml|openai|peft
                          [--verify [AUDIO …]] [--field value …]
       whispertune export --model M --to hub:USER/NAME [--public]
                          [--license L] [--dry_run]"""
HUB = "hub:"

DESCRIPTION = """Convert a model for other programs, or upload it to the Hugging Face Hub.

The programs are transformers, faster-whisper, whisper.cpp and openai-whisper. --to peft writes the LoRA adapter of a
run alone.

--to hub:USER/NAME uploads a Hugging Face folder with its model card to the Hugging Face Hub, into a private repository
unless --public is given, with the token of `hf auth login` or HF_TOKEN. An earlier export there is replaced in one
commit; a repository that holds anything else is refused.

--verify transcribes some clips (AUDIO, or --clips of --data) with the exported model in the program that it is for,
twice, before the model is put in place. The first time with the settings that the source model is run with: greedy
search, no timestamps, clips padded with silence. If more transcripts differ than --max_different allows, they are
shown, nothing is written, and the exit status is 1. The second time with the program's own defaults, on the clips as
they are; here differences are only reported, with the error rates of both if --data has the texts."""

Format = Literal["huggingface", "ctranslate2", "ggml", "openai", "peft"]
Quantization = Literal[
    "float32", "float16", "bfloat16", "int16", "int8", "int8_float32", "int8_float16", "int8_bfloat16"
]
_CHOICES: dict[str, tuple[str, ...]] = {
    "huggingface": ("float32",),
    "ctranslate2": get_args(Quantization),
    "ggml": ("float32", "float16"),
    "openai": ("float32", "float16"),
    "peft": ("float32",),
}


@dataclass(frozen=True, kw_only=True)
class ExportOptions(ModelOptions):
    """Model and format."""

    to: Format | str
    """Format to write: a Hugging Face folder, CTranslate2 (faster-whisper), ggml (whisper.cpp), OpenAI's .pt, or a LoRA
    adapter as peft loads it (--base then sets the name of its base model). hub:USER/NAME uploads a Hugging Face folder
    to the Hub."""

    output: str | None = None
    """Folder to write; required, except for hub:. An earlier export there is replaced; a folder that holds anything
    else is refused."""

    public: bool = False
    """For hub: let everyone read the repository, not only you or your organisation."""

    license: str | None = None
    """For hub: the model's licence in the card, as the Hub names it (apache-2.0, cc-by-4.0, other, …), instead of the
    one that the run was given (card.license)."""

    dry_run: bool = False
    """For hub: show the files, their sizes and the card, without a token, a network or an upload."""

    quantization: Quantization | None = None
    """How weights are stored. Hugging Face and peft take float32; OpenAI float32 (the default) or float16; ggml the
    same, but float16 by default, since whisper.cpp 1.5 to 1.8 aborts on float32; CTranslate2 all of these, float32 by
    default."""

    max_shard_gb: Annotated[float | None, Bounds(gt=0)] = None
    """Maximum size of one weight file of a Hugging Face folder in GB (10^9 bytes); larger models are split into several
    files with an index. 50 by default, as in transformers."""

    tokenizer: str | None = None
    """Folder with a tokenizer.json, for an OpenAI .pt, which has none."""

    data: str | None = None
    """Manifest to take clips for --verify from, instead of naming audio files."""

    clips: PositiveInt = 8
    """Number of clips to take from --data, evenly spread over it."""

    max_different: Share = 0.0
    """Share of the clips whose transcripts may differ in --verify. Quantized models need a tolerance: int8 changes some
    transcripts."""

    def check(self) -> None:
        super().check()
        if self.repository is None:
            if self.to not in _CHOICES:
                problem = f"is {self.to!r}; it takes {takes(Format).replace(' or ', ', ')} or hub:USER/NAME"
                raise RecipeError(problem, field="to")
            if not (self.output or "").strip():
                raise RecipeError("--output is missing; see whispertune export --help")
            for name in ("public", "license", "dry_run"):
                if getattr(self, name) != getattr(ExportOptions, name):
                    raise RecipeError("is only for --to hub:USER/NAME", field=name)
        else:
            _check_repository_name(self.repository)
            if self.output is not None:
                raise RecipeError("is for the other formats; hub: uploads without keeping a folder", field="output")
            CardOptions(license=self.license)
        choices = _CHOICES[self.format]
        if self.quantization is not None and self.quantization not in choices:
            raise RecipeError(f"is {self.quantization}; {self.to} takes {' or '.join(choices)}", field="quantization")
        if self.max_shard_gb is not None and self.format != "huggingface":
            raise RecipeError(f"is for --to huggingface; {self.to} keeps its weights in one file", field="max_shard_gb")

    @property
    def repository(self) -> str | None:
        """USER/NAME on the Hub to upload to, if any."""
        return self.to.removeprefix(HUB) if self.to.startswith(HUB) else None

    @property
    def format(self) -> str:
        """The format that is written; what the Hub gets is a Hugging Face folder."""
        return self.to if self.repository is None else "huggingface"

    @property
    def stored(self) -> str:
        """How weights are stored."""
        return self.quantization or ("float16" if self.to == "ggml" else "float32")


def _check_repository_name(name: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    with suppress(HFValidationError):
        validate_repo_id(name)
        if "/" in name:
            return
    problem = f"is {HUB}{name}; it takes hub:USER/NAME, the name of at most 96 letters, digits, '-', '_' and '.'"
    raise RecipeError(problem, field="to")


def usage() -> str:
    """The text of --help."""
    return help_text(ExportOptions, USAGE, DESCRIPTION)
