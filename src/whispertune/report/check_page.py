"""check.html: counts and examples of findings to read and listen to, in one self-contained file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whispertune.check.figures import as_duration, as_rate, is_narrow
from whispertune.check.findings import ERRORS, MEANINGS, Finding
from whispertune.check.players import Players
from whispertune.check.results import CheckResults, place_of
from whispertune.data.utterances import Utterance
from whispertune.errors import ManifestError, one_line
from whispertune.report.rendering import render
from whispertune.report.tables import Table
from whispertune.system.counts import counted
from whispertune.text.languages import language_name

SHOWN_ERRORS, SHOWN_NOTES, SHOWN_RANKED, SHOWN_TOKENS = 8, 3, 40, 20
"""Examples of each kind, rows of the ranking, and languages whose tokens may be borrowed, to show."""
MOST_LISTED = 2_000
"""Most findings of a kind on the page; check.jsonl has all."""
MOST_TEXT = 300
"""Most characters of a transcript that are shown."""
WRONG = ((0.95, "almost surely"), (0.5, "probably"), (0.0, "perhaps"))
"""Words for the probability that a transcript is wrong."""


@dataclass(frozen=True, slots=True)
class Example:
    """A row of the data: its transcript, what was found (by heading), its audio as a data URL or why there is none."""

    id: str
    text: str
    found: dict[str, str]
    address: str | None
    silent: str
    where: str


@dataclass(frozen=True, slots=True)
class Kind:
    """The findings of one kind: examples, then the others in one line each. unlisted: those only in check.jsonl."""

    name: str
    is_error: bool
    count: str
    examples: list[Example]
    listed: list[str]
    unlisted: int


def page(report: CheckResults, figures: Mapping[str, Any]) -> str:
    """The page as HTML; everything from the data is escaped."""
    players = Players()
    errors, rows = report.num_errors, report.num_rows + report.num_unread
    shown = [
        (f"{rows:,}", "row" if rows == 1 else "rows"),
        *([(as_duration(figures["seconds"]), "of audio")] if "seconds" in figures else []),
        *([(f"{figures['num_speakers']:,}", "speakers")] if figures.get("num_speakers", 0) > 1 else []),
        (f"{errors:,}", "row with errors" if errors == 1 else "rows with errors"),
        (f"{100 * errors / max(rows, 1):.1f} %", "of all rows"),
    ]
    content = {
        "sources": one_line(", ".join(str(source.path) for source in report.sources)),
        "figures": shown,
        "names": list(dict.fromkeys(source.name for source in report.sources)),
        "counts": [(kind, kind in ERRORS, counts, MEANINGS[kind]) for kind, counts in report.counts().items()],
        "tables": [_sources(figures["sources"]), *_audio(figures), *_language_tokens(figures["language_tokens"])],
        "durations": _durations(figures),
        "ranking": list(_ranking(report, players)),
        "kinds": list(_kinds(report, players)),
        "characters": _characters(figures["characters"]),
    }
    return render("check.html.j2", content)


def _sources(sources: list[Mapping[str, Any]]) -> Table:
    rows = [
        [
            one_line(source["file"]), source["split"] or "", f"{source['rows'] + source['unread']:,}",
            "" if source["hours"] is None else as_duration(3600 * source["hours"]),
            f"{source['rows_with_errors'] + source['unread']:,}",
        ]
        for source in sources
    ]  # fmt: skip
    return Table("Sources", ["file", "set", "rows", "audio", "rows with errors"], rows, (2, 3, 4))


def _durations(figures: Mapping[str, Any]) -> dict[str, Any] | None:
    """What is said about the durations, and the bars: their label, height in percent, number, and first second."""
    bars, quantiles = figures.get("durations", []), figures.get("duration_quantiles", [])
    if not bars or not quantiles:
        return None
    low, middle, high = map(as_duration, quantiles)
    most = max(count for *_, count in bars)
    return {
        "text": f"Half of the clips last up to {middle}, nine in ten {low} to {high}.",
        "bars": [
            (f"{low:g} to {high:g} s: {counted(count, 'clip')}", f"{80 * count / most:.1f}", count or "", f"{low:g}")
            for low, high, count in bars
        ],
    }


def _audio(figures: Mapping[str, Any]) -> Iterator[Table]:
    """Sample rates and speakers."""
    if rates := figures.get("sample_rates"):
        narrow = "lacks the frequencies above {}, which Whisper uses (telephone quality)"
        rows = [
            [as_rate(int(rate)), f"{count:,}", narrow.format(as_rate(int(rate) // 2)) if is_narrow(int(rate)) else ""]
            for rate, count in rates.items()
        ]
        yield Table("Sample rates", ["sample rate", "rows", "what it means"], rows, (1,))
    if speakers := figures.get("speakers"):
        others = figures["num_speakers"] - len(speakers)
        note = f"{counted(figures['num_speakers'], 'speaker')}"
        note += f"; {counted(others, 'other')} with fewer rows" if others else ""
        rows = [[one_line(name), f"{count:,}", as_duration(seconds)] for name, count, seconds in speakers]
        yield Table("Speakers", ["speaker", "rows", "audio"], rows, (1, 2), note)


def _language_tokens(found: Mapping[str, Any] | None) -> Iterator[Table]:
    """The loss under each language's token, for a language that has none."""
    if found is None:
        return
    name, best = language_name(found["language"]), found["suggested"]
    borrow = f"--language {found['language']} --language_token {best}"
    note = f"Measured on {counted(found['clips'], 'clip')}. Borrow that of {language_name(best)}: {borrow}"
    rows = [
        [code, language_name(code), f"{loss:.3f}", "" if code == best else f"{low:.3f} to {high:.3f}"]
        for code, loss, low, high in found["losses"][:SHOWN_TOKENS]
    ]
    headings = ["", "token of", "nats a token", "more than the first, 95 %"]
    yield Table(f"{name} has no token: the loss with another language's", headings, rows, (2, 3), note)


