"""The help of `whispertune tune`; its flags are those of the search and the fields of a recipe."""

from __future__ import annotations

from whispertune.run.flags import help_text
from whispertune.tune.options import TuneOptions

USAGE = """whispertune tune [RECIPE.yaml] [--trials N] [--minutes N] [--space 'FIELD=VALUE|VALUE|…'] …
                        [--field value …] --output DIR"""

DESCRIPTION = """Search for better settings: train many times with different ones, and compare the error rates on valid.

The first trial is the recipe as it is. Settings of later ones are drawn by Optuna (`pip install 'whispertune[tune]'`),
at random at first, then near those that did well (TPE). Trials that lag behind after an epoch are ended early
(successive halving). Encoder states are encoded once and shared. As valid chooses the winner, its figure is too good;
therefore the winner and the recipe as it is are trained with two more seeds at the end, and compared by a paired test.

A setting is a field of a recipe with the values to try; give --space once for each:
  --space 'loss.label_smoothing=0|0.1'          one of these values
  --space 'epochs=2..6'                         a number between, whole where the field takes whole numbers
  --space 'optimizer.weight_decay=0.001..0.1 log'   drawn on a logarithmic scale
  --space 'schedule.peak_lr=0.5x..4x log'       multiples of the rate that auto takes, which is higher for LoRA
  --space 'freeze=encoder|auto|lora.rank=32'    a value may set another field instead, or several: rank and alpha as in
                                                lora.rank=32&lora.alpha=64; the others then take their defaults
In a recipe, the section `tune` holds the same:
  tune:
    trials: 30
    space:
      loss.label_smoothing: [0, 0.1]
      schedule.peak_lr: 0.5x..4x log

The same command again goes on with a search that was interrupted, and with more --trials or --minutes one that was not.
Start it several times, on one machine or on several with a common folder, and the processes share the trials.

DIR holds best.yaml, which `whispertune train` takes; summary.json; a run folder for each trial (trial-0003), without
models but the best trial's; confirm/ with the runs of other seeds; and the journal of the search.
`whispertune report DIR/trial-0000 DIR/trial-0003` compares trials."""


def usage() -> str:
    """The text of --help."""
    return help_text(TuneOptions, USAGE, DESCRIPTION)
