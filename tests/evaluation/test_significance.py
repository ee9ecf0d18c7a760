from itertools import product

import numpy as np
import pytest

from whispertune.evaluation import significance
from whispertune.evaluation.significance import (
    FEWEST_SPEAKERS,
    FEWEST_UTTERANCES,
    MatchedPairs,
    bootstrap_interval,
    caveat,
    matched_pairs,
)


def test_the_interval_is_that_of_the_binomial_where_each_utterance_is_a_word() -> None:
    errors = [1] * 200 + [0] * 800
    low, high = bootstrap_interval(errors, [1] * 1000, samples=4000)
    margin = 1.96 * (0.2 * 0.8 / 1000) ** 0.5
    assert low == pytest.approx(0.2 - margin, abs=0.003)
    assert high == pytest.approx(0.2 + margin, abs=0.003)


def test_the_interval_covers_the_true_rate_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        lengths = generator.integers(1, 20, size=100)
        errors = generator.binomial(lengths, 0.15)
        low, high = bootstrap_interval(errors.tolist(), lengths.tolist(), samples=400, seed=trial)
        covered += low <= 0.15 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_it_is_a_function_of_input_and_seed() -> None:
    errors, lengths = [0, 1, 3, 0, 2, 1], [4, 5, 9, 3, 8, 7]
    assert bootstrap_interval(errors, lengths, seed=3) == bootstrap_interval(errors, lengths, seed=3)
    wide = bootstrap_interval(errors, lengths, confidence=0.99)
    narrow = bootstrap_interval(errors, lengths, confidence=0.5)
    assert wide[0] <= narrow[0] <= 7 / 36 <= narrow[1] <= wide[1]


def test_degenerate_corpora() -> None:
    assert bootstrap_interval([], []) == (0.0, 0.0)
    assert bootstrap_interval([1], [4]) == (0.25, 0.25)
    assert bootstrap_interval([0, 0], [3, 4]) == (0.0, 0.0)
    assert bootstrap_interval([2, 2], [0, 0]) == (4.0, 4.0)  # no reference words: as ErrorCounts.rate
    assert matched_pairs([], [], []) == MatchedPairs(difference=0.0, low=0.0, high=0.0, p=1.0, num_groups=0)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    errors, lengths = [0, 1, 3, 0, 2, 1], [4, 5, 9, 3, 8, 7]
    whole = bootstrap_interval(errors, lengths, samples=100)
    pairs = matched_pairs(errors * 5, errors[::-1] * 5, lengths * 5, samples=100)
    monkeypatch.setattr(significance, "_DRAWS_AT_ONCE", 64)
    assert bootstrap_interval(errors, lengths, samples=100) == whole
    assert matched_pairs(errors * 5, errors[::-1] * 5, lengths * 5, samples=100) == pairs


def test_a_clearly_better_system_is_told_from_an_equal_one() -> None:
    generator = np.random.default_rng(0)
    lengths = [10] * 300
    a = generator.binomial(10, 0.2, size=300)
    b = generator.binomial(a, 0.7)
    better = matched_pairs(a.tolist(), b.tolist(), lengths)
    assert better.difference == pytest.approx((b.sum() - a.sum()) / 3000)
    assert better.low < better.difference < better.high < 0
    assert better.significant

    swapped = matched_pairs(b.tolist(), a.tolist(), lengths)
    assert swapped.difference == -better.difference
    assert (swapped.low, swapped.high) == (-better.high, -better.low)

    same = matched_pairs(a.tolist(), a.tolist(), lengths)
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)
    assert not same.significant


def test_pairing_sees_what_two_separate_intervals_do_not() -> None:
    generator = np.random.default_rng(0)
    lengths = [10] * 200
    a = generator.integers(0, 9, size=200)  # utterances differ a lot ...
    b = a - (generator.random(200) < 0.1) * (a > 0)  # ... the systems a little, always the same way
    low_a, _ = bootstrap_interval(a.tolist(), lengths)
    _, high_b = bootstrap_interval(b.tolist(), lengths)
    assert high_b > low_a
    assert matched_pairs(a.tolist(), b.tolist(), lengths).significant


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="one number per utterance"):
        bootstrap_interval([1, 2], [3])
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_interval([1, 2], [3, 4], confidence=95)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.126, 0.0, "not conclusive: it may be chance"),
        (-0.126, -0.001, "better beyond chance"),
        (0.001, 0.1, "worse beyond chance"),
    ],
)
def test_an_interval_that_reaches_zero_is_not_conclusive(low: float, high: float, verdict: str) -> None:
    found = MatchedPairs(difference=(low + high) / 2, low=low, high=high, p=0.5, num_groups=9)
    assert found.verdict() == verdict
    assert found.bounds() == f"{100 * low:+.1f} to {100 * high:+.1f}"
    same = MatchedPairs(difference=0.0, low=0.0, high=0.0, p=1.0, num_groups=9)
    assert same.verdict() == "no difference"


def test_few_utterances_get_a_caveat() -> None:
    assert caveat("valid", FEWEST_UTTERANCES) is None
    assert "valid has 3 utterances" in str(caveat("valid", 3))


