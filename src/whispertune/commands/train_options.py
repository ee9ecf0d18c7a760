"""The help of `whispertune train`; its flags are the fields of a recipe."""

from __future__ import annotations

from whispertune.run.flags import help_text
from whispertune.run.recipe import Recipe

USAGE = """whispertune train [RECIPE.yaml] --model M --train F --valid F [--test F] --language L --output RUN
                         [--field value …]"""

DESCRIPTION = """Fine-tune a pretrained Whisper on your own speech.

  M  a Hugging Face or CTranslate2 folder, an OpenAI .pt (with a tokenizer.json beside it, or openai-whisper
     installed), a Hub id (openai/whisper-base), another run's folder, or packaged:whisper-base (the weights of the
     `demo` extra)
  F  a CSV, TSV or JSONL manifest with columns `audio` and `text`; a folder of Common Voice, LibriSpeech, Kaldi,
     audiofolder, saved `datasets`, or recordings beside .txt, .srt or .vtt; lhotse cuts; shards-{000..010}.tar;
     hub:NAME (of the Hub); several as 'A [language=it weight=2] + B [split=dev]'

Every flag below is a field of the recipe too; flags win over RECIPE.yaml. Relative paths in it are looked for in the
working folder, then in the folder of RECIPE.yaml. --print_config prints the effective recipe and stops. A run that
was killed goes on with the same command, or with `whispertune resume RUN`."""


def usage() -> str:
    """What --help prints."""
    return help_text(Recipe, USAGE, DESCRIPTION)
