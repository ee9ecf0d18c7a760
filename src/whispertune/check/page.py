"""check.html: counts and examples of findings to read and listen to, in one self-contained file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from whispertune.check.figures import as_duration, as_rate, counted, is_narrow
from whispertune.check.findings import ERRORS, MEANINGS, Finding
from whispertune.check.page_style import STYLE
from whispertune.check.players import Players
from whispertune.check.results import CheckResults, place_of
from whispertune.data.utterances import Utterance
from whispertune.errors import ManifestError, one_line

SHOWN_ERRORS, SHOWN_NOTES, SHOWN_RANKED = 8, 3, 40
"""Examples of each kind, and rows of the ranking, to show."""
MOST_LISTED = 2_000
"""Most findings of a kind on the page; check.jsonl has all."""
WRONG = ((0.95, "almost surely"), (0.5, "probably"), (0.0, "perhaps"))
"""Words for the probability that a transcript is wrong."""


def page(report: CheckResults, figures: Mapping[str, Any]) -> str:
    """The page as HTML; everything from the data is escaped."""
    players = Players()
    errors, rows = report.num_errors, report.num_rows + report.num_unread
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Data check</title><style>{STYLE}</style></head><body>",
        "<h1>Data check</h1>",
        f'<p class="lead">{_html(", ".join(str(source.path) for source in report.sources))}</p>',
        '<div class="figures">',
        _figure(f"{rows:,}", "row" if rows == 1 else "rows"),
        *([_figure(as_duration(figures["seconds"]), "of audio")] if "seconds" in figures else []),
        *([_figure(f"{figures['num_speakers']:,}", "speakers")] if figures.get("num_speakers", 0) > 1 else []),
        _figure(f"{errors:,}", "row with errors" if errors == 1 else "rows with errors"),
        _figure(f"{100 * errors / max(rows, 1):.1f} %", "of all rows"),
        "</div>",
        _counts(report),
        _sources(figures["sources"]),
        *_audio(figures),
        *_ranking(report, players),
        *_examples(report, players),
        *_characters(figures["characters"]),
        "</body></html>",
    ]
    return "\n".join(parts)


def _html(text: str) -> str:
    """A name or message with unprintable characters and markup escaped."""
    return escape(one_line(text))


def _player(players: Players, row: Utterance) -> str:
    """An audio element with the recording inside, or the reason why there is none."""
    if (address := players.address(row)) is not None:
        return f'<audio controls preload="metadata" src="{address}"></audio>'
    return f'<span class="soft">{_html(Path(row.audio).name) if players.full else "cannot be played"}</span>'


def _figure(value: str, what: str) -> str:
    return f'<div class="figure"><b>{escape(value)}</b><span>{escape(what)}</span></div>'


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A table; headings and cells are HTML. numbers: right-aligned columns."""

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


def _counts(report: CheckResults) -> str:
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
            _html(source["file"]), escape(source["split"] or ""), f"{source['rows'] + source['unread']:,}",
            "" if source["hours"] is None else as_duration(3600 * source["hours"]),
            f"{source['rows_with_errors'] + source['unread']:,}",
        ]
        for source in sources
    ]  # fmt: skip
    return "<h2>Sources</h2>" + _table(["file", "set", "rows", "audio", "rows with errors"], rows, (2, 3, 4))


