"""whispertune resume: take a run up where it stopped."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

from whispertune.commands import train
from whispertune.console import results
from whispertune.errors import RecipeError, RunFolderError
from whispertune.flags import load_yaml, parse_fields
from whispertune.recipe import Recipe
from whispertune.run_folder import RunFolder

FLAGS = [f"--{name}" for name in train.FREE_TO_CHANGE if name != "output"]

DESCRIPTION = f"""Take a run up where it stopped.

whispertune resume RUN [--data.workers N] [--field value …]

RUN is the --output of `whispertune train`. The run ends with the same weights and metrics as if it had never
stopped (on a GPU up to rounding). A finished run is left alone.

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
    if not folder.recipe.exists():
        raise RunFolderError(f"{folder.path}: no run here (no recipe.yaml); name the --output of a train command")
    if any(flag.partition("=")[0] == "--output" for flag in arguments):
        raise RecipeError(f"--output: a run goes on where it lies, in {folder.path}; leave --output out")
    recipe = parse_fields(Recipe, load_yaml(folder.recipe), arguments[1:], command="resume", where=str(folder.recipe))
    return train.run(dataclasses.replace(recipe, output=str(folder.path)))
