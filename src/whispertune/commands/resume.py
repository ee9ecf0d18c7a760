"""whispertune resume: take a run up where it stopped."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

from whispertune.commands import train
from whispertune.errors import RecipeError
from whispertune.run.flags import parse_fields
from whispertune.run.recipe import Recipe
from whispertune.run.resuming import FREE_TO_CHANGE, fields_to_resume
from whispertune.system.console import results
from whispertune.training.run_folder import RunFolder

FLAGS = [f"--{name}" for name in FREE_TO_CHANGE if name != "output"]

DESCRIPTION = f"""Take a run up where it stopped.

whispertune resume RUN [--data.workers N] [--field value …]

RUN is the --output of `whispertune train`. The run ends with the same weights and metrics as if it had never
stopped (on a GPU up to rounding). What it will read is compared with its checksums first. A finished run is left
alone.

--epochs N trains on to more epochs than before, a finished run too, which is then tested again: with schedule.name noam
or constant, and schedule.warmup_steps a number or at its bound. --model, --train, --valid and --test may name another
place of the same content.

These fields decide no result and may have other values than before:
{fill(", ".join(FLAGS), 110, break_on_hyphens=False)}"""


def main(arguments: Sequence[str]) -> int:
    """Run the command line `whispertune resume ARGUMENTS`."""
    if not arguments or any(flag in ("-h", "--help") for flag in arguments):
        results.print(DESCRIPTION)
        return 0 if arguments else 2
    if arguments[0].startswith("-"):
        raise RecipeError("the run folder is missing; see whispertune resume --help")
    folder = RunFolder(Path(arguments[0]))
    fields = fields_to_resume(folder)
    if any(flag.partition("=")[0] == "--output" for flag in arguments):
        raise RecipeError(f"--output: a run goes on where it lies, in {folder.path}; leave --output out")
    recipe = parse_fields(Recipe, fields, arguments[1:], command="resume", where=str(folder.recipe))
    return train.run(dataclasses.replace(recipe, output=str(folder.path)))
