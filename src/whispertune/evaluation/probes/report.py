"""What the probes found: for summary.json, and as tables for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.table import Table

from whispertune.evaluation.probes.hallucination import Hallucination
from whispertune.evaluation.probes.long_form import LongFormResult
from whispertune.evaluation.probes.timestamps import TimestampResult
from whispertune.system.console import percent
from whispertune.system.counts import counted


@dataclass(slots=True)
class Probes:
    """The results of those that were asked for. stuck: how many of the data's own `outputs` loop, and were capped."""

    timestamps: TimestampResult | None = None
    long_form: LongFormResult | None = None
    hallucination: Hallucination | None = None
    outputs: int = 0
    stuck: tuple[int, int] = (0, 0)

    def summary(self) -> dict[str, Any]:
        """For summary.json, beside the error rates."""
        found: dict[str, Any] = {}
        if self.timestamps is not None:
            found["timestamps"] = self.timestamps.summary()
        if self.long_form is not None:
            found["long_form"] = self.long_form.summary()
        if self.hallucination is not None:
            loops, capped = (count / self.outputs for count in self.stuck)
            found |= {
                "repetition_rate": loops,
                "capped_rate": capped,
                "hallucination": self.hallucination.summary(),
            }
        return found


def probe_tables(probes: Probes) -> list[Table]:
    """A table for each probe."""
    tables = []
    if probes.timestamps is not None:
        tables.append(_timestamp_table(probes.timestamps.summary()))
    if probes.long_form is not None:
        tables.append(_long_form_table(probes.long_form))
    if probes.hallucination is not None:
        tables.append(_hallucination_table(probes))
    return tables


def _timestamp_table(found: dict[str, Any]) -> Table:
    title = f"timestamps, {counted(found['windows'], 'window')} of stitched clips"
    table = _table(title, "valid", "monotonic", "paired", "inside", "error mean", "median", "found", "WER")
    shares = [percent(found[name]) for name in ("valid", "monotonic", "paired", "inside")]
    errors = [found["boundary_error_mean"], found["boundary_error_median"]]
    seconds = ["–" if error is None else f"{error:.2f} s" for error in errors]
    table.add_row(*shares, *seconds, percent(found["boundaries_found"]), percent(found["wer"]))
    return table


def _long_form_table(result: LongFormResult) -> Table:
    found = result.summary()
    kind = "the data's own recordings" if result.own else "clips joined with silences"
    table = _table(f"long form: {kind}", "recordings", "minutes", "WER", "CER")
    minutes = f"{found['seconds'] / 60:.1f}"
    table.add_row(str(found["recordings"]), minutes, percent(found["wer"]), percent(found["cer"]))
    return table


def _hallucination_table(probes: Probes) -> Table:
    found = probes.hallucination
    assert found is not None
    table = _table("where nothing is said", "sound", "words", "words an hour", "loops", "at 448 tokens")
    for sound in found.sounds:
        table.add_row(sound.kind, str(sound.words), f"{sound.words_per_hour:.0f}", "", "")
    words, summary = sum(sound.words for sound in found.sounds), found.summary()
    shares = [percent(summary[name]) for name in ("repetition_rate", "capped_rate")]
    table.add_row("all", str(words), f"{found.insertions_per_hour:.0f}", *shares)
    table.add_row("the data's own outputs", "", "", *(percent(count / probes.outputs) for count in probes.stuck))
    return table


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "sound" else "right")
    return table