def test_speakers_are_drawn_whole() -> None:
    errors, lengths, speakers = [1, 0, 4, 2, 0, 3], [5, 4, 6, 5, 3, 5], ["a", "a", "b", "b", "c", None]
    summed = ([1, 6, 0, 3], [9, 11, 3, 5])
    assert bootstrap_interval(errors, lengths, groups=speakers) == bootstrap_interval(*summed)
    other = [0, 0, 4, 1, 0, 1]
    by_hand = matched_pairs([1, 6, 0, 3], [0, 5, 0, 1], [9, 11, 3, 5])
    assert matched_pairs(errors, other, lengths, groups=speakers) == by_hand
    assert bootstrap_interval(errors, lengths, groups=[None] * 6) == bootstrap_interval(errors, lengths)
    with pytest.raises(ValueError, match="one group per utterance"):
        bootstrap_interval(errors, lengths, groups=["a"])


def by_hand(differences: list[int], lengths: list[int], shift: float = 0.0) -> float:
    """p of the difference of rates being `shift`, by trying every exchange."""
    left = [x - shift * n for x, n in zip(differences, lengths, strict=True)]
    sums = [abs(sum(s * x for s, x in zip(signs, left, strict=True))) for signs in product((1, -1), repeat=len(left))]
    return sum(one >= abs(sum(left)) - 1e-9 for one in sums) / len(sums)


def test_matched_pairs_against_every_exchange() -> None:
    generator = np.random.default_rng(2)
    for _ in range(20):
        lengths = generator.integers(1, 12, size=9).tolist()
        a, b = generator.binomial(lengths, 0.4).tolist(), generator.binomial(lengths, 0.2).tolist()
        differences = [y - x for x, y in zip(a, b, strict=True)]
        found = matched_pairs(a, b, lengths)
        assert found.difference == pytest.approx(sum(differences) / sum(lengths))
        assert found.p == pytest.approx(by_hand(differences, lengths))
        assert found.significant == (found.p <= 0.05)
        # Just inside the interval a difference is not rejected, just outside it is.
        for bound, outwards in ((found.low, -1e-6), (found.high, 1e-6)):
            assert by_hand(differences, lengths, bound - outwards) > 0.05
            assert by_hand(differences, lengths, bound + outwards) <= 0.05


def test_matched_pairs_of_many_and_of_few() -> None:
    generator = np.random.default_rng(0)
    lengths = [10] * 300
    a = generator.binomial(10, 0.2, size=300)
    better, equal = generator.binomial(a, 0.7), generator.permutation(a)
    assert matched_pairs(a.tolist(), better.tolist(), lengths).verdict() == "better beyond chance"
    assert matched_pairs(better.tolist(), a.tolist(), lengths).verdict() == "worse beyond chance"
    assert matched_pairs(a.tolist(), equal.tolist(), lengths).verdict() == "not conclusive: it may be chance"
    assert matched_pairs(a.tolist(), a.tolist(), lengths).verdict() == "no difference"
    few = matched_pairs([5] * (FEWEST_SPEAKERS - 1), [0] * (FEWEST_SPEAKERS - 1), [9] * (FEWEST_SPEAKERS - 1))
    assert (few.low, few.high, few.significant) == (-float("inf"), float("inf"), False)
    assert matched_pairs([5] * FEWEST_SPEAKERS, [0] * FEWEST_SPEAKERS, [9] * FEWEST_SPEAKERS).significant
    assert matched_pairs([], [], []).p == 1.0
    with pytest.raises(ValueError, match="one number per utterance"):
        matched_pairs([1], [1], [1, 2])


def equal_systems(
    generator: np.random.Generator, speakers: int, utterances: int, effect: float
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Errors of two equally good systems, lengths, and speakers, each of whom one or the other suits better."""
    hard = generator.beta(1, 5, size=(speakers, utterances))
    lengths = generator.integers(3, 15, size=(speakers, utterances))
    systems = []
    for _ in range(2):
        suits = np.exp(generator.normal(0, effect, size=(speakers, 1)))
        systems.append(generator.binomial(lengths, np.clip(hard * suits, 0, 0.95)).ravel().tolist())
    return systems[0], systems[1], lengths.ravel().tolist(), np.repeat(np.arange(speakers), utterances).tolist()


SIMULATED = [
    pytest.param(100, 1, 0.0, False, (0.03, 0.07), id="utterances"),
    pytest.param(20, 5, 0.5, True, (0.03, 0.07), id="speakers"),
    pytest.param(20, 5, 0.5, False, (0.12, 0.6), id="speakers, taken for utterances: too many"),
    pytest.param(400, 1, 0.0, False, (0.03, 0.07), id="many", marks=pytest.mark.slow),
    pytest.param(8, 40, 0.5, True, (0.03, 0.07), id="few speakers", marks=pytest.mark.slow),
    pytest.param(60, 20, 0.8, True, (0.03, 0.07), id="many speakers", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("speakers", "utterances", "effect", "by_speaker", "bounds"), SIMULATED)
def test_equal_systems_are_called_different_as_often_as_it_says(
    speakers: int, utterances: int, effect: float, by_speaker: bool, bounds: tuple[float, float]
) -> None:
    generator = np.random.default_rng(11)
    called = 0
    for trial in range(1000):
        a, b, lengths, names = equal_systems(generator, speakers, utterances, effect)
        found = matched_pairs(a, b, lengths, groups=names if by_speaker else None, samples=999, seed=trial)
        called += found.significant
    assert bounds[0] <= called / 1000 <= bounds[1]
