"""Print the results of a check: counts, and the worst findings with file and row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from whispertune.check.borrowing import TokenLosses
from whispertune.check.figures import as_duration, as_rate, is_narrow
from whispertune.check.findings import ERRORS, MEANINGS
from whispertune.check.results import CheckResults, finding_rows, place_of
from whispertune.errors import one_line
from whispertune.system.console import results
from whispertune.system.counts import counted
from whispertune.text.languages import language_name
from whispertune.text.targets import MAX_TOKENS

SHOWN, OF_A_KIND, SHOWN_TOKENS = 12, 3, 5
"""Most findings to print, in total and of one kind; most languages whose tokens may be borrowed."""
REFUSED = ("bad_row", "repeated_id")
"""Kinds that train refuses too; printed in full, as the remedy is at the end."""


def print_report(report: CheckResults, figures: Mapping[str, Any], output: Path | None) -> None:
    """Print the counts, the worst findings, and statistics of the data (`data_figures`)."""
    total = report.num_rows + report.num_unread
    if report.counts():
        results.print(_counts(report, f"{counted(total, 'row')} checked"))
    worst = worst_findings(report, SHOWN)
    if worst:
        results.print("the worst findings:")
    for found in worst:
        _print_line(f"{found['severity']:<5}  {place_of(found)}: {found['kind']}", found["severity"])
        if found["kind"] in REFUSED:
            results.print(f"       {one_line(found['detail'])}")
        else:
            _print_line(f"       {found['detail']}")
    if figures.get("sample_rates"):
        rates = ", ".join(f"{as_rate(int(rate))}: {count:,}" for rate, count in figures["sample_rates"].items())
        speakers = f"; {counted(figures['num_speakers'], 'speaker')}" if figures["num_speakers"] else ""
        results.print(f"{as_duration(figures['seconds'])} of audio (rows by sample rate: {rates}){speakers}")
        if any(is_narrow(int(rate)) for rate in figures["sample_rates"]):
            results.print("recordings below 16 kHz lack frequencies that Whisper uses (telephone quality)")
    if report.borrowing is not None:
        _print_borrowing(report.borrowing)
    results.print(f"{report.num_errors:,} of {counted(total, 'row')} {'has' if total == 1 else 'have'} errors")
    if output is not None:
        results.print(one_line(f"all findings: {output / 'check.jsonl'}"))
        results.print(one_line(f"page to view and listen to them: {output / 'check.html'}"))
    elif sum(sum(counter.values()) for counter in report.counts().values()) > len(worst):
        results.print("--output DIR writes all findings, and a page to view and listen to them")


def worst_findings(report: CheckResults, most: int) -> list[dict[str, Any]]:
    """Lines of check.jsonl: errors before notes, in each the first of every kind, then the second, and so on."""
    by_kind: dict[str, list[dict[str, Any]]] = {kind: [] for kind in MEANINGS}
    for found in finding_rows(report):
        if len(by_kind[found["kind"]]) < OF_A_KIND:
            by_kind[found["kind"]].append(found)
    errors, notes = (
        [found for kind, found in by_kind.items() if (kind in ERRORS) == wanted] for wanted in (True, False)
    )
    return list(islice((found for kinds in (errors, notes) for found in _in_turn(kinds)), most))


def _in_turn(kinds: Sequence[Sequence[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    for place in range(max(map(len, kinds), default=0)):
        yield from (found[place] for found in kinds if place < len(found))


def _print_borrowing(found: TokenLosses) -> None:
    """Which language's token to borrow, with the losses that say so."""
    name, ranking = language_name(found.language), found.ranking()
    table = Table(title=f"{name} has no token in this model: the loss with another language's", title_justify="left")
    for heading in ("", "token of", "nats a token", "more than the first, 95 %"):
        table.add_column(heading, justify="left" if heading in ("", "token of") else "right")
    for code, loss, low, high in ranking[:SHOWN_TOKENS]:
        more = "" if code == found.best else f"{low:.2f} to {high:.2f}"
        table.add_row(code, language_name(code), f"{loss:.2f}", more)
    results.print(table)
    tied = [code for code, _, low, _ in ranking[1:] if low <= 0]
    clips = counted(len(found.num_tokens), "clip")
    results.print(f"measured on {clips}, with the tokens of {len(ranking)} languages; borrow that of the first:")
    results.print(f"       --language {found.language} --language_token {found.best}")
    if tied:
        results.print(f"as good, as far as {clips} can tell: {', '.join(tied[:SHOWN_TOKENS])}")
    results.print(
        f"texts take {1 / found.characters_a_token:.2f} tokens a character, so that Whisper's {MAX_TOKENS} tokens hold "
        f"about {round(MAX_TOKENS * found.characters_a_token, -1):,.0f} characters"
    )


def _print_line(line: str, severity: str = "") -> None:
    text = Text(one_line(line), style="bold red" if severity == "error" else "")
    text.truncate(results.width, overflow="ellipsis")
    results.print(text)


def _counts(report: CheckResults, title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("")
    table.add_column("kind")
    names = list(dict.fromkeys(source.name for source in report.sources))
    for name in names:
        table.add_column(one_line(name), justify="right")
    table.add_column("what it is")
    for kind, counter in report.counts().items():
        severity = "error" if kind in ERRORS else "note"
        counts = [f"{counter[name]:,}" if counter[name] else "" for name in names]
        table.add_row(severity, kind, *counts, MEANINGS[kind], style="bold red" if kind in ERRORS else None)
    return table
