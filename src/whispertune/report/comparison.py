"""Several runs compared: seeds of one recipe as mean and standard deviation, runs and recipes with the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from whispertune.errors import DataError
from whispertune.evaluation.significance import MatchedPairs, matched_pairs
from whispertune.report.before_after import COUNTS, leading_counts, speakers_of
from whispertune.report.clips import Clip, about, audio_addresses, chosen_places, clip, side
from whispertune.report.error_analysis import align
from whispertune.report.plots import Curve, Plot, curves
from whispertune.report.rendering import render
from whispertune.report.runs import Pair, Row, Run
from whispertune.report.sentences import RATES, bounds, chance, points
from whispertune.report.tables import Table, as_in_a_recipe
from whispertune.run.recipe import FREE_TO_CHANGE
from whispertune.system.console import percent
from whispertune.system.counts import counted

MOST_SIDES = 6
"""Maximum number of runs whose outputs are shown side by side."""
MOST_CLIPS = 60
SORTED_BY = {"spread": "differ most", "errors": "most errors"}
"""Ways to sort the utterances, and what they are called."""


@dataclass(frozen=True, slots=True)
class Group:
    """Runs of one recipe that differ only in their seeds."""

    label: str
    runs: list[int]


@dataclass(frozen=True)
class Comparison:
    """Everything that the page about several runs shows."""

    runs: list[Run]
    opening: str
    notes: list[str]
    tables: list[Table]
    plots: list[Plot]
    clips: list[Clip]
    all_clips: int

    def page(self) -> str:
        """The page as HTML."""
        return render("comparison.html.j2", {"report": self, "sorted_by": SORTED_BY})


class _Compared:
    """The runs' outputs for one split: the utterances that all of them decoded, with the same references."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.names = _names(runs)
        for split in ("test", "valid"):
            found = [next((p for p in reversed(run.pairs) if p.split == split and p.matched), None) for run in runs]
            self.pairs: list[Pair] = [pair for pair in found if pair is not None]
            if len(self.pairs) == len(runs):
                break
        else:
            missing = next(name for name, pair in zip(self.names, found, strict=True) if pair is None)
            raise DataError(
                f"{missing}: there are no outputs of the pretrained and the fine-tuned model to compare; wait for the "
                "first validation, or compare without this run"
            )
        self.split = split
        by_id = [{row["id"]: row for row in pair.after.rows} for pair in self.pairs]
        first = by_id[0]
        self.ids = [
            id_
            for id_, row in first.items()
            if all(id_ in rows and rows[id_]["reference"] == row["reference"] for rows in by_id[1:])
        ]
        if not self.ids:
            raise DataError("the runs have no utterance with the same id and transcript in common; nothing to compare")
        self.rows: list[list[Row]] = [[rows[id_] for id_ in self.ids] for rows in by_id]
        self.speakers = speakers_of(self.rows[0])

    def test(self, ours: Sequence[int], theirs: Sequence[int]) -> MatchedPairs:
        """The runs `ours` against `theirs`, each utterance's errors averaged over the seeds."""
        lengths = [leading_counts(row)[1] for row in self.rows[0]]
        return matched_pairs(self._errors(theirs), self._errors(ours), lengths, groups=self.speakers)

    def rate(self, run: int) -> float:
        """The leading rate of a run on the utterances that all runs decoded, a fraction."""
        counts = list(map(leading_counts, self.rows[run]))
        return sum(errors for errors, _ in counts) / max(sum(length for _, length in counts), 1)

    def _errors(self, runs: Sequence[int]) -> list[float]:
        every = [[leading_counts(row)[0] for row in self.rows[run]] for run in runs]
        return [fmean(errors) for errors in zip(*every, strict=True)]


def compare(runs: Sequence[Run]) -> Comparison:
    """Compute everything that the page about several runs shows.

    Raises:
        DataError: if one of them has not been validated yet, or they share no utterance.
    """
    compared = _Compared(runs)
    groups = _groups(runs, compared.names)
    rate = compared.pairs[0].leading
    notes = _notes(compared)
    labelled = zip(compared.names, runs, strict=True)
    lines = [Curve(name, run.updates, run.valid, run.chosen_step) for name, run in labelled]
    tables = [_recipes(compared, groups, rate), _runs(compared, runs, rate), *_differing(runs, compared.names)]
    return Comparison(
        list(runs), _opening(compared, groups, rate), notes, [table for table in tables if table is not None],
        curves(lines), _clips(compared, runs, groups), len(compared.ids),
    )  # fmt: skip


