"""The help of `whispertune tune`; its flags are those of the search and the fields of a recipe."""

from __future__ import annotations

from whispertune.run.help_text import help_text
from whispertune.run.recipe import Recipe
from whispertune.tune.options import TuneOptions

USAGE = """whispertune tune [RECIPE.yaml] --output DIR [--trials N] [--minutes N]
                        [--space 'FIELD=VALUE|VALUE|…'] … [--field value …]"""

DESCRIPTION = """Search for better settings: train with different ones, and compare the error rates on valid.

The first trial is the recipe as it is. The settings of later trials are drawn by Optuna (`pip install
'whispertune[tune]'`), first at random, then near those that did well (TPE). Trials that lag behind after an epoch are
stopped early (successive halving). Encoder states are computed once and shared by all trials.

The winner's error rate on valid is too low, because valid chose it. Therefore the winner and the recipe as it is are
trained with two more seeds each at the end, and compared by a paired test.

A setting is a field of a recipe with the values to try; give --space once for each:
  --space 'loss.label_smoothing=0|0.1'
      one of these values
  --space 'epochs=2..6'
      a number in this range; a whole one where the field takes whole numbers
  --space 'optimizer.weight_decay=0.001..0.1 log'
      a number in this range, drawn on a logarithmic scale
  --space 'schedule.peak_lr=0.5x..4x log'
      a multiple of the learning rate that `auto` would take
  --space 'freeze=encoder|auto|lora.rank=32'
      one of these values; a value may set another field instead, or several
      (lora.rank=32&lora.alpha=64); fields that it does not set have their
      defaults

In a recipe, the section `tune` holds the same:
  tune:
    trials: 30
    space:
      loss.label_smoothing: [0, 0.1]
      schedule.peak_lr: 0.5x..4x log

The same command continues a search that was interrupted, or, with more --trials or --minutes, one that had ended. Start
it several times, on one machine or on several that share DIR, and the processes share the trials.

DIR holds best.yaml, which `whispertune train` takes; summary.json; a run folder for each trial (trial-0003), of which
only the best one's keeps its model; confirm/ with the runs of the other seeds; and the journal of the search.
`whispertune report DIR/trial-0000 DIR/trial-0003` compares trials.

`whispertune train --help` lists the other fields of a recipe, which are flags of this command, too."""


def usage() -> str:
    """The text of --help: optional fields of a recipe are left to that of train."""
    return help_text(TuneOptions, USAGE, DESCRIPTION, without=Recipe)
