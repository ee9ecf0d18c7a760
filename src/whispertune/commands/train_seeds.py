"""`train --seeds`: a run for each seed, in one folder, and a page that compares them."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from rich.table import Table

from whispertune.errors import RecipeError, RunFolderError
from whispertune.report.comparison import Comparison, compare
from whispertune.report.rendering import require_replaceable
from whispertune.report.runs import read_run, seed_folders
from whispertune.run.recipe import Recipe, from_recipes_folder, to_yaml
from whispertune.run.run_folder import RunFolder
from whispertune.run.yaml_fields import load_yaml
from whispertune.system.console import console, results, wrapped
from whispertune.system.files import make_writable, write_text
from whispertune.system.processes import were_launched


def run_seeds(recipe: Recipe, run: Callable[[Recipe], int]) -> int:
    """Train with each seed, or take up what was interrupted; returns the exit status of the first run that fails.

    Encoder states on disk are encoded by the first run and read by the others. run: trains one.
    """
    if were_launched():
        raise RecipeError("trains in one process; start it without torchrun or accelerate launch", field="seeds")
    output = RunFolder(Path(recipe.output))
    _claim(output)
    write_text(output.recipe, to_yaml(recipe))
    for place, seed in enumerate(recipe.each_seed):
        folder = output.path / f"seed-{seed}"
        console.print(f"seed      {seed}, {place + 1} of {len(recipe.each_seed)}: {folder}")
        status = run(replace(recipe, seeds=None, seed=seed, output=str(folder)))
        if status:
            console.print(f"to go on with all seeds: {output.resume_command}")
            return status
    compared = compare([read_run(folder) for folder in seed_folders(output.path)])
    _print(compared)
    if recipe.report:
        require_replaceable(output.report)
        write_text(output.report, compared.page())
        results.print(f"report: {output.report}")
    results.print(f"next:  {shlex.join(['whispertune', 'report', str(output.path), '--format', 'md'])}")
    return 0


def _claim(output: RunFolder) -> None:
    """Refuse a folder that holds anything else than runs of several seeds."""
    make_writable(output.path)
    found = [path for path in output.path.iterdir() if not path.name.startswith(".")]
    seeds = output.recipe.is_file() and from_recipes_folder(load_yaml(output.recipe), output.recipe).get("seeds")
    if found and not seeds:
        raise RunFolderError(
            f"--output {output.path} is neither empty nor holds runs of --seeds; choose another folder"
        )


def _print(compared: Comparison) -> None:
    results.print("\n".join(wrapped(compared.opening)))
    (runs,) = (table for table in compared.tables if table.title == "Runs")
    table = Table(box=None, padding=(0, 2), pad_edge=False, collapse_padding=True)
    shown = [1, 2, 3, 4, 5]
    for place in shown:
        table.add_column(runs.headings[place], justify="right")
    for row in runs.rows:
        table.add_row(*(row[place] for place in shown))
    results.print(table)
