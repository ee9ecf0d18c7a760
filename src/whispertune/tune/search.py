"""The search: trials drawn, run, pruned and recorded in a folder that several processes may share."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState

from whispertune.errors import RecipeError, RunFolderError, Stopped, TrainingError, one_line
from whispertune.run.recipe import Recipe
from whispertune.run.run_folder import RunFolder
from whispertune.system.console import console, percent
from whispertune.system.counts import counted
from whispertune.system.locks import try_lock
from whispertune.tune.options import TuneOptions
from whispertune.tune.pruning import Pruning
from whispertune.tune.space import Space
from whispertune.tune.trial_runs import Scored, Train, free_space, train

STARTUP_TRIALS = 6
"""Trials whose settings are drawn at random, before the others follow what was learnt from them."""
REDUCTION = 2
"""Of the trials that reach an epoch 1, 2, 4, …, about one in so many goes on."""
MOST_DRAWS = 50
"""Draws that only repeat earlier trials, after which the space counts as exhausted."""
SEED_STRIDE = 100_003
SCORED, SECONDS, NOTE, REPEATS = "scored", "seconds", "note", "repeats"
"""What is recorded of a trial: its model on valid, the seconds it took, why it ended early, what it repeats."""


class Search:
    """The trials in a folder. Several processes may hold it at once, each with an object of its own."""

    def __init__(self, path: Path, space: Space, run: Train, options: TuneOptions) -> None:
        self.path, self.space, self._run, self._options = path, space, run, options
        self._began = time.monotonic()
        self._locks = path / ".locks"
        self._locks.mkdir(exist_ok=True)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with self.locked():
            self.study = optuna.create_study(
                storage=JournalStorage(_journal(path / "journal.log", self._locks / "journal")),
                study_name="tune",
                load_if_exists=True,
                direction="minimize",
                pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=REDUCTION),
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from choosing trials during the block."""
        descriptor = _wait_for(self._locks / "search")
        try:
            yield
        finally:
            os.close(descriptor)

    def hold(self, name: str) -> int | None:
        """Claim a trial or the confirmation until the descriptor is closed or this process ends; None if another
        process has it."""
        return _lock(self._locks / name)

    def trials(self) -> list[FrozenTrial]:
        """The trials so far, without those that only repeat another one."""
        return [trial for trial in self.study.get_trials(deepcopy=False) if REPEATS not in trial.user_attrs]

    def completed(self) -> list[FrozenTrial]:
        """Those that got to their end, the best one first."""
        found = [trial for trial in self.trials() if trial.state == TrialState.COMPLETE]
        return sorted(found, key=lambda trial: (_rate(trial), trial.number))

    def folder(self, number: int) -> RunFolder:
        """Where a trial's run lies."""
        return RunFolder(self.path / f"trial-{number:04d}")

    def recipe(self, number: int, values: dict[str, Any]) -> Recipe:
        """A trial's recipe, but for its folder; the first one is the recipe as it is."""
        return self.space.recipe if number == 0 else self.space.with_drawn(values)

    def time_is_up(self) -> bool:
        """Whether the minutes that are left are needed to confirm the winner."""
        if self._options.minutes is None:
            return False
        return time.monotonic() - self._began + self.seconds_to_confirm() > 60 * self._options.minutes

    def seconds_to_confirm(self) -> float:
        """The time that two more runs of the best trial so far, and two of the recipe as it is, take."""
        done = self.completed()
        default = next((trial for trial in done if trial.number == 0), None)
        return 2 * sum(float(trial.user_attrs[SECONDS]) for trial in (*done[:1], *([default] if default else [])))

    def cut_short(self) -> str:
        """Why there were fewer trials than asked for, if the time was up."""
        minutes, done = self._options.minutes, len(self.trials())
        if minutes is None or done >= self._options.trials or not self.time_is_up():
            return ""
        return (
            f"the time was up after {done} of {counted(self._options.trials, 'trial')}: of --minutes {minutes:g}, "
            f"about {self.seconds_to_confirm() / 60:.1f} are set aside to confirm the winner; the same command with "
            "more --minutes goes on with the search"
        )

    def run(self) -> None:
        """Run trials until there are enough of them or the time is up.

        Raises:
            Interrupted: if a signal stopped a run.
            WhispertuneError: if the recipe as it is cannot be trained.
        """
        while (claimed := self._next()) is not None:
            trial, held = claimed
            try:
                self._run_trial(trial)
            finally:
                os.close(held)
            self._free_space()

    def _next(self) -> tuple[Trial, int] | None:
        """The next trial, and the descriptor that claims it: one that a killed process left, or a new one."""
        with self.locked():
            for frozen in self.trials():
                if frozen.state == TrialState.RUNNING and (held := self.hold(_name(frozen.number))) is not None:
                    return Trial(self.study, frozen._trial_id), held  # Optuna has no other way to a running trial
            for _ in range(MOST_DRAWS):
                if len(self.trials()) >= self._options.trials or (self.trials() and self.time_is_up()):
                    return None
                number = len(self.study.get_trials(deepcopy=False))
                held = self.hold(_name(number))
                assert held is not None, "trials are only created under the lock"
                # A seed for each trial: neither a restart nor another process repeats draws.
                seed = (self._options.seed * SEED_STRIDE + number) % 2**32
                self.study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
                trial = self.study.ask()
                if number == 0 or (repeated := self._repeated(trial)) is None:
                    return trial, held
                trial.set_user_attr(REPEATS, repeated)
                self.study.tell(trial, state=TrialState.FAIL)
                os.close(held)
        console.print(f"no new combination in {MOST_DRAWS} draws: the space is exhausted", style="yellow")
        return None

    def _repeated(self, trial: Trial) -> int | None:
        """The earlier trial whose settings the draws for a new one repeat."""
        values = self.space.draw(trial)
        with suppress(RecipeError):  # reported when the trial is run
            recipe = self.space.with_drawn(values)
            for other in self.trials():
                with suppress(RecipeError):
                    if other.number != trial.number and self.recipe(other.number, other.params) == recipe:
                        return other.number
        return None

    def _run_trial(self, trial: Trial) -> None:
        number, folder = trial.number, self.folder(trial.number)
        began, before = time.monotonic(), trial.user_attrs.get(SECONDS, 0.0)
        state, value, note = TrialState.FAIL, None, ""
        try:
            values = {} if number == 0 else self.space.draw(trial)
            recipe = self.recipe(number, values)
            console.print(
                f"trial     {number}, {len(self.trials())} of {self._options.trials}: {self.settings(recipe)}"
            )
            reported = max(self.study.get_trials(deepcopy=False)[number].intermediate_values, default=0)
            sink = Pruning(trial, reported, self.time_is_up, to_the_end=number == 0)
            found = train(for_trial(recipe, folder), self._run, [sink])
            trial.set_user_attr(SCORED, found.record())
            state, value = TrialState.COMPLETE, found.rate
        except Stopped as stopped:
            state, note = TrialState.PRUNED, str(stopped)
        except (RecipeError, TrainingError, MemoryError, torch.OutOfMemoryError) as error:
            if number == 0:
                raise
            note = one_line(str(error))
        trial.set_user_attr(SECONDS, before + time.monotonic() - began)
        if note:
            trial.set_user_attr(NOTE, note)
        self.study.tell(trial, value, state=state)
        ended = ended_early(self.study.get_trials(deepcopy=False)[number]) or self._standing(number)
        console.print(f"trial     {number}: {ended}")

    def settings(self, recipe: Recipe) -> str:
        """The settings of a trial, for people."""
        return self.space.described(recipe) or "the recipe as it is"

    def _standing(self, number: int) -> str:
        """How a trial that got to its end compares."""
        done = self.completed()
        found = scored(next(trial for trial in done if trial.number == number))
        best = done[0]
        so_far = "the best so far" if best.number == number else f"best so far {percent(_rate(best))}, {best.number}"
        return f"valid {found.leading} {percent(found.rate)}; {so_far}"

    def _free_space(self) -> None:
        """Keep the best trial's model alone. Other processes' trials that still run are left alone."""
        with self.locked():
            best = self.completed()[:1]
            for trial in self.study.get_trials(deepcopy=False):
                if trial.state.is_finished():
                    free_space(self.folder(trial.number), keep_model=any(trial.number == b.number for b in best))