def _names(runs: Sequence[Run]) -> list[str]:
    """Names of the runs: those of their folders or, if these repeat, their paths."""
    names = [run.name for run in runs]
    return [str(run.folder.path) if names.count(run.name) > 1 else run.name for run in runs]


def _groups(runs: Sequence[Run], names: Sequence[str]) -> list[Group]:
    found: dict[str, list[int]] = {}
    for place, run in enumerate(runs):
        relevant = {name: value for name, value in run.fields.items() if name not in ("seed", *FREE_TO_CHANGE)}
        found.setdefault(repr(sorted(relevant.items())), []).append(place)
    return [
        Group(names[places[0]] + (f" and {len(places) - 1} more of its recipe" if places[1:] else ""), places)
        for places in found.values()
    ]


def _mean(values: Sequence[float]) -> str:
    """`12.3 ± 0.4 %`: mean and standard deviation, of fractions."""
    deviation = f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * fmean(values):.1f}{deviation} %"


def _against(test: MatchedPairs) -> str:
    return f"{points(test.difference)} ({bounds(test)}; {chance(test.p)}): {test.verdict()}"


def _rate_field(rate: str) -> str:
    return "leading_rate" if rate == "MER" else rate.lower()


def _recipes(compared: _Compared, groups: Sequence[Group], rate: str) -> Table | None:
    if len(groups) == len(compared.pairs):
        return None  # each run is a recipe of its own, and the table of runs shows everything
    rates = [rate, *(name for name in COUNTS if name != rate)]
    rows = []
    for group in groups:
        sides = [compared.pairs[place] for place in group.runs]
        means = [_mean([pair.after.metrics[_rate_field(name)] for pair in sides]) for name in rates]
        versus = "" if group is groups[0] else _against(compared.test(group.runs, groups[0].runs))
        pretrained = _mean([sides[0].before.metrics[_rate_field(rate)]])
        rows.append([group.label, str(len(group.runs)), pretrained, *means, versus])
    headings = ["recipe", "seeds", f"{rate}, pretrained", *(f"{name}, mean ± sd" for name in rates)]
    if len(groups) == 1:
        return Table("Recipes", headings, [row[:-1] for row in rows], (1, 2, 3, 4))
    note = "The errors in each utterance are averaged over the seeds before the comparison."
    return Table("Recipes", [*headings, f"{rate} compared with the first, points"], rows, (1, 2, 3, 4), note)


def _runs(compared: _Compared, runs: Sequence[Run], rate: str) -> Table:
    rates = [rate, *(name for name in COUNTS if name != rate)]
    rows = []
    for place, (name, run, pair) in enumerate(zip(compared.names, runs, compared.pairs, strict=True)):
        metrics = pair.after.metrics
        seconds = sum(row.get("seconds", 0.0) for row in run.updates)
        chosen = run.chosen or {}
        rows.append(
            [
                name, str(run.fields.get("seed", "")), percent(pair.before.metrics[_rate_field(rate)]),
                *(percent(metrics[_rate_field(one)]) for one in rates), str(chosen.get("epoch", "")), f"{seconds:.0f}",
                "" if place == 0 else _against(compared.test([place], [0])),
            ]
        )  # fmt: skip
    headings = [
        "run", "seed", f"{rate}, pretrained", *rates, "epoch", "seconds of training",
        f"{rate} compared with {compared.names[0]}, points",
    ]  # fmt: skip
    unit = "speakers" if compared.speakers is not None else "utterances"
    note = (
        f"{compared.split}, {compared.pairs[0].search}, {compared.pairs[0].frames}, normalised. In brackets: 95 % "
        f"intervals and p by matched pairs over the {unit} of what all runs decoded "
        f"({counted(len(compared.ids), 'utterance')})."
    )
    return Table("Runs", headings, rows, (2, 3, 4, 5, 6), note)


