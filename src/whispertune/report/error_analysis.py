"""Error analysis: outputs aligned with their references, kinds of errors, confusions, errors by group."""

from __future__ import annotations

from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import jiwer

from whispertune.errors import UserError
from whispertune.evaluation.error_rates import ErrorCounts
from whispertune.report.before_after import leading_counts
from whispertune.report.runs import Row
from whispertune.text.normalizer import basic_normalize, normalizer_for

DURATIONS = (1, 2, 3, 5, 8, 12, 20)
"""Bounds of the duration classes, seconds."""
DURATION_CLASSES = (
    f"up to {DURATIONS[0]} s", *(f"{low} to {high} s" for low, high in pairwise(DURATIONS)), f"over {DURATIONS[-1]} s"
)  # fmt: skip


class Piece(NamedTuple):
    """A stretch of an alignment. kind: equal, substitute, delete (of the reference) or insert (of the output)."""

    kind: str
    reference: tuple[str, ...]
    hypothesis: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Aligned:
    """An output along its reference, normalised: in words or, in languages without spaces, in characters."""

    pieces: tuple[Piece, ...]
    spaceless: bool = False

    @property
    def counts(self) -> ErrorCounts:
        """The errors of this alignment."""
        sizes: Counter[str] = Counter()
        for piece in self.pieces:
            sizes[piece.kind] += max(len(piece.reference), len(piece.hypothesis))
        length = sum(len(piece.reference) for piece in self.pieces)
        return ErrorCounts(
            substitutions=sizes["substitute"], insertions=sizes["insert"], deletions=sizes["delete"],
            num_reference=length,
        )  # fmt: skip


def align(rows: Sequence[Row]) -> list[Aligned]:
    """Align the outputs of hypotheses.jsonl with their references, along the edit path that they were scored by."""
    made: dict[int, Aligned] = {}
    tokens: dict[bool, list[tuple[int, str, str]]] = {False: [], True: []}
    for place, row in enumerate(rows):
        spaceless = bool(row.get("leads_with_cer"))
        reference, hypothesis = normalized(row)
        if spaceless:
            reference = reference.replace(" ", "")
            hypothesis = hypothesis.replace(" ", "")
        if reference and hypothesis:
            tokens[spaceless].append((place, reference, hypothesis))
        else:
            text = _units(reference or hypothesis, spaceless)
            piece = Piece("delete", text, ()) if reference else Piece("insert", (), text)
            made[place] = Aligned((piece,) if text else (), spaceless)
    for spaceless, texts in tokens.items():
        if not texts:
            continue
        places, references, hypotheses = zip(*texts, strict=True)
        process = jiwer.process_characters if spaceless else jiwer.process_words
        found = process(list(references), list(hypotheses))
        for place, reference_units, output_units, chunks in zip(
            places, found.references, found.hypotheses, found.alignments, strict=True
        ):
            made[place] = Aligned(
                tuple(
                    Piece(
                        chunk.type,
                        tuple(reference_units[chunk.ref_start_idx : chunk.ref_end_idx]),
                        tuple(output_units[chunk.hyp_start_idx : chunk.hyp_end_idx]),
                    )
                    for chunk in chunks
                ),
                spaceless,
            )
    return [made[place] for place in range(len(rows))]


def _units(text: str, spaceless: bool) -> tuple[str, ...]:
    return tuple(text if spaceless else text.split())


def normalized(row: Row) -> tuple[str, str]:
    """Reference and output as they were scored; rows of older versions are normalised again."""
    if "reference_normalized" in row:
        return str(row["reference_normalized"]), str(row["hypothesis_normalized"])
    try:
        normalize = normalizer_for(str(row.get("language", "")))
    except UserError:
        normalize = lambda text: basic_normalize(text).strip()  # noqa: E731
    return normalize(row["reference"]), normalize(row["hypothesis"])


def total_counts(aligned: Sequence[Aligned]) -> ErrorCounts:
    """The errors of all alignments together."""
    every = [one.counts for one in aligned]
    return ErrorCounts(
        substitutions=sum(counts.substitutions for counts in every),
        insertions=sum(counts.insertions for counts in every),
        deletions=sum(counts.deletions for counts in every),
        num_reference=sum(counts.num_reference for counts in every),
    )


def confusions(aligned: Sequence[Aligned]) -> Counter[tuple[str, str]]:
    """(reference, output) pairs and how often they occur; "" on one side where a word was missing or added."""
    found: Counter[tuple[str, str]] = Counter()
    for one in aligned:
        for piece in one.pieces:
            if piece.kind == "substitute":
                found.update(zip(piece.reference, piece.hypothesis, strict=True))
            elif piece.kind == "delete":
                found.update((word, "") for word in piece.reference)
            elif piece.kind == "insert":
                found.update(("", word) for word in piece.hypothesis)
    return found


def never_recognised(aligned: Sequence[Aligned], least: int = 2) -> list[tuple[str, int, str]]:
    """Words that no output has in their place: (word, its occurrences, what was most often written instead)."""
    occurrences: Counter[str] = Counter()
    recognised: set[str] = set()
    written: dict[str, Counter[str]] = defaultdict(Counter)
    for one in aligned:
        for piece in one.pieces:
            occurrences.update(piece.reference)
            if piece.kind == "equal":
                recognised.update(piece.reference)
            elif piece.kind == "substitute":
                for word, instead in zip(piece.reference, piece.hypothesis, strict=True):
                    written[word][instead] += 1
    missing = [(word, times) for word, times in occurrences.items() if word not in recognised and times >= least]
    missing.sort(key=lambda entry: (-entry[1], entry[0]))
    return [(word, times, (written[word].most_common(1) or [("", 0)])[0][0]) for word, times in missing]


class Group(NamedTuple):
    """Utterances with a property in common. seconds: of speech. before, after: errors. length: words or characters."""

    name: str
    utterances: int
    seconds: float
    before: int
    after: int
    length: int

    @property
    def rates(self) -> tuple[float, float]:
        """Before and after, fractions."""
        return self.before / max(self.length, 1), self.after / max(self.length, 1)


def by_group(pairs: Sequence[tuple[Row, Row]], key: Callable[[Row], str | None]) -> list[Group]:
    """Errors by the group that `key` names for an utterance; None leaves the utterance out."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0, 0.0, 0, 0, 0])
    for before, after in pairs:
        if (name := key(after)) is None:
            continue
        errors, length = leading_counts(after)
        group = sums[name]
        for place, value in enumerate((1, after.get("duration", 0.0), leading_counts(before)[0], errors, length)):
            group[place] += value
    return [
        Group(name, int(count), seconds, int(before), int(after), int(length))
        for name, (count, seconds, before, after, length) in sums.items()
    ]


def duration_class(row: Row) -> str | None:
    """`1 to 2 s`, where the clip's duration is known."""
    duration = row.get("duration")
    return None if duration is None else DURATION_CLASSES[bisect(DURATIONS, duration)]


def by_duration(pairs: Sequence[tuple[Row, Row]]) -> list[Group]:
    """Errors by duration, the shortest clips first."""
    return sorted(by_group(pairs, duration_class), key=lambda group: DURATION_CLASSES.index(group.name))
