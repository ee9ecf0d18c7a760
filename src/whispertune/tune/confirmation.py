"""The winner of a search against the recipe as it is, on seeds that chose neither; and what the search ends with."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from optuna.trial import TrialState
from rich.table import Table

from whispertune.evaluation.significance import MatchedPairs, matched_pairs
from whispertune.report.before_after import leading_counts, speakers_of
from whispertune.run.recipe import to_yaml
from whispertune.run.run_folder import RunFolder
from whispertune.system.console import console, percent, results, wrapped
from whispertune.system.files import write_text
from whispertune.tune.search import NOTE, SECONDS, Search, ended_early, for_trial, scored
from whispertune.tune.trial_runs import Scored, Train, free_space, train

FRESH_SEEDS = 2


@dataclass(frozen=True, slots=True)
class Confirmed:
    """Runs of two trials with the same fresh seeds: the recipe as it is, and the winner.

    test: of the winner against the recipe as it is, each utterance's errors averaged over the seeds.
    """

    winner: int
    seeds: list[int]
    of_default: list[Scored]
    of_winner: list[Scored]
    test: MatchedPairs

    @property
    def chosen(self) -> int:
        """The trial whose recipe is recommended: the winner if it is better on average, significantly or not."""
        return self.winner if self.test.difference < 0 else 0


def confirm(search: Search, run: Train) -> Confirmed | None:
    """Train the best trial and the recipe as it is with two more seeds; None if they are the same.

    What was interrupted is taken up, what is done is not repeated.
    """
    best = search.completed()[0]
    if best.number == 0:
        return None
    seeds = [search.space.recipe.seed + place for place in range(1, FRESH_SEEDS + 1)]
    found: dict[int, list[Scored]] = {0: [], best.number: []}
    for seed in seeds:
        for number in found:
            found[number].append(_trained(search, run, number, seed))
    of_default, of_winner = found.values()
    folders = {number: [_folder(search, number, seed) for seed in seeds] for number in found}
    rows = [
        [{row["id"]: row for row in of.rows(folder)} for of, folder in zip(found[number], folders[number], strict=True)]
        for number in found
    ]
    ids = [id_ for id_ in rows[0][0] if all(id_ in of_run for side in rows for of_run in side)]
    before, after = ([fmean(leading_counts(of_run[id_])[0] for of_run in side) for id_ in ids] for side in rows)
    utterances = [rows[0][0][id_] for id_ in ids]
    test = matched_pairs(before, after, [leading_counts(row)[1] for row in utterances], groups=speakers_of(utterances))
    return Confirmed(best.number, seeds, of_default, of_winner, test)


def _folder(search: Search, number: int, seed: int) -> RunFolder:
    return RunFolder(search.path / "confirm" / f"trial-{number:04d}-seed-{seed}")


def _trained(search: Search, run: Train, number: int, seed: int) -> Scored:
    """One run of a trial's settings with another seed, or the record of one."""
    name, folder = f"confirmed-{number}-{seed}", _folder(search, number, seed)
    if name not in search.study.user_attrs:
        console.print(f"confirm   trial {number} with seed {seed}")
        recipe = search.recipe(number, search.study.get_trials(deepcopy=False)[number].params)
        found = train(for_trial(replace(recipe, seed=seed), folder), run)
        search.study.set_user_attr(name, found.record())
    free_space(folder)
    return Scored(**search.study.user_attrs[name])


def conclude(search: Search, run: Train, command: str) -> None:
    """Confirm the winner, print the tables, and write best.yaml and summary.json.

    command: that continues this search.
    """
    running = [trial for trial in search.trials() if trial.state == TrialState.RUNNING]
    held = search.hold("confirmation")
    if running or held is None:
        if held is not None:
            os.close(held)
        console.print("another process of this search is still busy; the one that ends last confirms the winner")
        return
    try:
        confirmed = confirm(search, run)
        chosen = 0 if confirmed is None else confirmed.chosen
        _print_trials(search)
        _print_confirmed(search, confirmed)
        recipe = search.recipe(chosen, search.study.get_trials(deepcopy=False)[chosen].params)
        path = search.path / "best.yaml"
        write_text(path, to_yaml(replace(recipe, output=str(search.path / "tuned"))))
        write_text(search.path / "summary.json", json.dumps(_summary(search, confirmed, chosen), indent=2) + "\n")
    finally:
        os.close(held)
    if search.cut_short():
        results.print("\n".join(wrapped(search.cut_short())), style="yellow")
    if confirmed is None or chosen:
        results.print(f"model: {search.folder(chosen).best}")
    results.print(f"best recipe: {path}")
    results.print(command)


