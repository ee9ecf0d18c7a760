"""whispertune tune: search for better settings."""

from __future__ import annotations

import dataclasses
import importlib.util
import shlex
from collections.abc import Sequence
from pathlib import Path

from whispertune.checkpoints.checkpoint import load_checkpoint
from whispertune.commands.train import run
from whispertune.errors import Interrupted, RecipeError, RunFolderError
from whispertune.run.flags import parse_fields
from whispertune.run.recipe import FREE_TO_CHANGE, differing_fields, from_recipes_folder, to_yaml
from whispertune.run.yaml_fields import load_yaml
from whispertune.system.console import console
from whispertune.system.files import make_writable, write_text
from whispertune.system.processes import were_launched
from whispertune.tune.options import TuneOptions, without_section
from whispertune.tune.space import Space

MAY_DIFFER = (*FREE_TO_CHANGE, "device", "trials", "minutes")
"""Fields in which the processes that share a search, or take it up again, may differ."""


def main(arguments: Sequence[str]) -> int:
    """Run the command line `whispertune tune ARGUMENTS`."""
    flags, fields, where = list(arguments), {}, "recipe"
    if flags and not flags[0].startswith("-"):
        where, *flags = flags
        fields = from_recipes_folder(without_section(load_yaml(Path(where))), Path(where))
    options = parse_fields(TuneOptions, fields, flags, command="tune", where=where)
    if importlib.util.find_spec("optuna") is None:
        raise RecipeError("tune needs Optuna: pip install 'whispertune[tune]'")
    if were_launched():
        problem = "tune trains in one process; start it without torchrun or accelerate launch, once for each GPU"
        raise RecipeError(problem)
    from whispertune.tune.confirmation import conclude  # imports Optuna
    from whispertune.tune.search import Search

    recipe, path = options.recipe, Path(options.output)
    _claim(path)
    width = load_checkpoint(recipe.model, base=recipe.base).config.d_model
    space = Space(recipe, options.space, width)
    again = shlex.join(["whispertune", "tune", *arguments])
    search = Search(path, space, run, options)
    with search.locked():
        _require_same(options, space, path / "search.yaml")
    console.print("\n".join(f"space     {text}" for text in space.texts))
    try:
        search.run()
        conclude(search, run, f"next:  {shlex.join(['whispertune', 'train', str(path / 'best.yaml')])}")
    except Interrupted:
        console.print(f"to go on with the search: {again}")
        return Interrupted.exit_status
    return 0


def _claim(path: Path) -> None:
    """Refuse a folder that holds anything else than a search."""
    make_writable(path)
    found = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
    if found and not (path / "search.yaml").is_file() and not (path / "journal.log").is_file():
        raise RunFolderError(f"--output {path} is neither empty nor holds a search; choose another folder")


def _require_same(options: TuneOptions, space: Space, kept: Path) -> None:
    """Keep what is searched, or refuse to go on with a search of something else."""
    searched = dataclasses.replace(options, space=tuple(space.texts))
    if not kept.is_file():
        write_text(kept, to_yaml(searched))
        return
    before = parse_fields(TuneOptions, load_yaml(kept), [], command="tune", where=str(kept))
    different = differing_fields(searched, before, ignored=MAY_DIFFER)
    if different:
        raise RunFolderError(
            f"--output {kept.parent} holds a search of another recipe or space: {'; '.join(different)}; choose another "
            "folder, or restore what was changed"
        )
