"""whispertune train: fine-tune a Whisper."""

from __future__ import annotations

import gc
import json
import shlex
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from whispertune.commands.launched import raise_once
from whispertune.commands.train_seeds import run_seeds
from whispertune.data.remote import as_path, content_sha256
from whispertune.errors import Interrupted, RunFolderError, StorageError, is_disk_failure, one_line
from whispertune.report.run_page import write_report
from whispertune.report.runs import read_run
from whispertune.report.summary import summarise
from whispertune.run.alignment_heads import choose_alignment_heads, names_no_heads
from whispertune.run.flags import parse_fields
from whispertune.run.loggers import open_loggers, require_loggers
from whispertune.run.model_card import write_card
from whispertune.run.next_step import evaluation_commands
from whispertune.run.outcome import choose_best, record_test, report
from whispertune.run.recipe import Recipe, from_recipes_folder, to_yaml
from whispertune.run.resuming import as_it_began, cut_metrics, is_longer, lengthen, require_intact, require_same_run
from whispertune.run.run_folder import RunFolder
from whispertune.run.session import Session, open_session
from whispertune.run.stage_times import StageTimes
from whispertune.run.stages import build_run_schedule, build_trainer, check_thinning, evaluate_tests
from whispertune.run.yaml_fields import load_yaml
from whispertune.system.console import LogFile, console, logged, results
from whispertune.system.counts import counted
from whispertune.system.environment import describe_environment
from whispertune.system.memory import give_back_freed_memory, keep_freed_memory
from whispertune.system.precision import resolve_device
from whispertune.system.processes import init_processes
from whispertune.training.adamw8bit import require_adamw8bit
from whispertune.training.metrics import Sink
from whispertune.training.plan import BatchPlan
from whispertune.training.resume import Progress, StopSignal, read_progress, save_progress

ReportT = TypeVar("ReportT")
EXCLUDE = "data.exclude"
SETTINGS = "model settings"
"""Name of what belongs to a model beside its weights, where its sha256 is kept."""
AUTO_ON = {"bf16": "a GPU or CPU with bf16", "fp16": "a GPU without bf16", "fp32": "a CPU without bf16"}
"""The devices on which `--precision auto` is each precision (`resolve_precision`)."""


def main(arguments: Sequence[str]) -> int:
    """Run the command line `whispertune train ARGUMENTS`."""
    flags = [flag for flag in arguments if flag not in ("--print_config", "--print-config")]
    print_config = len(flags) < len(arguments)
    fields, where = {}, "recipe"
    if flags and not flags[0].startswith("-"):
        where, *flags = flags
        fields = from_recipes_folder(load_yaml(Path(where)), Path(where))
    recipe = parse_fields(Recipe, fields, flags, command="train", where=where)
    if print_config:
        results.print(to_yaml(recipe), end="")
        return 0
    return run(recipe)


def run(recipe: Recipe, sinks: Sequence[Sink] = ()) -> int:
    """Start the run, or take it up where it stopped; with `seeds`, one run for each.

    sinks: receive the rows of metrics.jsonl as well.
    """
    if recipe.seeds is not None:
        return run_seeds(recipe, run)
    folder = RunFolder(Path(recipe.output))
    keep_freed_memory()
    with StopSignal().installed() as stop, ExitStack() as held, logged() as log:
        try:
            stop.processes = init_processes(recipe.device, recipe.processes)
            console.quiet = results.quiet = not stop.processes.is_main
            stop.processes.from_main(lambda: _claim(folder, held))
            status = _run(recipe, folder, stop, log, held, sinks)
            stop.processes.barrier()  # the store goes with the main process, so none leaves before the others
            return status
        except Interrupted as signal:
            # Stopped while the data was being checked: resume starts from there.
            if stop.processes.is_main and not folder.recipe.exists():
                folder.write_recipe(to_yaml(recipe), "{}")
            stop.processes.should_report()  # so that processes waiting for this one do not report it as lost
            console.print(f"stopped by {signal}; continue with: {folder.resume_command}")
            return Interrupted.exit_status
        except Exception as failure:
            error = _blamed(failure, folder)
            log.write(f"error: {one_line(str(error))}\n")
            if stop.processes.world_size > 1:
                return raise_once(error, stop.processes, f"continue with: {folder.resume_command}")
            if error is failure:
                raise
            raise error from None


