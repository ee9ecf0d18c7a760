"""whispertune resume: take a run up where it stopped."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from whispertune.commands import train
from whispertune.errors import RecipeError
from whispertune.run.flags import parse_fields
from whispertune.run.recipe import Recipe
from whispertune.run.resuming import fields_to_resume
from whispertune.run.run_folder import RunFolder


def main(arguments: Sequence[str]) -> int:
    """Run the command line `whispertune resume ARGUMENTS`."""
    if not arguments or arguments[0].startswith("-"):
        raise RecipeError("the run folder is missing; see whispertune resume --help")
    folder = RunFolder(Path(arguments[0]))
    fields = fields_to_resume(folder)
    if any(flag.partition("=")[0] == "--output" for flag in arguments):
        raise RecipeError(f"--output: a run continues in its own folder, {folder.path}; omit --output")
    recipe = parse_fields(Recipe, fields, arguments[1:], command="resume", where=str(folder.recipe))
    return train.run(dataclasses.replace(recipe, output=str(folder.path)))