def _audio(figures: Mapping[str, Any]) -> Iterable[str]:
    """Durations, sample rates and speakers."""
    bars, quantiles = figures.get("durations", []), figures.get("duration_quantiles", [])
    if bars and quantiles:
        low, middle, high = map(as_duration, quantiles)
        yield f"<h2>Durations</h2><p>Half of the clips last up to {middle}, nine in ten {low} to {high}.</p>"
        most = max(count for *_, count in bars)
        columns = [
            f'<div title="{low:g} to {high:g} s: {counted(count, "clip")}"><b>{count or ""}</b>'
            f'<i style="height:{80 * count / most:.1f}%"></i><b>{low:g}</b></div>'
            for low, high, count in bars
        ]
        yield f'<div class="bars">{"".join(columns)}</div>'
        yield '<p class="soft">clips by duration; each bar starts at the number of seconds below it</p>'
    if rates := figures.get("sample_rates"):
        yield "<h2>Sample rates</h2>"
        narrow = "lacks the frequencies above {}, which Whisper uses (telephone quality)"
        rows = [
            [as_rate(int(rate)), f"{count:,}", narrow.format(as_rate(int(rate) // 2)) if is_narrow(int(rate)) else ""]
            for rate, count in rates.items()
        ]
        yield _table(["sample rate", "rows", ""], rows, (1,))
    if speakers := figures.get("speakers"):
        num_others = figures["num_speakers"] - len(speakers)
        yield f"<h2>Speakers</h2><p>{counted(figures['num_speakers'], 'speaker')}.</p>"
        yield _table(
            ["speaker", "rows", "audio"], [[_html(n), f"{k:,}", as_duration(s)] for n, k, s in speakers], (1, 2)
        )
        if num_others:
            yield f'<p class="soft">and {counted(num_others, "other")} with fewer rows</p>'


def _ranking(report: CheckResults, players: Players) -> Iterable[str]:
    ranked = report.ranking()[:SHOWN_RANKED]
    if not ranked:
        return
    yield "<h2>Transcripts that are likely wrong, according to the model</h2>"
    rows = []
    for number, opinion in ranked:
        row = report.utterance(number)
        if opinion.suspicion(row.text) < 0.5:
            break
        rows.append(
            [
                next(word for least, word in WRONG if opinion.sure(row.text) >= least),
                f"{100 * opinion.cer:.0f} %", escape(row.text),
                escape(opinion.hypothesis), _player(players, row), _place(row),
            ]
        )  # fmt: skip
    yield _table(["wrong", "characters that differ", "transcript", "model's transcript", "", "where"], rows, (1,))


def _examples(report: CheckResults, players: Players) -> Iterable[str]:
    unread = [[_html(fault.problem), _html(_place_of_fault(fault))] for _, fault in report.faults()]
    if unread:
        yield f'<h2 id="bad_row">bad row {_severity("bad_row")}</h2>'
        yield _table(["finding", "where"], unread[:MOST_LISTED])
        yield _unlisted(len(unread))
    for kind in report.counts():
        found = [finding for finding in report.findings if finding.kind == kind]
        if not found:
            continue
        most = SHOWN_ERRORS if kind in ERRORS else SHOWN_NOTES
        title = f"{escape(kind.replace('_', ' '))} {_severity(kind)}"
        yield f'<h2 id="{kind}">{title} <span class="soft">{counted(len(found), "finding")}</span></h2>'
        rows = [_example(report, finding, players) for finding in found[:most]]
        yield _table(["transcript", "finding", "", "where"], rows)
        if rest := found[most:MOST_LISTED]:
            items = "".join(_listed(report, finding) for finding in rest)
            yield f"<details><summary>{len(rest):,} more</summary>"
            yield f'<ul class="rest">{items}</ul></details>'
        yield _unlisted(len(found))


def _listed(report: CheckResults, finding: Finding) -> str:
    source = report.source_of(finding.row)
    id_, manifest, row = source.rows.origin(finding.row - source.first)
    return f"<li>{_html(Path(manifest).name)}, row {row}, {_html(id_)}: {_html(finding.detail)}</li>"


def _unlisted(number: int) -> str:
    """A note on findings that the page does not list."""
    if number <= MOST_LISTED:
        return ""
    return f'<p class="soft">{number - MOST_LISTED:,} more are in <a href="check.jsonl">check.jsonl</a></p>'


def _example(report: CheckResults, finding: Finding, players: Players) -> list[str]:
    row = report.utterance(finding.row)
    text = row.text if len(row.text) <= 300 else row.text[:300] + "…"
    player = _player(players, row) if report.audio is not None and report.audio.readable[finding.row] else ""
    return [escape(text), _html(finding.detail), player, _place(row)]


def _place_of_fault(fault: ManifestError) -> str:
    return place_of({"file": fault.file or "", "row": fault.row, "field": fault.field})


def _place(row: Utterance) -> str:
    id_, manifest = _html(row.id), _html(Path(row.source).name)
    return f'<span class="id" title="{id_}">{id_}</span><div class="soft">{manifest}, row {row.row}</div>'


def _characters(characters: Mapping[str, Any] | None) -> Iterable[str]:
    if not characters or not characters["rare"]:
        return
    yield "<h2>Characters that the tokenizer spells byte by byte</h2>"
    share = 100 * characters["rare_share"]
    yield (
        f"<p>They are {share:.2f} % of all characters. Your texts take up to "
        f"{characters['tokens_per_character']:.1f} tokens per character, so that fewer fit in Whisper's 448, and such "
        "characters are learnt from your data alone.</p>"
    )
    rows = [
        [escape(char), f"U+{ord(char):04X}", str(tokens), f"{count:,}"] for char, tokens, count in characters["rare"]
    ]
    yield _table(["character", "code", "tokens", "times"], rows, (2, 3))
