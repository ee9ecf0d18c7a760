"""whispertune train: fine-tune a Whisper."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from whispertune.allocator import give_back_freed_memory, keep_freed_memory
from whispertune.console import console, results
from whispertune.environment import describe_environment
from whispertune.errors import Interrupted, ProcessLost, RunFolderError, WhispertuneError
from whispertune.flags import help_text, load_yaml, parse_fields
from whispertune.outcome import choose_best, record_test, report
from whispertune.precision import precision_name
from whispertune.processes import Processes, join
from whispertune.recipe import Recipe, differing_fields, to_yaml
from whispertune.run_folder import RunFolder, write_text
from whispertune.session import Session, open_session
from whispertune.stages import build_run_schedule, build_trainer, check_thinning, evaluate_test
from whispertune.training.resume import Progress, StopSignal, read_progress, save_progress

USAGE = """whispertune train [RECIPE.yaml] --model M --train F --valid F [--test F] --language L --output RUN
                         [--field value …]"""

DESCRIPTION = """Fine-tune a pretrained Whisper on your own speech.

  M  a Hugging Face or CTranslate2 folder, an OpenAI .pt (with a tokenizer.json beside it, or openai-whisper
     installed), a Hub id (openai/whisper-base), another run's folder, or packaged:whisper-base (the weights of the
     `demo` extra)
  F  a CSV, TSV or JSONL manifest with columns `audio` and `text`; a folder of Common Voice, LibriSpeech, Kaldi,
     audiofolder, saved `datasets`, or recordings beside .txt, .srt or .vtt; lhotse cuts; shards-{000..010}.tar;
     hub:NAME (of the Hub); several as 'A [language=it weight=2] + B [split=dev]'

Every flag below is a field of the recipe too; flags win over RECIPE.yaml. --print_config prints the effective
recipe and stops. A run that was killed goes on with the same command, or with `whispertune resume RUN`."""

FREE_TO_CHANGE = (
    "output", "data.workers", "checkpoint.every_minutes", "checkpoint.every_steps",
    "states.folder", "states.max_gb", "states.verify", "processes.timeout_minutes", "processes.shard",
)  # fmt: skip
"""Fields that decide no result (`processes.shard` but for rounding): a run may be resumed with other values."""


AUTO_ON = {"bf16": "a GPU or CPU with bf16", "fp16": "a GPU without bf16", "fp32": "a CPU without bf16"}
"""Where precision auto is what (`resolve_precision`)."""


def main(arguments: Sequence[str]) -> int:
    """Run the command line `whispertune train ARGUMENTS`."""
    if any(flag in ("-h", "--help") for flag in arguments):
        results.print(help_text(Recipe, USAGE, DESCRIPTION))
        return 0
    flags = [flag for flag in arguments if flag not in ("--print_config", "--print-config")]
    print_config = len(flags) < len(arguments)
    fields, where = {}, "recipe"
    if flags and not flags[0].startswith("-"):
        where, *flags = flags
        fields = load_yaml(Path(where))
    recipe = parse_fields(Recipe, fields, flags, command="train", where=where)
    if print_config:
        results.print(to_yaml(recipe), end="")
        return 0
    return run(recipe)


def run(recipe: Recipe) -> int:
    """Start the run, or take it up where it stopped."""
    folder = RunFolder(Path(recipe.output))
    keep_freed_memory()
    with StopSignal().installed() as stop:
        try:
            stop.processes = join(recipe.device, recipe.processes)
            console.quiet = results.quiet = not stop.processes.is_main
            status = _run(recipe, folder, stop)
            stop.processes.wait()  # the store goes with the main process, so none leaves before the others
            return status
        except Interrupted as signal:
            if (
                stop.processes.is_main and not folder.recipe.exists()
            ):  # stopped while the data was being checked: resume starts from there
                write_text(folder.recipe, to_yaml(recipe))
                write_text(folder.environment, "{}\n")
            stop.processes.tells()  # so that none that was waiting for this one takes it for lost
            console.print(f"stopped by {signal}; go on with: whispertune resume {folder.path}")
            return Interrupted.exit_status
        except Exception as error:
            if stop.processes.world > 1:
                return _tell_once(error, stop.processes, folder)
            raise


def _tell_once(error: Exception, processes: Processes, folder: RunFolder) -> int:
    """Raise the error in the process that is to tell of it; the others return their exit status."""
    if not processes.tells():
        return error.exit_status if isinstance(error, WhispertuneError) else 1
    if isinstance(error, ProcessLost):
        raise ProcessLost(f"{error}; go on with: whispertune resume {folder.path}") from None
    if isinstance(error, WhispertuneError) and not processes.is_main:
        raise type(error)(f"{processes.name}: {error}") from None
    raise error


def _run(recipe: Recipe, folder: RunFolder, stop: StopSignal) -> int:
    started = time.perf_counter()
    processes = stop.processes
    require_same_recipe(recipe, folder)
    processes.require_same("the recipe", to_yaml(recipe))
    processes.from_main(folder.create)
    progress = read_progress(folder.state) if folder.state.exists() else Progress()
    processes.require_same(f"what lies in {folder.path}", progress)
    if progress.finished:
        where = folder.test if folder.test.exists() else folder.metrics
        console.print(f"{folder.path} is finished already: the model is in {folder.best}, the figures in {where}")
        return 0
    began_with = processes.from_main(lambda: _processes_at_start(folder, processes.world))
    session = open_session(recipe, folder, stop, processes, began_with)
    _record(session)
    if processes.is_main:
        folder.truncate_metrics(progress.metrics_size)
    if progress.step:
        console.print(f"resuming  at update {progress.step}, epoch {progress.epoch}")
    if processes.world != began_with:
        console.print(
            f"processes {processes.world}, where the run began with {began_with}: an update keeps its "
            f"{recipe.batch_size * session.accumulation} utterances"
        )
    check_thinning(session, progress)
    give_back_freed_memory()
    if not progress.trained:
        build_trainer(session, build_run_schedule(session), progress).run()
        session.working.release()  # the test needs the memory
    give_back_freed_memory()
    comparison = processes.from_main(lambda: choose_best(session, progress))
    evaluations = evaluate_test(session) if session.test is not None else []
    if not processes.is_main:
        return 0
    if evaluations:
        record_test(session, progress, evaluations)
    progress.finished = True
    save_progress(folder.state, progress)
    report(session, progress, evaluations, comparison, time.perf_counter() - started)
    return 0


def _processes_at_start(folder: RunFolder, now: int) -> int:
    """How many processes the folder's run began with: its updates stay as large; a new run begins with `now`."""
    if not folder.has_begun() or not folder.environment.exists():
        return now
    before: int = json.loads(folder.environment.read_text(encoding="utf-8")).get("processes", 1)
    return before


