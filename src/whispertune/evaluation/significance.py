"""How certain an error rate is, or the difference between two: the bootstrap, and a matched-pairs test.

Bisani & Ney 2004, "Bootstrap estimates for confidence intervals in ASR performance evaluation": draw as
many utterances as there are, with replacement, and take the corpus rate of the draw; the spread of many
such rates is the spread that another test set of this kind would show. Utterances of one speaker are not
independent: where `groups` names each utterance's speaker, whole speakers are drawn, as another test set would
have other speakers.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from whispertune.system.counts import counted

NumberT = TypeVar("NumberT", np.int64, np.float64)

FEWEST_UTTERANCES = 30
"""With fewer utterances the draws differ too little: the interval is too narrow, or even a point."""

FEWEST_SPEAKERS = 6
"""With fewer speakers no difference can be conclusive: of 2**5 exchanges, 2 are as extreme as any result (p = 6 %)."""

_ALL_SIGNS = 12
"""Groups up to which a matched-pairs test takes every assignment of signs, 2**12 of them."""

_DRAWS_AT_ONCE = 1_000_000  # utterances per chunk of draws: about 24 MB


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchedPairs:
    """Rate of b minus rate of a on the same utterances, by a matched-pairs test: below zero, b is better.

    low, high: the differences that the test would not reject at 95 %; infinite where there are too few groups to reject
    any. p: how often equal systems would differ at least as much. num_groups: utterances, or speakers.
    """

    difference: float
    low: float
    high: float
    p: float
    num_groups: int

    @property
    def significant(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0

    def verdict(self) -> str:
        """The conclusion from the test, in words."""
        if self.significant:
            return "better beyond chance" if self.high < 0 else "worse beyond chance"
        unchanged = self.difference == self.low == self.high == 0
        return "no difference" if unchanged else "not conclusive: it may be chance"

    def bounds(self, digits: int = 1) -> str:
        """The interval in points, for people: `-9.2 to -2.9`."""
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            return "no bounds, too little data"
        return f"{100 * self.low:+.{digits}f} to {100 * self.high:+.{digits}f}"

    def in_points(self) -> str:
        """The difference with its interval and what it means: `+1.2 points (95 %: …), …`."""
        return f"{100 * self.difference:+.1f} points (95 %: {self.bounds()}), {self.verdict()}"

    def summary(self) -> dict[str, Any]:
        """The difference as summary.json holds it; null for a bound that is infinite."""
        interval = [bound if math.isfinite(bound) else None for bound in (self.low, self.high)]
        return {"value": self.difference, "interval": interval, "significant": self.significant, "p": self.p}


def speaker_groups(speakers: Sequence[str | None]) -> Sequence[str | None] | None:
    """Each utterance's speaker, as `groups` of an interval or test; None if fewer than `FEWEST_SPEAKERS` are named."""
    return speakers if len(set(speakers) - {None}) >= FEWEST_SPEAKERS else None


def caveat(name: str, num_utterances: int) -> str | None:
    """A warning that a set is too small for its intervals to mean much; None if it isn't."""
    if num_utterances >= FEWEST_UTTERANCES:
        return None
    return (
        f"{name} has {counted(num_utterances, 'utterance')}: with fewer than {FEWEST_UTTERANCES} the 95 % intervals "
        "are too narrow to rely on"
    )


def bootstrap_interval(
    errors: Sequence[int],
    lengths: Sequence[int],
    *,
    confidence: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
) -> tuple[float, float]:
    """Percentile interval of the corpus error rate, as fractions: (low, high).

    `errors` and `lengths` hold each utterance's errors and reference words (or characters). The same
    input and seed give the same interval. No utterances: (0, 0). ValueError if the numbers differ.
    groups: each utterance's speaker; whole speakers are drawn then, an utterance of None by itself.
    """
    table = _grouped(_table(errors, lengths), groups)
    if not table.shape[1]:
        return 0.0, 0.0
    rates = np.concatenate([_rates(sums)[0] for sums in _resampled_sums(table, samples, seed)])
    return _interval(rates, confidence)


