"""The results of a check, and their files: check.jsonl, summary.json and ranking.jsonl."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from whispertune.check.audio import AudioFacts
from whispertune.check.borrowing import TokenLosses
from whispertune.check.findings import MEANINGS, Finding, Source, field_of
from whispertune.check.model_based import Opinion
from whispertune.check.sets import locate, source_of
from whispertune.check.text import TextFacts
from whispertune.check.written import writing
from whispertune.data.utterances import Utterance
from whispertune.errors import ManifestError, one_line
from whispertune.text.tokenizer import Tokenizer

RARE_TOKENS = 3
"""A character of at least this many tokens is not in the vocabulary, but spelled byte by byte."""


@dataclass(slots=True)
class CheckResults:
    """The results of a check. opinions: a model's, by row, if one was used. borrowing: its loss under each language's
    token, if it has none for the language spoken."""

    sources: Sequence[Source]
    findings: list[Finding]
    texts: TextFacts
    audio: AudioFacts | None
    opinions: dict[int, Opinion] = field(default_factory=dict)
    borrowing: TokenLosses | None = None

    @property
    def num_rows(self) -> int:
        return sum(len(source.rows) for source in self.sources)

    def faults(self) -> Iterator[tuple[Source, ManifestError]]:
        """Rows and files that could not be read, in the order of their files."""
        for source in self.sources:
            for fault in sorted(source.faults, key=lambda fault: (fault.file or "", fault.row or 0)):
                yield source, fault

    @property
    def num_unread(self) -> int:
        return sum(len(source.faults) for source in self.sources)

    @property
    def num_errors(self) -> int:
        """Rows with errors, those that could not be read included."""
        return len(self.rows_with_errors()) + self.num_unread

    def rows_with_errors(self) -> set[int]:
        return {finding.row for finding in self.findings if finding.severity == "error"}

    def counts(self) -> dict[str, Counter[str]]:
        """How many rows of each source have each kind, errors first."""
        rows: dict[str, set[int]] = {kind: set() for kind in MEANINGS}
        for finding in self.findings:
            rows[finding.kind].add(finding.row)
        places = locate(self.sources)
        counts = {
            kind: np.bincount(places[list(found)], minlength=len(self.sources)) for kind, found in rows.items() if found
        }
        if self.num_unread:
            unread = {"bad_row": np.array([len(source.faults) for source in self.sources])}
            counts = unread | counts
        names = [source.name for source in self.sources]
        return {
            kind: sum((Counter({name: count}) for name, count in zip(names, found.tolist(), strict=True)), Counter())
            for kind, found in counts.items()
        }

    def source_of(self, row: int) -> Source:
        return source_of(self.sources, row)

    def utterance(self, row: int) -> Utterance:
        source = self.source_of(row)
        return source.rows[row - source.first]

    def ranking(self) -> list[tuple[int, Opinion]]:
        """Rows by decreasing suspicion that their transcript is wrong."""
        return sorted(self.opinions.items(), key=lambda item: -item[1].suspicion(self.utterance(item[0]).text))

    def hours(self, source: Source) -> float | None:
        if self.audio is None:
            return None
        return float(self.audio.seconds[source.first : source.first + len(source.rows)].sum()) / 3600


def finding_rows(report: CheckResults) -> Iterator[dict[str, Any]]:
    """The lines of check.jsonl."""
    for source, fault in report.faults():
        yield {
            "id": None, "kind": "bad_row", "severity": "error", "detail": one_line(fault.problem),
            "file": fault.file or str(source.path), "row": fault.row, "field": fault.field,
            "split": source.role or None,
        }  # fmt: skip
    for finding in report.findings:
        source = report.source_of(finding.row)
        id_, manifest, row = source.rows.origin(finding.row - source.first)
        yield {
            "id": id_, "kind": finding.kind, "severity": finding.severity, "detail": finding.detail,
            "file": manifest, "row": row, "field": field_of(finding.kind), "split": source.role or None,
        }  # fmt: skip


def place_of(found: dict[str, Any]) -> str:
    """File, row and field of a line of check.jsonl, as far as they are known."""
    row = "" if found["row"] is None else f", row {found['row']}"
    field = "" if found["field"] is None else f", {found['field']}"
    return f"{Path(found['file']).name}{row}{field}"


def ranking_rows(report: CheckResults) -> Iterator[dict[str, Any]]:
    """The lines of ranking.jsonl."""
    for number, opinion in report.ranking():
        row = report.utterance(number)
        yield {
            "id": row.id, "suspicion": round(opinion.suspicion(row.text), 3), "sure": round(opinion.sure(row.text), 3),
            "cer": round(opinion.cer, 4), "loss": round(opinion.nll, 4), "own_loss": round(opinion.own_nll, 4),
            "text": row.text, "heard": opinion.hypothesis, "file": row.source, "row": row.row,
        }  # fmt: skip


def summary(report: CheckResults, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """The content of summary.json."""
    errors = report.rows_with_errors()
    counts = report.counts()
    return {
        "rows": report.num_rows,
        "rows_with_errors": len(errors),
        "unread": report.num_unread,
        "audio_checked": report.audio is not None,
        "kinds": {kind: sum(counter.values()) for kind, counter in counts.items()},
        "sources": [
            {
                "file": str(source.path), "split": source.role or None, "rows": len(source.rows),
                "unread": len(source.faults), "hours": report.hours(source),
                "rows_with_errors": sum(source.first <= row < source.first + len(source.rows) for row in errors),
            }
            for source in report.sources
        ],
        "characters": character_costs(report.texts, tokenizer) if tokenizer else None,
        "language_tokens": report.borrowing.summary() if report.borrowing else None,
    }  # fmt: skip


def character_costs(texts: TextFacts, tokenizer: Tokenizer) -> dict[str, Any]:
    """The characters that the tokenizer spells byte by byte, and their counts.

    tokens_per_character: for single characters, an upper bound for texts. rare: [character, tokens, count].
    """
    codes = np.flatnonzero(texts.usage)
    codes = codes[(codes != 0x20) & ~((codes >= 0xD800) & (codes < 0xE000))]
    costs = [len(tokenizer.encode(chr(code))) for code in codes.tolist()]
    counts = texts.usage[codes].tolist()
    rare = [[chr(c), n, k] for c, n, k in zip(codes.tolist(), costs, counts, strict=True) if n >= RARE_TOKENS]
    total = sum(counts)
    return {
        "tokens_per_character": round(sum(n * k for n, k in zip(costs, counts, strict=True)) / max(total, 1), 3),
        "rare_share": round(sum(row[2] for row in rare) / max(total, 1), 6),
        "rare": sorted(rare, key=lambda row: -row[2])[:100],
    }


def write_findings(report: CheckResults, folder: Path) -> None:
    """Write check.jsonl, and ranking.jsonl if a model was used."""
    with writing(folder / "check.jsonl") as file:
        for row in finding_rows(report):  # one by one, as there may be millions
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    if report.opinions:
        with writing(folder / "ranking.jsonl") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in ranking_rows(report))