def require_same_recipe(recipe: Recipe, folder: RunFolder) -> None:
    """Refuse a folder that holds something else.

    Raises:
        RunFolderError: naming the fields in which the folder's recipe differs.
    """
    if folder.has_begun() and folder.recipe.exists():
        theirs = parse_fields(Recipe, load_yaml(folder.recipe), [], command="train", where=str(folder.recipe))
        different = differing_fields(recipe, theirs, ignored=FREE_TO_CHANGE)
        if different:
            raise RunFolderError(
                f"--output {folder.path} holds a run of another recipe (asked, there): {', '.join(different[:6])}"
                "; choose another folder"
            )
    elif folder.holds_something_else():
        raise RunFolderError(f"--output {folder.path} is neither empty nor a run; choose another folder")


def _record(session: Session) -> None:
    """Keep recipe and fingerprints; refuse to resume where model, data or precision have changed since."""
    folder, recipe = session.folder, session.recipe
    splits = {split.name: split.fingerprint for split in (session.train, session.valid, session.test) if split}
    precision = precision_name(session.dtype)
    environment = describe_environment(
        recipe.seed, session.ready.checkpoint.digest, splits, session.began_with, precision
    )
    session.processes.require_same("model, data or precision", (environment["sha256"], session.dtype))
    if folder.environment.exists() and folder.state.exists():
        before = json.loads(folder.environment.read_text(encoding="utf-8"))
        changed = [name for name, digest in environment["sha256"].items() if before["sha256"].get(name) != digest]
        if changed:
            raise RunFolderError(
                f"{folder.path}: {', '.join(changed)} changed since this run began, so it cannot be resumed; "
                "restore them, or choose another --output"
            )
        began = before.get("precision", precision)  # runs of older versions do not tell
        if began != precision:
            raise RunFolderError(
                f"{folder.path}: this run began in {began}, but precision auto is {precision} on this machine's "
                f"{session.device.type}; resume it on {AUTO_ON[began]}, or choose another --output"
            )
    if session.processes.is_main:
        write_text(folder.recipe, to_yaml(recipe))
        write_text(folder.environment, json.dumps(environment, indent=2) + "\n")