def matched_pairs(
    errors_a: Sequence[float],
    errors_b: Sequence[float],
    lengths: Sequence[int],
    *,
    confidence: float = 0.95,
    samples: int = 4000,
    seed: int = 0,
    groups: Sequence[Hashable] | None = None,
) -> MatchedPairs:
    """Test whether two systems differ on the same utterances, assuming only that equal ones are exchangeable.

    If a and b are equal, then their outputs for each utterance (or speaker: `groups`, as in `bootstrap_interval`) can
    be exchanged. `p` is the share of random exchanges after which the difference is at least as large
    (Fisher's randomisation test, over all exchanges if these are few). The interval holds the differences d that
    the same test, applied to errors b - d * length, does not reject: per exchange, those between the difference on
    the exchanged utterances and that on the others (Hartigan 1969, "Using subsample values as typical values"). So it
    excludes zero exactly where p is at most 1 - confidence, also for few utterances and speakers.

    errors_a, errors_b: numbers of errors, or their means over several runs.
    """
    if len({len(errors_a), len(errors_b), len(lengths)}) != 1:
        raise ValueError(f"one number per utterance in each: got {[len(errors_a), len(errors_b), len(lengths)]}")
    differences = np.asarray(errors_b, np.float64) - np.asarray(errors_a, np.float64)
    table = _grouped(np.stack([differences, np.asarray(lengths, np.float64)]), groups)
    num_groups = table.shape[1]
    all_errors, all_words = table.sum(axis=1).tolist()
    difference = all_errors / max(all_words, 1)
    if not np.any(table[0]):
        return MatchedPairs(difference=0.0, low=0.0, high=0.0, p=1.0, num_groups=num_groups)
    exchanged = np.concatenate(list(_exchanged_sums(table, samples, seed)), axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        one, other = exchanged[0] / exchanged[1], (all_errors - exchanged[0]) / (all_words - exchanged[1])
    # An exchange of nothing or of everything is as extreme whatever the difference.
    decides = (exchanged[1] > 0) & (exchanged[1] < all_words)
    lows = np.sort(np.where(decides, np.minimum(one, other), -math.inf))
    highs = np.sort(np.where(decides, np.maximum(one, other), math.inf))
    place = math.floor((1 - confidence) * len(lows) + 1e-9)
    extreme = np.searchsorted(lows, 0.0, side="right") if difference > 0 else (highs >= 0).sum()
    return MatchedPairs(
        difference=difference,
        low=float(lows[place]),
        high=float(highs[-1 - place]),
        p=float(extreme / len(lows)),
        num_groups=num_groups,
    )


def compare_rows(baseline: Sequence[Mapping[str, Any]], model: Sequence[Mapping[str, Any]]) -> MatchedPairs:
    """`matched_pairs` of the leading rates in rows of hypotheses.jsonl, on the utterances that both hold."""
    theirs = {row["id"]: row for row in baseline}
    pairs = [(theirs[row["id"]], row) for row in model if row["id"] in theirs]
    units = ["character" if before["leads_with_cer"] else "word" for before, _ in pairs]
    return matched_pairs(
        [before[f"{unit}_errors"] for unit, (before, _) in zip(units, pairs, strict=True)],
        [after[f"{unit}_errors"] for unit, (_, after) in zip(units, pairs, strict=True)],
        [before[f"{unit}s"] for unit, (before, _) in zip(units, pairs, strict=True)],
        groups=speaker_groups([before.get("speaker") for before, _ in pairs]),
    )


def _exchanged_sums(table: NDArray[np.float64], samples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """(2, exchanges) sums of errors and lengths over what is exchanged; the first exchange is that of nothing."""
    num_groups = table.shape[1]
    if num_groups <= _ALL_SIGNS:
        numbers = np.arange(2**num_groups)[:, None]
        yield table @ ((numbers >> np.arange(num_groups)) & 1).T
        return
    yield np.zeros((2, 1))
    generator = np.random.default_rng(seed)
    chunk = max(1, _DRAWS_AT_ONCE // num_groups)
    for start in range(0, samples, chunk):
        yield table @ generator.integers(2, size=(min(chunk, samples - start), num_groups), dtype=np.int8).T


def _grouped(table: NDArray[NumberT], groups: Sequence[Hashable] | None) -> NDArray[NumberT]:
    """The table with the columns' utterances of each group summed up; those of None stay by themselves."""
    if groups is None:
        return table
    if len(groups) != table.shape[1]:
        raise ValueError(f"one group per utterance: got {len(groups)} for {table.shape[1]}")
    numbers: dict[Hashable, int] = {}
    keys = [(place,) if group is None else group for place, group in enumerate(groups)]
    places = np.asarray([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
    order = np.argsort(places, kind="stable")
    begins = np.searchsorted(places[order], np.arange(len(numbers)))
    summed: NDArray[NumberT] = np.add.reduceat(table[:, order], begins, axis=1)
    return summed


def _table(*columns: Sequence[int]) -> NDArray[np.int64]:
    """(columns, utterances); the last column is the reference's length."""
    if len({len(column) for column in columns}) != 1:
        raise ValueError(f"one number per utterance in each: got {[len(column) for column in columns]}")
    return np.asarray(columns, dtype=np.int64)


def _resampled_sums(table: NDArray[np.int64], samples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """(columns, draws) sums over resampled utterances, in chunks that bound the memory."""
    generator = np.random.default_rng(seed)
    num_utterances = table.shape[1]
    chunk = max(1, _DRAWS_AT_ONCE // num_utterances)
    for start in range(0, samples, chunk):
        num_draws = min(chunk, samples - start)
        drawn = generator.integers(num_utterances, size=(num_draws, num_utterances))
        yield np.stack([column[drawn].sum(axis=1) for column in table])


def _rates(sums: NDArray[np.int64]) -> NDArray[np.float64]:
    """(systems, draws) rates; an empty reference counts as one word, as in `ErrorCounts.rate`."""
    rates: NDArray[np.float64] = sums[:-1] / np.maximum(sums[-1], 1)
    return rates


def _interval(values: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence lies between 0 and 1, not at {confidence}")
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
