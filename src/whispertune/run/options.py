"""The fields that train, evaluate, transcribe, check and export share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from whispertune.errors import RecipeError
from whispertune.system.fields import Options


@dataclass(frozen=True, kw_only=True)
class LanguageOptions(Options):
    """The language spoken."""

    language: str | None = None
    """Language spoken (it, Italian, …), for rows that name none. Without it, evaluate and export take the language that
    the model was fine-tuned on."""

    language_token: str | None = None
    """Language known to Whisper whose token stands for `language`, if Whisper does not know that one (--language sc
    --language_token it). A model that is trained with it knows its language by either name."""

    def check(self) -> None:
        if self.language_token is not None and self.language is None:
            problem = "is given without language: name the language that borrows it"
            raise RecipeError(problem, field="language_token", others=("language",))


@dataclass(frozen=True, kw_only=True)
class ModelOptions(LanguageOptions):
    """A model and what it is to do."""

    model: str
    """Model: a Hugging Face or CTranslate2 folder, an OpenAI .pt (with a tokenizer.json beside it, or openai-whisper
    installed), a Hub id (openai/whisper-base), a run folder (its best/), a folder with a LoRA adapter of peft, or
    packaged:whisper-base."""

    base: str | None = None
    """Base model of the LoRA adapter that `model` is, if the one that its adapter_config.json names cannot be found."""

    task: Literal["transcribe", "translate"] = "transcribe"
    """Write the language that is spoken, or translate it into English; for rows that name no task."""