def scored(trial: FrozenTrial) -> Scored:
    """The model of a trial that got to its end."""
    return Scored(**trial.user_attrs[SCORED])


def ended_early(trial: FrozenTrial) -> str:
    """Where and why a trial ended before its end; empty if it did not."""
    if trial.state == TrialState.COMPLETE:
        return ""
    note = str(trial.user_attrs.get(NOTE, "failed"))
    if trial.state == TrialState.FAIL or trial.last_step is None:
        return note
    return f"{note} at {percent(trial.intermediate_values[trial.last_step])} after epoch {trial.last_step}"


def for_trial(recipe: Recipe, folder: RunFolder) -> Recipe:
    """A recipe as a trial trains it: in its folder, on train and valid alone, without a page."""
    return replace(recipe, output=str(folder.path), test=None, also_test=(), report=False)


def _rate(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return trial.value


def _name(number: int) -> str:
    return f"trial-{number:04d}"


def _lock(path: Path) -> int | None:
    try:
        return try_lock(path)
    except OSError as error:
        raise RunFolderError(
            f"--output: {path.parent.parent} is on a file system without file locks ({error.strerror}), so that "
            "processes could not share the search; choose another folder"
        ) from None


def _wait_for(path: Path) -> int:
    while (descriptor := _lock(path)) is None:
        time.sleep(0.02)
    return descriptor


class _JournalLock(JournalFileOpenLock):
    """A lock of the journal that the system releases when its holder is killed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        self._descriptor = _wait_for(self._path)
        return True

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _journal(path: Path, lock: Path) -> JournalFileBackend:
    """The journal, without a last line that a full disk or a power cut left incomplete."""
    held = _JournalLock(lock)
    held.acquire()
    try:
        if path.exists() and not (content := path.read_bytes()).endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)
    finally:
        held.release()
    return JournalFileBackend(str(path), lock_obj=held)
