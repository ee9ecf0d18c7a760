"""How certain an error rate is, or the difference between two: the bootstrap over utterances.

Bisani & Ney 2004, "Bootstrap estimates for confidence intervals in ASR performance evaluation": draw as
many utterances as there are, with replacement, and take the corpus rate of the draw; the spread of many
such rates is the spread that another test set of this kind would show. Utterances are treated as
independent; where a few speakers say many of them, the real uncertainty is larger than computed here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEWEST_UTTERANCES = 30
"""With fewer utterances the draws differ too little: the interval is too narrow, or even a point."""

_DRAWS_AT_ONCE = 1_000_000  # utterances per chunk of draws: about 24 MB


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedBootstrap:
    """Rate of b minus rate of a on the same utterances: below zero, b is better."""

    difference: float
    low: float
    high: float
    probability_b_better: float

    @property
    def significant(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0

    def verdict(self) -> str:
        """What the interval says about the difference, in words."""
        if self.significant:
            return "better beyond chance" if self.high < 0 else "worse beyond chance"
        return "no difference" if self.difference == self.low == self.high == 0 else "not conclusive: it may be chance"


def caveat(name: str, num_utterances: int) -> str | None:
    """A warning that a set is too small for its intervals to mean much; None if it isn't."""
    if num_utterances >= FEWEST_UTTERANCES:
        return None
    return (
        f"{name} has {num_utterances} utterances: with fewer than {FEWEST_UTTERANCES} the 95 % intervals are too "
        "narrow to rely on"
    )


def bootstrap_interval(
    errors: Sequence[int],
    lengths: Sequence[int],
    *,
    confidence: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of the corpus error rate, as fractions: (low, high).

    `errors` and `lengths` hold each utterance's errors and reference words (or characters). The same
    input and seed give the same interval. No utterances: (0, 0). ValueError if the numbers differ.
    """
    table = _table(errors, lengths)
    if not table.shape[1]:
        return 0.0, 0.0
    rates = np.concatenate([_rates(sums)[0] for sums in _resampled_sums(table, samples, seed)])
    return _interval(rates, confidence)


def paired_bootstrap(
    errors_a: Sequence[int],
    errors_b: Sequence[int],
    lengths: Sequence[int],
    *,
    confidence: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
) -> PairedBootstrap:
    """Compare two systems on the same utterances, drawing the same ones for both.

    `difference` is rate b - rate a, with its percentile interval; `probability_b_better` is the share of
    draws in which b has fewer errors (Bisani & Ney's probability of improvement), ties counted half, so
    that equal systems get 0.5. Input as in `bootstrap_interval`.
    """
    table = _table(errors_a, errors_b, lengths)
    if not table.shape[1]:
        return PairedBootstrap(difference=0.0, low=0.0, high=0.0, probability_b_better=0.5)
    rate_a, rate_b = _rates(table.sum(axis=1, keepdims=True))
    rates = np.concatenate([_rates(sums) for sums in _resampled_sums(table, samples, seed)], axis=1)
    differences = rates[1] - rates[0]
    low, high = _interval(differences, confidence)
    return PairedBootstrap(
        difference=float(rate_b[0] - rate_a[0]),
        low=low,
        high=high,
        probability_b_better=float((differences < 0).mean() + (differences == 0).mean() / 2),
    )


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
