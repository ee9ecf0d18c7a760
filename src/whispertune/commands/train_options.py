"""The help of `whispertune train`; its flags are the fields of a recipe."""

from __future__ import annotations

from whispertune.run.help_text import help_text
from whispertune.run.recipe import Recipe

USAGE = """whispertune train [RECIPE.yaml] --model M --train F --valid F [--test F]
                         --language L --output RUN [--field value …]"""

DESCRIPTION = """Fine-tune a pretrained Whisper model on your own speech.

M is described below (--model). F is one of these (docs/data.md has more):
  calls.csv               a CSV, TSV or JSONL with columns `audio` and `text`
  recordings/             recordings with .txt, .srt, .vtt, .TextGrid or .eaf
                          beside them; 'talks [tier=utterance]' names the tier
  cv-corpus/it            a folder of Common Voice, LibriSpeech, Kaldi,
                          audiofolder or saved `datasets`
  cuts.jsonl.gz           cuts of lhotse
  shards-{000..010}.tar   WebDataset
  hub:NAME                a data set on the Hugging Face Hub
  'A [language=it weight=2] + B [split=dev]'   several of them

Every flag below is also a field of the recipe; flags override RECIPE.yaml. Relative paths in a recipe are looked up in
the working folder, then in the folder of RECIPE.yaml. --print_config prints the effective recipe and exits. To continue
a run that was interrupted, give the same command again or use `whispertune resume RUN`."""


def usage() -> str:
    """The text of --help."""
    return help_text(Recipe, USAGE, DESCRIPTION)