def _example(report: CheckResults, number: int, found: dict[str, str], players: Players) -> Example:
    row = report.utterance(number)
    readable = report.audio is not None and bool(report.audio.readable[number])
    address = players.address(row) if readable else None
    silent = "" if address or not readable else one_line(Path(row.audio).name) if players.full else "cannot be played"
    text = row.text if len(row.text) <= MOST_TEXT else row.text[:MOST_TEXT] + "…"
    return Example(one_line(row.id), text, found, address, silent, _place(row))


def _ranking(report: CheckResults, players: Players) -> Iterator[Example]:
    for number, opinion in report.ranking()[:SHOWN_RANKED]:
        text = report.utterance(number).text
        if opinion.suspicion(text) < 0.5:
            return
        found = {
            "wrong": next(word for least, word in WRONG if opinion.sure(text) >= least),
            "characters that differ": f"{100 * opinion.cer:.0f} %",
            "model's transcript": opinion.hypothesis,
        }
        yield _example(report, number, found, players)


def _kinds(report: CheckResults, players: Players) -> Iterator[Kind]:
    unread = [
        f"{_place_of_fault(fault)}: {one_line(fault.problem)}" for _, fault in report.faults()
    ]  # fmt: skip
    if unread:
        rest = max(0, len(unread) - MOST_LISTED)
        yield Kind("bad_row", True, counted(len(unread), "finding"), [], unread[:MOST_LISTED], rest)
    for kind in report.counts():
        found = [finding for finding in report.findings if finding.kind == kind]
        if not found:
            continue
        most = SHOWN_ERRORS if kind in ERRORS else SHOWN_NOTES
        examples = [
            _example(report, finding.row, {"finding": one_line(finding.detail)}, players) for finding in found[:most]
        ]
        listed = [_listed(report, finding) for finding in found[most:MOST_LISTED]]
        unlisted = max(0, len(found) - MOST_LISTED)
        yield Kind(kind, kind in ERRORS, counted(len(found), "finding"), examples, listed, unlisted)


def _listed(report: CheckResults, finding: Finding) -> str:
    source = report.source_of(finding.row)
    id_, manifest, row = source.rows.origin(finding.row - source.first)
    return f"{one_line(Path(manifest).name)}, row {row}, {one_line(id_)}: {one_line(finding.detail)}"


def _place_of_fault(fault: ManifestError) -> str:
    return one_line(place_of({"file": fault.file or "", "row": fault.row, "field": fault.field}))


def _place(row: Utterance) -> str:
    return f"{one_line(Path(row.source).name)}, row {row.row}"


def _characters(characters: Mapping[str, Any] | None) -> Table | None:
    if not characters or not characters["rare"]:
        return None
    share = 100 * characters["rare_share"]
    note = (
        f"They are {share:.2f} % of all characters. Your texts take up to {characters['tokens_per_character']:.1f} "
        "tokens per character, so that fewer fit in Whisper's 448, and such characters are learnt from your data alone."
    )
    rows = [[char, f"U+{ord(char):04X}", str(tokens), f"{count:,}"] for char, tokens, count in characters["rare"]]
    title = "Characters that the tokenizer spells byte by byte"
    return Table(title, ["character", "code", "tokens", "times"], rows, (2, 3), note)
