"""The fields that train, evaluate, transcribe, check and export share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from whispertune.errors import RecipeError
from whispertune.system.fields import Options


@dataclass(frozen=True, kw_only=True)
class LanguageOptions(Options):
    """The language spoken."""

    language: str | None = None
    """Language spoken (it, Italian, …), for rows that name none."""

    language_token: str | None = None
    """Language known to Whisper whose token stands for `language`, if Whisper does not know that one (--language sc
    --language_token it). A model that was trained with it knows its language by either name."""

    def check(self) -> None:
        if self.language_token is not None and self.language is None:
            problem = "is given without language: name the language that borrows it"
            raise RecipeError(problem, field="language_token", others=("language",))


@dataclass(frozen=True, kw_only=True)
class CardOptions(Options):
    """The model card, the README of best/."""

    license: str | None = None
    """Licence of the fine-tuned model, as the Hugging Face Hub names it (apache-2.0, cc-by-4.0, other, …)."""

    data_license: str | None = None
    """Licence of the training data, in any words."""

    def check(self) -> None:
        if self.license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", self.license):
            problem = f"is {self.license!r}; it takes an identifier of the Hub, such as apache-2.0 or other"
            raise RecipeError(problem, field="license")


@dataclass(frozen=True, kw_only=True)
class ModelOptions(LanguageOptions):
    """A model and what it is to do."""

    model: str
    """Model: a Hub id (openai/whisper-base), a run folder (its best/), a Hugging Face or CTranslate2 folder, an OpenAI
    .pt (with a tokenizer.json beside it, or openai-whisper installed), a folder with a LoRA adapter of peft, or
    packaged:whisper-base (the weights of the `demo` extra)."""

    language: str | None = None
    """Language spoken (it, Italian, …), for rows that name none. By default the one that the model was fine-tuned
    on."""

    base: str | None = None
    """Base model of the LoRA adapter that `model` is, if the one that its adapter_config.json names cannot be found."""

    task: Literal["transcribe", "translate"] = "transcribe"
    """Write what is said in its own language (`transcribe`), or in English (`translate`); for rows that name no
    task."""
