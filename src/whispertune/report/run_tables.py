"""The tables of one run's page, and its plots of errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from whispertune.report import error_analysis
from whispertune.report.before_after import COUNTS, BeforeAfter, interval
from whispertune.report.error_analysis import Aligned, Group, by_duration, by_group, total_counts
from whispertune.report.plots import Plot, bars
from whispertune.report.runs import Pair, Row, Run
from whispertune.report.sentences import bounds, chance, points
from whispertune.report.tables import Table, as_in_a_recipe
from whispertune.run.flags import all_fields
from whispertune.run.recipe import Recipe
from whispertune.system.console import percent
from whispertune.system.counts import counted
from whispertune.text.languages import language_name

SHOWN_CONFUSIONS, SHOWN_MISSING, SHOWN_GROUPS, SHOWN_EXCLUDED = 25, 25, 30, 50
MOST_SOURCES = 20
"""More than these are a folder of subtitles or annotations, each of one recording."""
"""Rows of these tables on the page."""


def _spread(bounds: tuple[float, float] | None) -> str:
    return "" if bounds is None else f" ({100 * bounds[0]:.1f} to {100 * bounds[1]:.1f})"


def headline_of(results: Sequence[BeforeAfter]) -> list[Table]:
    """Error rates before and after, by split and search; the most reliable one first."""
    rows = []
    for where in results:
        pair = where.pair
        leading = [where.rate, *(name for name in COUNTS if name != where.rate)]
        for rate in leading:
            before, after = (side.metrics for side in (pair.before, pair.after))
            field = "leading_rate" if rate == "MER" else rate.lower()
            known = where.intervals if rate == where.rate else None
            spreads = known or [interval(rate, side.metrics, side.rows) for side in (pair.before, pair.after)]
            tested = ""
            if rate == where.rate and where.test is not None:
                tested = f"{where.test.verdict()} ({bounds(where.test)}; {chance(where.test.p)})"
            rows.append(
                [
                    pair.split, pair.search, pair.frames, f"{rate}, normalised",
                    percent(before[field]) + _spread(spreads[0]), percent(after[field]) + _spread(spreads[1]),
                    points(after[field] - before[field]), tested,
                ]
            )  # fmt: skip
        rows.append(
            [
                pair.split, pair.search, pair.frames, "WER, raw", percent(pair.before.metrics["wer_raw"]),
                percent(pair.after.metrics["wer_raw"]),
                points(pair.after.metrics["wer_raw"] - pair.before.metrics["wer_raw"]), "",
            ]
        )  # fmt: skip
    if not rows:
        return []
    headings = ["split", "search", "frames", "rate", "before", "after", "change, points", "matched-pairs test, 95 %"]
    note = (
        "In brackets: 95 % intervals, by a bootstrap over utterances or, where at least six speakers are named, over "
        "speakers. "
        "The change is tested by matched pairs: p is the probability of a difference at least this large if the "
        "two outputs of each utterance (or speaker) are exchanged at random."
    )
    return [Table("Before and after", headings, rows, (4, 5, 6), note)]


def notes_of(run: Run, found: BeforeAfter | None) -> list[str]:
    """Remarks on the headline."""
    notes = []
    if found is not None and found.few:
        notes.append(
            f"{found.pair.split} has {counted(found.utterances, 'utterance')}: with fewer than 30 the intervals are "
            "too narrow to rely on."
        )
    if found is not None and found.by_speaker:
        notes.append(
            f"Intervals and tests are over the {found.speakers} speakers, as utterances of one speaker are not "
            "independent."
        )
    if run.kept_pretrained:
        notes.append("best/ holds the pretrained model, because the fine-tuned one was significantly worse.")
    if run.damaged:
        lines = "1 line of metrics.jsonl cannot be read and is"
        if run.damaged > 1:
            lines = f"{run.damaged:,} lines of metrics.jsonl cannot be read and are"
        notes.append(f"{lines} ignored here.")
    damaged = sum(side.damaged for pair in run.pairs for side in (pair.before, pair.after))
    if damaged:
        lines = "1 line of the hypotheses cannot be read and is"
        if damaged > 1:
            lines = f"{damaged:,} lines of the hypotheses cannot be read and are"
        notes.append(f"{lines} missing from tests, tables and utterances; the rates are those of metrics.jsonl.")
    return notes


def errors_of(
    pair: Pair | None,
    aligned: tuple[Sequence[Aligned], Sequence[Aligned]],
) -> tuple[list[Table], list[Plot]]:
    """Where errors occur: kinds, durations, speakers, sources, languages, words."""
    if pair is None:
        return [], []
    counts = [total_counts(side) for side in aligned]
    kinds = ("substitutions", "deletions", "insertions")
    length = max(counts[0].num_reference, 1)
    rows = [
        [kind, *(f"{getattr(side, kind):,} ({percent(getattr(side, kind) / length)})" for side in counts)]
        for kind in kinds
    ]
    rows.append(["all", *(f"{side.errors:,} ({percent(side.errors / length)})" for side in counts)])
    unit = {"WER": "words", "CER": "characters"}.get(pair.leading, "words or characters")
    note = f"{pair.split}, {pair.search}, normalised; of {length:,} {unit}"
    tables = [Table("Kinds of errors", ["kind", "before", "after"], rows, (1, 2), note)]
    plots = [
        bars(
            "errors-by-kind",
            "Kinds of errors",
            [(kind, [100 * getattr(side, kind) / length for side in counts]) for kind in kinds],
            ["before", "after"],
        )
    ]
    if durations := by_duration(pair.matched):
        tables.append(_grouped("Errors by duration", "clips of", unit, durations))
        values = [(group.name, [100 * rate for rate in group.rates]) for group in durations]
        plots.append(bars("errors-by-duration", f"{pair.leading} by duration", values, ["before", "after"]))
    keys = {
        "speaker": lambda row: row.get("speaker"),
        "source": lambda row: row.get("source"),
        "language": lambda row: language_name(row["language"]) if row.get("language") else None,
    }
    for name, key in keys.items():
        groups = sorted(by_group(pair.matched, key), key=lambda group: -group.after)
        if len(groups) > 1 and (name != "source" or len(groups) <= MOST_SOURCES):
            tables.append(_grouped(f"Errors by {name}", name, unit, groups))
    confused, before = error_analysis.confusions(aligned[1]), error_analysis.confusions(aligned[0])
    ranked = sorted(confused.items(), key=lambda entry: (-entry[1], entry[0]))
    often = [entry for entry in ranked if entry[1] > 1] or ranked[:5]
    rows = [
        [old or "(nothing)", new or "(missing)", f"{before[old, new]:,}", f"{times:,}"]
        for (old, new), times in often[:SHOWN_CONFUSIONS]
    ]
    if rows:
        headings = ["in the transcript", "written instead", "before", "after"]
        tables.append(Table("Most frequent confusions", headings, rows, (2, 3), note))
    missing = error_analysis.never_recognised(aligned[1])
    rows = [[word, f"{times:,}", written or "(missing)"] for word, times, written in missing[:SHOWN_MISSING]]
    if rows:
        note = f"{len(missing):,} {unit} that occur at least twice and that the fine-tuned model never got right"
        headings = ["character" if unit == "characters" else "word", "occurrences", "most often written"]
        tables.append(Table("Never recognised", headings, rows, (1,), note))
    return tables, plots


def _grouped(title: str, heading: str, unit: str, groups: Sequence[Group]) -> Table:
    rows = [
        [
            group.name, f"{group.utterances:,}", f"{group.seconds / 60:.1f}", f"{group.length:,}",
            *map(percent, group.rates), points(group.rates[1] - group.rates[0]),
        ]
        for group in groups[:SHOWN_GROUPS]
    ]  # fmt: skip
    note = f"and {len(groups) - SHOWN_GROUPS:,} more with fewer errors" if len(groups) > SHOWN_GROUPS else ""
    headings = [heading, "clips", "minutes", unit, "before", "after", "change, points"]
    return Table(title, headings, rows, (1, 2, 3, 4, 5, 6), note)


def data_of(run: Run) -> list[Table]:
    """Rows read, used and excluded, with the reasons."""
    splits: Mapping[str, Any] = run.environment.get("data") or {}
    left_out = Counter(str(row.get("split")) for row in run.excluded)
    rows = []
    for split in ("train", "valid", "test", *run.recipe.also_tests):
        described = run.described(split)
        if described is None:
            continue
        figures = splits.get(split, {})
        rows.append(
            [
                split, str(described), f"{figures['rows']:,}" if figures else "",
                f"{figures['utterances']:,}" if figures else "",
                f"{figures['hours']:.2f}" if figures else "", f"{left_out[split]:,}",
            ]
        )  # fmt: skip
    stitched = splits.get("train", {}).get("stitched", 0)
    note = f"The hours of train include {counted(stitched, 'stitched window')}." if stitched else ""
    tables = [Table("Data", ["split", "read from", "rows", "used", "hours", "excluded"], rows, (2, 3, 4, 5), note)]
    if run.excluded:
        kinds = Counter((str(row.get("split")), str(row.get("reason"))) for row in run.excluded)
        reasons = [[split, reason, f"{times:,}"] for (split, reason), times in kinds.most_common(SHOWN_GROUPS)]
        tables.append(Table("Excluded, by reason", ["split", "reason", "rows"], reasons, (2,)))
        listed = [
            [str(row.get("split")), str(row.get("id")), f"{Path(str(row.get('file'))).name}, row {row.get('row')}"]
            for row in run.excluded[:SHOWN_EXCLUDED]
        ]
        more = len(run.excluded) - SHOWN_EXCLUDED
        note = f"and {more:,} more in excluded.jsonl" if more > 0 else ""
        tables.append(Table("Excluded rows", ["split", "utterance", "where"], listed, (), note))
    return tables


def costs_of(run: Run) -> Table | None:
    """Time and memory of each stage, as far as they were recorded."""
    parts: dict[str, list[Row]] = {}
    for row in run.stages:  # a resumed run has each of them several times
        parts.setdefault(str(row["stage"]), []).append(row)
    validations = [row for row in run.valid if "seconds" in row]
    parts |= {
        f"training, {counted(len(run.updates), 'update')}": run.updates,
        f"validation, {counted(len(validations), 'time')}": validations,
        "test": run.tests,
    }
    rows = []
    for stage, of_stage in parts.items():
        seconds = [row["seconds"] for row in of_stage if row.get("seconds") is not None]
        if not seconds:
            continue
        memory = [value for row in of_stage if (value := row.get("memory_gb")) is not None]
        each = f"{sum(seconds) / len(seconds):.2f}" if len(seconds) > 1 else ""
        rows.append([stage, _clock(sum(seconds)), each, f"{max(memory):.2f}" if memory else ""])
    if not rows:
        return None
    headings = ["stage", "time", "seconds each", "peak memory so far, GB"]
    if not any(row[3] for row in rows):
        headings, rows = headings[:3], [row[:3] for row in rows]
    rates = [row["audio_rate"] for row in run.updates if row.get("audio_rate") is not None]
    note = "Without the time to save states and models, and to write this page."
    if rates:
        note += f" Training went through {median(rates):,.0f} hours of audio an hour (median)."
    return Table("Time and memory", headings, rows, (1, 2, 3)[: len(headings) - 1], note)


def _clock(seconds: float) -> str:
    return (
        f"{seconds:.1f} s"
        if seconds < 120
        else f"{seconds / 60:.1f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def recipe_of(run: Run) -> list[Table]:
    """Settings that differ from their defaults, the others, and versions."""
    known = all_fields(Recipe)
    settings = {name: run.fields.get(name) for name in known if name in run.fields}
    shown = {name: as_in_a_recipe(value) for name, value in settings.items()}

    def default(name: str) -> str:
        field = known[name]
        return as_in_a_recipe(list(field.default) if isinstance(field.default, tuple) else field.default)

    differing = {name for name in shown if known[name].required or shown[name] != default(name)}
    rows = [[name, shown[name], "" if known[name].required else default(name)] for name in shown if name in differing]
    others = [[name, shown[name]] for name in shown if name not in differing]
    machine = run.environment.get("machine") or {}
    described = {
        "whispertune": run.environment.get("whispertune"), "commit": run.environment.get("commit"),
        "python": run.environment.get("python"),
        **(run.environment.get("packages") or {}), "libsndfile": run.environment.get("libsndfile"),
        "platform": machine.get("platform"), "processor": machine.get("processor"), "cores": machine.get("cores"),
        "threads": machine.get("threads"), "GPU": machine.get("gpu"), "processes": run.environment.get("processes"),
        "precision": run.environment.get("precision"),
    }  # fmt: skip
    versions = [[name, str(value)] for name, value in described.items() if value]
    return [
        Table("Settings that differ from the defaults", ["field", "value", "default"], rows),
        Table("Default settings", ["field", "value"], others),
        Table("Versions and machine", ["what", "value"], versions),
    ]
