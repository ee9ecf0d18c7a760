"""Error rates before and after training, their intervals, and whether the difference is significant."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from whispertune.evaluation.significance import (
    FEWEST_UTTERANCES,
    MatchedPairs,
    bootstrap_interval,
    matched_pairs,
    speaker_groups,
)
from whispertune.report.runs import Pair, Row

COUNTS = {"WER": ("word_errors", "words"), "CER": ("character_errors", "characters")}
"""The fields of a hypothesis that each rate is computed from."""
MOST_FACTOR = 50
"""Most multiples of the existing test speech that are worth recommending."""


def leading_counts(row: Row) -> tuple[int, int]:
    """Errors and reference length of an utterance, in words or, if its language is judged by them, in characters."""
    errors, length = COUNTS["CER" if row.get("leads_with_cer") else "WER"]
    return int(row[errors]), int(row[length])


def speakers_of(rows: Sequence[Row]) -> Sequence[str | None] | None:
    """Each utterance's speaker; None if too few are named for a test over speakers."""
    return speaker_groups([row.get("speaker") for row in rows])


@dataclass(frozen=True, slots=True)
class BeforeAfter:
    """Results before and after on one split. rate: WER, CER or MER. test: None where transcripts were not kept.

    speakers: named ones; by_speaker: whether intervals and test are over them. seconds: of speech, 0 if unknown.
    """

    pair: Pair
    rate: str
    before: float
    after: float
    intervals: tuple[tuple[float, float] | None, tuple[float, float] | None]
    test: MatchedPairs | None
    utterances: int
    speakers: int
    by_speaker: bool
    seconds: float

    @property
    def change(self) -> float:
        """Change of the rate, a fraction; negative if it improved."""
        return self.after - self.before

    @property
    def few(self) -> bool:
        """Whether there are too few utterances for reliable intervals."""
        return self.utterances < FEWEST_UTTERANCES

    def more_seconds(self) -> float | None:
        """Seconds of additional speech that would make the difference significant, if it stays as large as it is.

        The width of an interval falls with the square root of the sample size. None if that is zero, too much or
        unknown.
        """
        test = self.test
        if test is None or test.significant or not test.difference or not self.seconds:
            return None
        half = abs(test.difference - (test.low if test.difference > 0 else test.high))  # on the side of zero
        if not math.isfinite(half):
            return None
        factor = (half / abs(test.difference)) ** 2
        return (factor - 1) * self.seconds if 1 < factor <= MOST_FACTOR else None


def before_after(pair: Pair) -> BeforeAfter:
    """Compare the two models of a pair by the leading rate."""
    rate = pair.leading
    rows = [after for _, after in pair.matched]
    speakers = speakers_of(rows)
    test = None
    if rows:
        before_errors, _ = zip(*(leading_counts(before) for before, _ in pair.matched), strict=True)
        after_errors, lengths = zip(*map(leading_counts, rows), strict=True)
        test = matched_pairs(before_errors, after_errors, lengths, groups=speakers)
    before, after = (float(side.metrics["leading_rate"]) for side in (pair.before, pair.after))
    return BeforeAfter(
        pair, rate, before, after,
        (interval(rate, pair.before.metrics, pair.before.rows), interval(rate, pair.after.metrics, pair.after.rows)),
        test, int(pair.after.metrics.get("utterances", len(rows))),
        len({row.get("speaker") for row in rows} - {None}), speakers is not None,
        sum(row.get("duration", 0.0) for row in rows),
    )  # fmt: skip


def interval(rate: str, metrics: Row, rows: Sequence[Row]) -> tuple[float, float] | None:
    """95 % interval of a rate, from metrics.jsonl; None if it has none.

    Older versions did not compute it over speakers: it is recomputed where enough are named.
    """
    speakers = None if metrics.get("intervals_over") == "speakers" and rate != "MER" else speakers_of(rows)
    if speakers is not None:
        counted = [
            leading_counts(row) if rate == "MER" else (row[COUNTS[rate][0]], row[COUNTS[rate][1]]) for row in rows
        ]
        errors, lengths = zip(*counted, strict=True)
        return bootstrap_interval(errors, lengths, groups=speakers)
    found: Any = metrics.get(f"{rate.lower()}_interval")
    if found is None and rate == "MER" and rows:
        errors, lengths = zip(*map(leading_counts, rows), strict=True)
        return bootstrap_interval(errors, lengths)
    return None if found is None else (float(found[0]), float(found[1]))
