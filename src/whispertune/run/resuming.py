"""Resuming a run: its folder is as the run left it, and the recipe is that of this very run, or more epochs of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whispertune.checkpoints.checksums import CHECKSUMS, read_about, require_unchanged
from whispertune.errors import CheckpointError, RecipeError, RunFolderError
from whispertune.run.encoder_states import auto_views
from whispertune.run.flags import parse_fields
from whispertune.run.recipe import FREE_TO_CHANGE, Recipe, differing_fields, from_recipes_folder, to_mapping
from whispertune.run.run_folder import BEST, RunFolder
from whispertune.run.session import Session
from whispertune.run.yaml_fields import flatten, load_yaml
from whispertune.system.console import console
from whispertune.system.counts import counted
from whispertune.system.files import sha256_of
from whispertune.training.metrics import MetricsFile
from whispertune.training.plan import total_steps
from whispertune.training.resume import Progress, read_progress, require_whole_state
from whispertune.training.schedule import build_schedule

MAY_MOVE = ("model", "train", "valid", "test")
"""Fields whose content decides, not the path: it is compared with that at the start of the run (sha256)."""


def as_it_began(recipe: Recipe, digests: Mapping[str, str], precision: str, processes: int) -> dict[str, Any]:
    """`Progress.began`: what a resume compares with. digests: sha256 of the model and of each split."""
    fields = flatten(to_mapping(recipe))
    decisive = {name: value for name, value in fields.items() if name not in (*FREE_TO_CHANGE, *MAY_MOVE, "epochs")}
    known_by = json.dumps([decisive, dict(digests), precision, processes], sort_keys=True)
    return {
        "recipe": fields,
        "sha256": dict(digests),
        "precision": precision,
        "processes": processes,
        "run": hashlib.sha256(known_by.encode()).hexdigest(),
    }


def recorded_recipe(folder: RunFolder, progress: Progress | None) -> Recipe | None:
    """The recipe of the run in a folder, or None if none has started there.

    Raises:
        RecipeError: if there is only a recipe.yaml, and it cannot be read.
    """
    if progress is not None and (kept := progress.began.get("recipe")):
        return _parsed(kept, folder.state)
    if folder.has_begun() and folder.recipe.exists():
        return _parsed(load_yaml(folder.recipe), folder.recipe)
    return None


def _parsed(fields: Mapping[str, Any], where: Path) -> Recipe:
    return parse_fields(Recipe, fields, [], command="train", where=str(where))


def fields_to_resume(folder: RunFolder) -> dict[str, Any]:
    """The fields of a run that is to be resumed: of its recipe.yaml or, where that is damaged, of its state.

    Raises:
        RunFolderError: if there is no run.
        RecipeError: if neither can be read.
    """
    began = read_progress(folder.state).began if folder.state.exists() else {}
    if not folder.recipe.exists() and not began:
        raise RunFolderError(f"{folder.path}: no run here (no recipe.yaml); name the --output of a train command")
    try:
        fields = from_recipes_folder(load_yaml(folder.recipe), folder.recipe)
        _parsed(fields, folder.recipe)
    except RecipeError as error:
        if not began:
            raise
        console.print(f"recipe    {error}; the one in {folder.state} is taken instead", style="yellow")
        return dict(began["recipe"])
    return fields


def require_same_run(recipe: Recipe, folder: RunFolder, progress: Progress | None) -> Recipe | None:
    """The recipe that the folder's run was started with, if there is one; another recipe is refused.

    Raises:
        RunFolderError: naming the fields in which the folder's recipe differs, or why it cannot have more epochs.
    """
    theirs = recorded_recipe(folder, progress)
    if theirs is None:
        return None
    free = [*FREE_TO_CHANGE, *(n for n in MAY_MOVE if None not in (getattr(recipe, n), getattr(theirs, n)))]
    different = differing_fields(recipe, theirs, ignored=[*free, *(["epochs"] if is_longer(recipe, theirs) else [])])
    listed = ", ".join(different[:6])
    if different and progress is not None and progress.began and _is_edited(folder, theirs):
        raise RunFolderError(
            f"{folder.recipe}: is not that of the run in this folder (now, at its start): {listed}; put these values "
            "back, or choose another --output"
        )
    if different:
        raise RunFolderError(
            f"--output {folder.path} holds a run of another recipe (asked, there): {listed}; choose another folder"
        )
    if is_longer(recipe, theirs) and progress is not None:
        schedule = recipe.schedule.name
        if schedule not in ("noam", "constant"):
            raise _not_longer(
                recipe, theirs, folder, f"schedule.name is {schedule}, whose rates follow from the length of the run"
            )
        if theirs.max_steps is not None and progress.trained:
            raise _not_longer(recipe, theirs, folder, "it ended by max_steps, within an epoch")
    return theirs


def is_longer(recipe: Recipe, theirs: Recipe | None) -> bool:
    """Whether more epochs are requested than at the start of the run."""
    return theirs is not None and recipe.epochs > theirs.epochs


def _not_longer(recipe: Recipe, theirs: Recipe, folder: RunFolder, reason: str) -> RunFolderError:
    return RunFolderError(
        f"{folder.path}: epochs {recipe.epochs} where the run started with {theirs.epochs}: {reason}; start a new run "
        f"from its model instead (--model {folder.path}, another --output)"
    )


def lengthen(session: Session, theirs: Recipe) -> None:
    """Extend a run, even a finished one, to the recipe's number of epochs.

    Raises:
        RunFolderError: if something that was derived from the run's length would now be different.
    """
    recipe, folder, progress = session.recipe, session.folder, session.progress

    def warmup(epochs: int) -> int:
        total = total_steps(len(session.train.windows), progress.batches, epochs, recipe.max_steps)
        return build_schedule(recipe.schedule, d_model=1, total_steps=total).warmup_steps

    before, now = warmup(theirs.epochs), warmup(recipe.epochs)
    if before != now:
        raise _not_longer(
            recipe, theirs, folder,
            f"schedule.warmup_steps is auto, which was {counted(before, 'update')} and would now be {now}",
        )  # fmt: skip
    if progress.views is not None and auto_views(session, recipe.epochs) != auto_views(session, theirs.epochs):
        raise _not_longer(recipe, theirs, folder, "augment.views is auto, which follows from the length of the run")
    console.print(f"resuming  {counted(recipe.epochs, 'epoch')}, where the run started with {theirs.epochs}")
    if progress.trained and progress.best_step == 0 and progress.best_rate is not None:
        # best/ held the untouched model at the end; the epochs to come are compared with the best one before.
        rows = [row for row in session.log.evaluations if row.split == "valid" and row.model != "baseline"]
        best = [row for row in rows if row.leading_rate == progress.best_rate][-1]
        progress.best_step, progress.best_epoch, progress.best_model = best.step, best.epoch, best.model
    progress.trained = progress.finished = False
    progress.since_best = progress.averaged = 0
    tested = f"{folder.name_of(folder.test)}/"
    progress.kept = {name: digest for name, digest in progress.kept.items() if not name.startswith(tested)}


def _is_edited(folder: RunFolder, theirs: Recipe) -> bool:
    """Whether recipe.yaml has changed since the start of the run."""
    try:
        now = _parsed(load_yaml(folder.recipe), folder.recipe)
    except RecipeError:
        return False
    return bool(differing_fields(now, theirs, ignored=(*FREE_TO_CHANGE, *MAY_MOVE)))


def require_intact(folder: RunFolder, progress: Progress | None) -> None:
    """Compare everything that the rest of a run will read with its checksums, before anything is computed.

    Raises:
        RunFolderError: saying what is lost, and what to do.
    """
    if progress is None:
        if folder.has_begun():
            console.print(f"states    no {folder.name_of(folder.state)} here: the run starts anew", style="yellow")
        return
    require_whole_state(folder.state)
    if not progress.began:
        return  # of an older version, which kept no checksums
    _require_metrics(folder, progress)
    for name, digest in progress.kept.items():
        if name == BEST:
            _require_best(folder, progress, digest)
        elif (problem := _problem(folder.path / name, digest)) is not None:
            raise _lost(folder, f"{folder.path / name}: {problem}, so that its transcripts and scores are lost")
    _report_environment(folder, progress)


def _lost(folder: RunFolder, what: str) -> RunFolderError:
    way_on = f"restore it from a copy, or remove {folder.state} to start this run anew"
    if folder.best.is_dir():
        way_on += f" (the best model so far is in {folder.best}: copy it away first)"
    return RunFolderError(f"{what}; {way_on}")


def _problem(path: Path, digest: str) -> str | None:
    """Description of the fault in a file of this sha256; None if there is none."""
    try:
        found = sha256_of(path)
    except FileNotFoundError:
        return "is gone"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None if found == digest else "is not as it was written (cut short, overwritten or edited)"


def _require_metrics(folder: RunFolder, progress: Progress) -> None:
    size = progress.metrics_size
    if not size:
        return
    path, problem = folder.metrics, None
    try:
        with path.open("rb") as file:
            content = file.read(size)
        if len(content) < size:
            problem = f"is cut short ({len(content)} of {size} bytes)"
        elif hashlib.sha256(content).hexdigest() != progress.metrics_sha256:
            problem = "is not as it was written (overwritten or edited)"
    except FileNotFoundError:
        problem = "is gone"
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    if problem is not None:
        raise _lost(folder, f"{path}: {problem}, so that the log of {progress.step} updates is lost")


def cut_metrics(folder: RunFolder, progress: Progress) -> None:
    """Remove what follows the last row of a finished run in metrics.jsonl, and say so."""
    metrics = MetricsFile(folder.metrics)
    if metrics.size() > progress.metrics_size:
        metrics.truncate(progress.metrics_size)
        console.print(f"folder    {metrics.path}: what followed this run's last row is removed", style="yellow")


def _require_best(folder: RunFolder, progress: Progress, digest: str) -> None:
    """best/ must be whole, and the one of this state: or newer, where a kill came between the two."""
    if not folder.best.is_dir():
        raise _lost(folder, f"{folder.best}: is gone, and with it the best model, of update {progress.best_step}")
    try:
        if not (folder.best / CHECKSUMS).is_file():
            raise CheckpointError(f"{folder.best / CHECKSUMS}: is missing, so the model cannot be verified")
        require_unchanged(folder.best)
    except CheckpointError as error:
        raise _lost(folder, error.problem) from None
    if folder.best_digest() == digest:
        return
    about = read_about(folder.best)
    step, model = about.get("step", 0), about.get("model")
    is_newer = step > progress.best_step or (progress.trained and about.get("step") == 0)
    # A candidate that was written before a kill, its state not yet.
    is_newer = is_newer or (step == progress.step and model != "epoch" and not progress.trained)
    if progress.finished or about.get("run") != progress.began.get("run") or not is_newer:
        raise _lost(
            folder, f"{folder.best}: is not the best model of this run, which is of update {progress.best_step}"
        )


def _report_environment(folder: RunFolder, progress: Progress) -> None:
    """Say so if environment.json is damaged: what a resume needs of it is in the state as well, and it is rewritten."""
    try:
        found = json.loads(folder.environment.read_text(encoding="utf-8"))
        whole = all(found[name] == progress.began[name] for name in ("sha256", "precision", "processes"))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        whole = False
    if not whole:
        console.print(
            f"folder    {folder.environment}: is damaged, and is rewritten; the versions at the start of the run are "
            "lost",
            style="yellow",
        )
