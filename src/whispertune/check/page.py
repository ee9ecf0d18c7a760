"""check.html: counts, and the worst findings to read and to listen to, in one file that needs no network."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import soundfile

from whispertune.check.findings import ERRORS, MEANINGS, Finding
from whispertune.check.report import Report, place_of
from whispertune.data.audio import SAMPLE_RATE, load_utterance
from whispertune.data.utterances import Utterance
from whispertune.errors import AudioError, ManifestError, one_line

SHOWN_ERRORS, SHOWN_NOTES, SHOWN_RANKED = 8, 3, 40
"""Examples of each kind, and rows of the ranking."""
PLAYED_SECONDS = 20
MOST_AUDIO_BYTES = 12_000_000
"""Of all players together: MP3 of 16 kHz takes 4 to 8 kB a second."""

STYLE = """
:root { color-scheme: light dark; --ink: #1d2327; --soft: #667077; --line: #d9dee2; --card: #f6f8f9; --page: #ffffff;
  --error: #b3261e; --note: #8a6100; --bar: #2f6f9f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e7eaec; --soft: #9aa5ad; --line: #343c42; --card: #1d2327;
  --page: #14181b; --error: #ff8a80; --note: #f0c34e; --bar: #6fb1e0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 2rem 1.25rem 4rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .75rem; }
p.lead { color: var(--soft); margin: 0 0 1.5rem; }
.figures { display: flex; flex-wrap: wrap; gap: .75rem; }
.figure { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: .7rem 1rem;
  min-width: 9rem; }
.figure b { display: block; font-size: 1.5rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.figure span { color: var(--soft); font-size: .85rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; padding: .45rem .7rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td { overflow-wrap: break-word; } td:last-child { min-width: 10rem; }
.error { color: var(--error); font-weight: 600; } .note { color: var(--note); font-weight: 600; }
.soft { color: var(--soft); font-size: .85rem; overflow-wrap: anywhere; }
audio { width: 15rem; height: 2.2rem; display: block; }
a { color: inherit; } a:hover { color: var(--bar); }
@media (max-width: 44rem) { /* a row becomes a card, each value under the heading of its column */
  thead { display: none; }
  tr { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; padding: .6rem 0; border-bottom: 1px solid var(--line); }
  td, td.number { display: block; padding: 0; border: 0; max-width: 100%; text-align: left; white-space: normal; }
  td:empty { display: none; } td:last-child { flex-basis: 100%; min-width: 0; }
  td[data-heading]::before { content: attr(data-heading); display: block; color: var(--soft); font-size: .8rem; }
}
"""


def page(report: Report, figures: Mapping[str, Any]) -> str:
    """The page as HTML; all that comes from the data is escaped."""
    players = _Players()
    errors, rows = figures["rows_with_errors"], figures["rows"]
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Data check</title><style>{STYLE}</style></head><body>",
        "<h1>Data check</h1>",
        f'<p class="lead">{_html(", ".join(str(source.path) for source in report.sources))}</p>',
        '<div class="figures">',
        _figure(f"{rows:,}", "rows"),
        *([_figure(f"{sum(map(float, hours)):.2f}", "hours")] if (hours := _hours(report)) else []),
        _figure(f"{errors:,}", "rows with errors"),
        _figure(f"{100 * errors / max(rows, 1):.1f} %", "of all rows"),
        "</div>",
        _counts(report),
        _sources(figures["sources"]),
        *_ranking(report, players),
        *_examples(report, players),
        *_characters(figures["characters"]),
        "</body></html>",
    ]
    return "\n".join(parts)


def _html(text: str) -> str:
    """A name or a message as HTML: in printable characters, its markup escaped."""
    return escape(one_line(text))


class _Players:
    """Audio elements with the sound inside, until the page is large enough."""

    def __init__(self) -> None:
        self._left = MOST_AUDIO_BYTES
        self._made: dict[str, str] = {}

    def of(self, row: Utterance) -> str:
        """A player, or why there is none."""
        key = f"{row.source}:{row.row}:{row.id}"
        if key not in self._made:
            self._made[key] = self._player(row)
        return self._made[key]

    def _player(self, row: Utterance) -> str:
        if self._left <= 0:
            return f'<span class="soft">{_html(Path(row.audio).name)}</span>'
        try:
            waveform = load_utterance(row)[: PLAYED_SECONDS * SAMPLE_RATE]
        except AudioError:
            return '<span class="soft">cannot be played</span>'
        content = io.BytesIO()
        soundfile.write(content, waveform.clip(-1, 1), SAMPLE_RATE, format="MP3")
        encoded = base64.b64encode(content.getvalue()).decode("ascii")
        self._left -= len(encoded)
        return f'<audio controls preload="metadata" src="data:audio/mpeg;base64,{encoded}"></audio>'


def _figure(value: str, what: str) -> str:
    return f'<div class="figure"><b>{escape(value)}</b><span>{escape(what)}</span></div>'


def _hours(report: Report) -> list[float]:
    return [hours for source in report.sources if (hours := report.hours(source)) is not None]


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """Headings and cells are HTML already; `numbers`: columns set flush right."""

    def cells(tag: str, values: Sequence[str]) -> str:
        made = []
        for column, (heading, value) in enumerate(zip(headings, values, strict=True)):
            kind = " class=number" if column in numbers else ""
            named = f' data-heading="{heading}"' if tag == "td" and heading else ""
            made.append(f"<{tag}{kind}{named}>{value}</{tag}>")
        return "".join(made)

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{cells("th", headings)}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _severity(kind: str) -> str:
    return '<span class="error">error</span>' if kind in ERRORS else '<span class="note">note</span>'


def _counts(report: Report) -> str:
    names = list(dict.fromkeys(source.name for source in report.sources))
    counts = report.counts()
    if not counts:
        return "<h2>Findings</h2><p>None.</p>"
    rows = [
        [
            _severity(kind), f'<a href="#{kind}">{kind.replace("_", " ")}</a>',
            *(f"{counter[name]:,}" if counter[name] else "" for name in names), escape(MEANINGS[kind]),
        ]
        for kind, counter in counts.items()
    ]  # fmt: skip
    numbers = range(2, 2 + len(names))
    return "<h2>Findings</h2>" + _table(["", "kind", *map(_html, names), "what it is"], rows, numbers)


def _sources(sources: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [
            _html(source["file"]), escape(source["split"] or ""), f"{source['rows']:,}",
            "" if source["hours"] is None else f"{source['hours']:.2f}", f"{source['rows_with_errors']:,}",
        ]
        for source in sources
    ]  # fmt: skip
    return "<h2>Sources</h2>" + _table(["file", "set", "rows", "hours", "rows with errors"], rows, (2, 3, 4))


def _ranking(report: Report, players: _Players) -> Iterable[str]:
    ranked = report.ranking()[:SHOWN_RANKED]
    if not ranked:
        return
    yield "<h2>Transcripts that are likely wrong, by what the model hears</h2>"
    rows = []
    for number, opinion in ranked:
        row = report.utterance(number)
        if opinion.suspicion(row.text) < 0.5:
            break
        rows.append(
            [
                f"{100 * opinion.sure(row.text):.0f} %", f"{100 * opinion.cer:.0f} %", escape(row.text),
                escape(opinion.hypothesis), players.of(row), _place(row),
            ]
        )  # fmt: skip
    yield _table(["sure", "CER", "transcript", "heard", "", "where"], rows, (0, 1))


def _examples(report: Report, players: _Players) -> Iterable[str]:
    unread = [[_html(fault.problem), _html(_place_of_fault(fault))] for _, fault in report.faults()]
    if unread:
        yield f'<h2 id="bad_row">bad row {_severity("bad_row")}</h2>'
        yield _table(["finding", "where"], unread)
    for kind in report.counts():
        found = [finding for finding in report.findings if finding.kind == kind]
        if not found:
            continue
        most = SHOWN_ERRORS if kind in ERRORS else SHOWN_NOTES
        title = f"{escape(kind.replace('_', ' '))} {_severity(kind)}"
        shown = f" (the first {most} of {len(found):,})" if len(found) > most else ""
        yield f'<h2 id="{kind}">{title}<span class="soft">{shown}</span></h2>'
        rows = [_example(report, finding, players) for finding in found[:most]]
        yield _table(["transcript", "finding", "", "where"], rows)


def _example(report: Report, finding: Finding, players: _Players) -> list[str]:
    row = report.utterance(finding.row)
    text = row.text if len(row.text) <= 300 else row.text[:300] + "…"
    player = players.of(row) if report.audio is not None and report.audio.readable[finding.row] else ""
    return [escape(text), _html(finding.detail), player, _place(row)]


def _place_of_fault(fault: ManifestError) -> str:
    return place_of({"file": fault.file or "", "row": fault.row, "field": fault.field})


def _place(row: Utterance) -> str:
    return f'{_html(row.id)}<div class="soft">{_html(Path(row.source).name)}, row {row.row}</div>'


def _characters(characters: Mapping[str, Any] | None) -> Iterable[str]:
    if not characters or not characters["rare"]:
        return
    yield "<h2>Characters that the tokenizer spells byte by byte</h2>"
    share = 100 * characters["rare_share"]
    yield (
        f"<p>They are {share:.2f} % of all characters. A text of such a script takes up to "
        f"{characters['tokens_per_character']:.1f} tokens a character, so fewer fit in Whisper's 448, and each is "
        "learnt from your data alone.</p>"
    )
    rows = [
        [escape(char), f"U+{ord(char):04X}", str(tokens), f"{count:,}"] for char, tokens, count in characters["rare"]
    ]
    yield _table(["character", "code", "tokens", "times"], rows, (2, 3))
