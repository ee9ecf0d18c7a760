"""One run: the tables, plots and clips of its page."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from whispertune.data.sources import parse_sources
from whispertune.data.utterances import Utterance
from whispertune.report.before_after import BeforeAfter
from whispertune.report.clips import SORTED_BY, Clip, clips_of
from whispertune.report.plots import Curve, Plot, curves
from whispertune.report.rendering import render, require_replaceable
from whispertune.report.run_tables import costs_of, data_of, errors_of, headline_of, notes_of, recipe_of
from whispertune.report.runs import Pair, Run
from whispertune.report.summary import Summary, summarise
from whispertune.report.tables import Table
from whispertune.run.next_step import evaluation_commands
from whispertune.system.files import write_text


@dataclass(frozen=True)
class RunReport:
    """Everything that the page about one run shows."""

    run: Run
    opening: str
    found: BeforeAfter | None
    headline: list[Table]
    notes: list[str]
    curves: list[Plot]
    errors: list[Table]
    error_plots: list[Plot]
    clips: list[Clip]
    all_clips: int
    data: list[Table]
    costs: Table | None
    recipe: list[Table]
    advice: list[str]
    commands: list[tuple[str, str]]

    @property
    def tables(self) -> list[Table]:
        """All tables, in the order of the page."""
        costs = [] if self.costs is None else [self.costs]
        return [*self.headline, *self.errors, *self.data, *costs, *self.recipe]

    @property
    def plots(self) -> list[Plot]:
        """All plots, in the order of the page."""
        return [*self.curves, *self.error_plots]

    def page(self) -> str:
        """The page as HTML."""
        return render("run.html.j2", {"report": self, "sorted_by": SORTED_BY, "run": self.run})


def report_on(run: Run) -> RunReport:
    """Read the transcripts of a run and compute everything that its page shows."""
    return _report(summarise(run))


def _report(summary: Summary) -> RunReport:
    run = summary.run
    pair, pairs, aligned, found = summary.pair, summary.pairs, summary.aligned, summary.found
    utterances: Mapping[str, Utterance] = run.utterances(pair.split) if pair else {}
    tables, plots = errors_of(pair, aligned)
    return RunReport(
        run, summary.opening, found, headline_of(summary.results), notes_of(run, found),
        curves([Curve(run.name, run.updates, run.valid, run.chosen_step)]), tables, plots,
        clips_of(pairs, aligned, utterances), len(pairs), data_of(run), costs_of(run), recipe_of(run),
        summary.advice, _commands(run, pair, utterances),
    )  # fmt: skip


def write_report(summary: Summary) -> Path:
    """Write RUN/report.html; returns its path.

    Raises:
        UserError: if there is a report.html that no report wrote.
    """
    path = summary.run.folder.report
    require_replaceable(path)
    write_text(path, _report(summary).page())
    return path


def _commands(run: Run, pair: Pair | None, utterances: Mapping[str, Utterance]) -> list[tuple[str, str]]:
    """(what it does, the command) of commands that work as printed; those that need missing data are not among them."""
    where = str(run.folder.path)
    plots = ["whispertune", "report", where, "--plots", f"{where}/plots"]
    if run.finished is False:
        return [
            ("Resume this run:", shlex.join(["whispertune", "resume", where])),
            ("Then write this page again:", shlex.join(["whispertune", "report", where])),
        ]
    made = []
    recipe = replace(run.recipe, output=where)
    split = "valid" if recipe.test is None else "test"
    if all(Path(source.path).exists() for source in parse_sources(recipe.test or recipe.valid)):
        command = f"{evaluation_commands(recipe)[1]} --baseline {shlex.quote(recipe.model)}"
        made.append((f"Evaluate the model on {split} again, together with the pretrained one:", command))
    known = [utterances[row["id"]] for _, row in pair.matched[:1] if row["id"] in utterances] if pair else []
    if known and known[0].within is None and known[0].audio.is_file():
        command = shlex.join(["whispertune", "transcribe", "--model", where, str(known[0].audio), "--format", "txt"])
        made.append(("Transcribe a recording:", command))
    export = ["whispertune", "export", "--model", where, "--to", "huggingface", "--output", f"{where}-huggingface"]
    made.append(
        (
            "Export the model for transformers (or --to openai, ctranslate2 or ggml for other programs):",
            shlex.join(export),
        )
    )
    made.append(("Write all plots of this page as files:", shlex.join(plots)))
    return made[:3]