def _print_trials(search: Search) -> None:
    """All trials, the best one first, and those that were ended early."""
    done = search.completed()
    leading = scored(done[0]).leading
    table = Table(box=None, padding=(0, 1), pad_edge=False, collapse_padding=True)
    for heading in ("trial", f"valid {leading}", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("settings", overflow="fold")
    for trial in [*done, *(trial for trial in search.trials() if trial.state != TrialState.COMPLETE)]:
        reached = (
            percent(trial.value)
            if trial.state == TrialState.COMPLETE and trial.value is not None
            else ended_early(trial)
        )
        settings = search.settings(search.recipe(trial.number, trial.params))
        table.add_row(str(trial.number), reached, f"{trial.user_attrs.get(SECONDS, 0):.0f}", settings)
    results.print(table)


def _print_confirmed(search: Search, confirmed: Confirmed | None) -> None:
    if confirmed is None:
        said = "nothing beats the recipe as it is: no trial has a lower error rate on valid"
        results.print("\n".join(wrapped(said)), style="bold")
        return
    of_default, of_winner = confirmed.of_default, confirmed.of_winner
    leading, first = of_default[0].leading, search.space.recipe.seed
    table = Table(box=None, padding=(0, 1), pad_edge=False, collapse_padding=True)
    table.add_column(f"valid {leading}")
    for heading in (f"seed {first} (searched)", *(f"seed {seed}" for seed in confirmed.seeds), "mean of fresh seeds"):
        table.add_column(heading, justify="right", no_wrap=True)
    trials = search.study.get_trials(deepcopy=False)
    for name, number, found in (
        ("as it is", 0, of_default),
        (f"trial {confirmed.winner}", confirmed.winner, of_winner),
    ):
        rates = [of_seed.rate for of_seed in found]
        mean = f"{percent(fmean(rates))} ± {100 * stdev(rates):.1f}"
        table.add_row(name, percent(scored(trials[number]).rate), *map(percent, rates), mean)
    results.print(table)
    for line in verdict(confirmed):
        results.print("\n".join(wrapped(line)), style="bold")


def verdict(confirmed: Confirmed) -> Sequence[str]:
    """What the confirmation says, in sentences."""
    test = confirmed.test
    lines = [
        f"trial {confirmed.winner} against the recipe as it is, on {len(confirmed.seeds)} fresh seeds: "
        f"{test.in_points()}"
    ]
    if not test.high < 0:
        lines.append("nothing beats the recipe as it is beyond chance")
        kept = f"trial {confirmed.winner}, which is better on average" if confirmed.chosen else "the recipe as it is"
        lines.append(f"best.yaml holds {kept}")
    return lines


def _summary(search: Search, confirmed: Confirmed | None, chosen: int) -> dict[str, object]:
    trials = [
        {
            "trial": trial.number, "state": trial.state.name.lower(), "rate": trial.value
            if trial.state == TrialState.COMPLETE else None, "seconds": trial.user_attrs.get(SECONDS),
            "settings": search.settings(search.recipe(trial.number, trial.params)), "note": trial.user_attrs.get(NOTE),
        }
        for trial in search.trials()
    ]  # fmt: skip
    found: dict[str, object] = {"space": search.space.texts, "chosen": chosen, "trials": trials}
    if confirmed is not None:
        found["confirmed"] = {
            "winner": confirmed.winner, "seeds": confirmed.seeds,
            "as_it_is": [of_seed.record() for of_seed in confirmed.of_default],
            "tuned": [of_seed.record() for of_seed in confirmed.of_winner], "difference": confirmed.test.summary(),
        }  # fmt: skip
    return found