def _blamed(error: Exception, folder: RunFolder) -> Exception:
    """The error itself or, where the disk is full or failing, one that says so: what was given is not at fault."""
    if not isinstance(error, OSError) or not is_disk_failure(error):
        return error
    return StorageError(
        f"{error.filename or folder.path}: {error.strerror}; free some disk space, then continue with: "
        f"{folder.resume_command}"
    )


def _claim(folder: RunFolder, held: ExitStack) -> None:
    """Keep other runs out of the folder until `held` is closed."""
    if folder.holds_something_else():
        raise RunFolderError(f"--output {folder.path} is neither empty nor a run; choose another folder")
    held.enter_context(folder.claimed())


def _run(
    recipe: Recipe, folder: RunFolder, stop: StopSignal, log: LogFile, held: ExitStack, sinks: Sequence[Sink]
) -> int:
    started = time.perf_counter()
    processes = stop.processes
    saved = read_progress(folder.state) if folder.state.exists() else None
    theirs = require_same_run(recipe, folder, saved)
    processes.require_same("the recipe", to_yaml(recipe))
    processes.require_same(f"what lies in {folder.path}", saved)
    processes.from_main(lambda: require_intact(folder, saved))
    if saved is not None and saved.finished and not is_longer(recipe, theirs):
        processes.from_main(lambda: cut_metrics(folder, saved))
        where = folder.test if (folder.test / "summary.json").exists() else folder.metrics
        console.print(f"{folder.path} is finished already: the model is in {folder.best}, the figures in {where}")
        return 0
    require_loggers(recipe.loggers)
    if recipe.optimizer.name == "adamw8bit":
        require_adamw8bit(processes.device or resolve_device(recipe.device))
    began_with = processes.from_main(lambda: _processes_at_start(folder, saved, processes.world_size))
    progress = saved or Progress(BatchPlan(recipe.batch_size, recipe.accumulation * began_with))
    times = StageTimes()
    with times.measured("loading and checking"):
        session = open_session(recipe, folder, stop, processes, progress)
    _require_same_inputs(session)
    if theirs is not None and is_longer(recipe, theirs) and saved is not None:
        lengthen(session, theirs)
    _record(session, began_with)
    if processes.is_main:
        log.open(folder.log)
        times.open(folder.stages)
    session.log.resume()
    if processes.is_main:
        loggers = open_loggers(folder, recipe, session.log.settled_rows() if recipe.loggers else [])
        for logger in loggers:
            held.callback(logger.close)
        session.log.attach([*loggers, *sinks])
    if progress.step:
        console.print(f"resuming  at update {progress.step}, epoch {progress.epoch}")
    if processes.world_size != began_with:
        console.print(
            f"processes {processes.world_size}, where the run started with {began_with}: an update keeps its "
            f"{counted(progress.batches.windows, 'utterance')}"
        )
    with times.measured("comparing thinned with dense"):
        check_thinning(session)
    if names_no_heads(session):
        with times.measured("finding alignment heads"):
            choose_alignment_heads(session)
    give_back_freed_memory()
    if not progress.trained:
        with times.measured("encoding"):
            trainer = build_trainer(session, build_run_schedule(session))
        trainer.run()
        session.working.release()  # the test needs the memory
        del trainer
        gc.collect()  # states that are held on a GPU are in a cycle of references
    give_back_freed_memory()
    comparison = processes.from_main(lambda: choose_best(session))
    evaluations = evaluate_tests(session) if session.tests else {}
    if not processes.is_main:
        return 0
    tests = [record_test(session, name, found) for name, found in evaluations.items()]
    progress.finished = True
    session.log.settle()
    progress.metrics_size, progress.metrics_sha256 = session.log.settled()
    save_progress(folder.state, progress)
    summary = _reported(folder, lambda: summarise(read_run(folder.path)))
    opening, advice = ("", []) if summary is None else (summary.opening, summary.advice)
    write_card(session, opening)
    report(session, tests, comparison, time.perf_counter() - started, opening, advice)
    if recipe.report and summary is not None:
        page = _reported(folder, lambda: write_report(summary))
        if page is not None:
            results.print(f"report: {page}")
    for command in evaluation_commands(recipe):
        results.print(f"next:  {command}")
    return 0