def _differing(runs: Sequence[Run], names: Sequence[str]) -> list[Table]:
    """Settings that differ between the runs, without those that cannot change a result."""
    fields = list(dict.fromkeys(name for run in runs for name in run.fields if name not in FREE_TO_CHANGE))
    of_each: list[Mapping[str, Any]] = [run.fields for run in runs]
    versions = {
        name: [str(run.environment.get(name, "")) for run in runs] for name in ("whispertune", "python", "precision")
    }
    rows = [
        [name, *(as_in_a_recipe(of_run.get(name, "")) for of_run in of_each)]
        for name in fields
        if any(of_run.get(name) != of_each[0].get(name) for of_run in of_each)
    ]
    rows += [[f"({name})", *values] for name, values in versions.items() if len(set(values)) > 1]
    return [Table("Settings that differ", ["field", *names], rows)] if rows else []


def _notes(compared: _Compared) -> list[str]:
    notes = []
    sizes = {len(pair.after.rows) for pair in compared.pairs}
    if sizes != {len(compared.ids)}:
        notes.append(
            f"The runs did not decode the same utterances: the tests use the {len(compared.ids):,} that all did, "
            "with the same transcript; the error rates are those of all utterances of each run."
        )
    searches = {(pair.search, pair.frames) for pair in compared.pairs}
    if len(searches) > 1:
        listed = "; ".join(f"{search}, {frames}" for search, frames in sorted(searches))
        notes.append(f"The runs were not decoded in the same way ({listed}): this may explain part of the difference.")
    if len({pair.leading for pair in compared.pairs}) > 1:
        notes.append("The runs are not judged by the same error rate.")
    return notes


def _opening(compared: _Compared, groups: Sequence[Group], rate: str) -> str:
    where = "unseen recording" if compared.split == "test" else "validation recording"
    means = [fmean(compared.rate(place) for place in group.runs) for group in groups]
    on = f"the {RATES[rate]} on {counted(len(compared.ids), where)}"
    if len(groups) == 1:
        rates = [compared.rate(place) for place in range(len(compared.pairs))]
        pretrained = compared.pairs[0].before.metrics[_rate_field(rate)]
        return (
            f"{len(compared.pairs)} seeds of one recipe: {on} is {_mean(rates)}, compared with "
            f"{percent(pretrained)} for the pretrained model."
        )
    best = min(range(len(groups)), key=lambda place: means[place])
    if best == 0:
        closest = min(range(1, len(groups)), key=lambda place: means[place])
        test = compared.test(groups[0].runs, groups[closest].runs)
        return (
            f"{groups[0].label} has the lowest error: {on} is {percent(means[0])}, against {percent(means[closest])} "
            f"for {groups[closest].label}, the next one; {_verdict(test)}."
        )
    test = compared.test(groups[best].runs, groups[0].runs)
    return (
        f"{groups[best].label} has the lowest error: {on} is {percent(means[best])}, against {percent(means[0])} for "
        f"{groups[0].label}, the first; {_verdict(test)}."
    )


def _verdict(test: MatchedPairs) -> str:
    verdict = (
        "the difference is statistically significant"
        if test.significant
        else "this is not conclusive and may be chance"
    )
    return f"{verdict} ({chance(test.p)})"


def _clips(compared: _Compared, runs: Sequence[Run], groups: Sequence[Group]) -> list[Clip]:
    """The utterances on which the runs differ most, with the output of one run of each recipe, or of each run."""
    shown = [group.runs[0] for group in groups] if len(groups) > 1 else list(range(len(runs)))
    shown = shown[:MOST_SIDES]
    keys = []
    for place in range(len(compared.ids)):
        errors = [leading_counts(rows[place])[0] for rows in compared.rows]
        keys.append({"spread": float(max(errors) - min(errors)), "errors": float(max(errors))})
    places = sorted(chosen_places(keys, MOST_CLIPS), key=lambda place: (-keys[place]["spread"], -keys[place]["errors"]))
    utterances = runs[0].utterances(compared.split)
    audio = audio_addresses(places, keys, lambda place: utterances.get(compared.ids[place]))
    picked = {run: align([compared.rows[run][place] for place in places]) for run in shown}
    made = []
    for number, place in enumerate(places):
        row = compared.rows[0][place]
        sides = [side(compared.names[run], compared.rows[run][place], picked[run][number]) for run in shown]
        known = {name: value for name, value in row.items() if name in ("duration", "speaker")}
        made.append(clip(row, sides, audio.get(place), keys[place], about(known)))
    return made
