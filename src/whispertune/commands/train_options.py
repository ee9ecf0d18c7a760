"""The help of `whispertune train`; its flags are the fields of a recipe."""

from __future__ import annotations

from whispertune.run.flags import help_text
from whispertune.run.recipe import Recipe

USAGE = """whispertune train [RECIPE.yaml] --model M --train F --valid F [--test F] --language L --output RUN
                         [--field value …]"""

DESCRIPTION = """Fine-tune a pretrained Whisper model on your own speech.

  M  a Hugging Face or CTranslate2 folder, an OpenAI .pt (with a tokenizer.json beside it, or openai-whisper
     installed), a Hub id (openai/whisper-base), another run's folder, or packaged:whisper-base (the weights of the
     `demo` extra)
  F  a CSV, TSV or JSONL manifest with columns `audio` and `text`; a folder of Common Voice, LibriSpeech, Kaldi,
     audiofolder, saved `datasets`, or recordings with .txt, .srt, .vtt, .TextGrid or .eaf beside them;
     'talks [tier=utterance speaker=participant]' (of Praat and ELAN); lhotse cuts;
     shards-{000..010}.tar; hub:NAME (on the Hub); several of these as 'A [language=it weight=2] + B [split=dev]'

Every flag below is also a field of the recipe; flags override RECIPE.yaml. Relative paths in a recipe are looked up in
the working folder, then in the folder of RECIPE.yaml. --print_config prints the effective recipe and exits. To continue
a run that was interrupted, give the same command again or use `whispertune resume RUN`."""


def usage() -> str:
    """The text of --help."""
    return help_text(Recipe, USAGE, DESCRIPTION)