def _reported(folder: RunFolder, make: Callable[[], ReportT]) -> ReportT | None:
    """The result of `make`; None, and only a warning, if it fails."""
    try:
        return make()
    except Exception as error:  # of plots, templates or recordings: none of it may fail a run of hours
        again = shlex.join(["whispertune", "report", str(folder.path)])
        reason = one_line(str(error))
        console.print(f"report    could not be written ({reason}); try again with: {again}", style="yellow")
        return None


def _processes_at_start(folder: RunFolder, saved: Progress | None, now: int) -> int:
    """Number of processes at the start of the run, which determines the size of its updates; `now` for a new run."""
    if saved is not None and saved.began:
        return int(saved.began["processes"])
    return int(_environment(folder).get("processes", 1 if folder.state.exists() else now))


def _environment(folder: RunFolder) -> dict[str, Any]:
    """The content of environment.json; empty if no run has started, or the file is damaged."""
    try:
        found = json.loads(folder.environment.read_text(encoding="utf-8")) if folder.has_begun() else {}
        return found if isinstance(found, dict) and isinstance(found.get("processes", 1), int) else {}
    except (OSError, ValueError, RecursionError):
        return {}


def _require_same_inputs(session: Session) -> None:
    """Refuse to resume where model, data or precision have changed since, whatever their paths."""
    folder = session.folder
    digests, precision = _digests(session), session.precision.name
    session.processes.require_same("model, data or precision", (digests, session.precision))
    if not folder.state.exists():
        return
    before = session.progress.began or _environment(folder)
    then = before.get("sha256", {})
    changed = [
        name
        for name, digest in digests.items()
        if then.get(name) != digest and (name in then or name != SETTINGS)  # older versions did not record it
    ]
    if changed:
        raise RunFolderError(
            f"{folder.path}: {', '.join(changed)} changed since this run was started, so it cannot be resumed; "
            "restore them, or choose another --output"
        )
    began = before.get("precision", precision)  # older versions did not record it
    if began != precision:
        raise RunFolderError(
            f"{folder.path}: this run was started in {began}, but precision auto is {precision} on this machine's "
            f"{session.device.type}; resume it on {AUTO_ON[began]}, or choose another --output"
        )


def _digests(session: Session) -> dict[str, str]:
    """sha256 of the model, of its settings, of what each split was read from, and of the lists that a recipe names."""
    splits = {split.name: split.fingerprint for split in session.splits}
    checkpoint, exclude = session.ready.checkpoint, session.recipe.data.exclude
    replacements = session.recipe.text.replacements
    lists = {
        EXCLUDE: exclude, "text.replacements": replacements, "search.glossary": session.recipe.search.glossary,
    }  # fmt: skip
    read = {name: content_sha256(as_path(path)) for name, path in lists.items() if path is not None}
    return {"model": checkpoint.digest, SETTINGS: checkpoint.settings_digest(), **splits, **read}


def _record(session: Session, began_with: int) -> None:
    """Keep the recipe and what it was run on and with. began_with: processes."""
    folder, recipe, digests, precision = session.folder, session.recipe, _digests(session), session.precision.name
    session.progress.began = as_it_began(recipe, digests, precision, began_with)
    if session.processes.is_main:
        environment = describe_environment(recipe.seed, digests, began_with, precision)
        environment["data"] = {split.name: split.figures() for split in session.splits}
        folder.write_recipe(to_yaml(recipe), json.dumps(environment, indent=2))
