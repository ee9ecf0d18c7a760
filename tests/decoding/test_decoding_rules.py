from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from whispertune.decoding.rules import LogitRules, first_loop, repeated_tail

CPU = torch.device("cpu")
LOGITS = torch.randn(3, 9, generator=torch.Generator().manual_seed(0))


def test_suppressed_tokens_always_and_first() -> None:
    rules = LogitRules(9, [2, 5], [7], CPU)
    plain = LOGITS.log_softmax(-1)
    for first, gone in ((True, [2, 5, 7]), (False, [2, 5])):
        log_probs = rules.log_probs(LOGITS, first=first)
        kept = [i for i in range(9) if i not in gone]
        assert torch.isneginf(log_probs[:, gone]).all()
        # What they held is not handed to the others.
        assert torch.equal(log_probs[:, kept], plain[:, kept])


def test_what_suppressed_tokens_held_goes_to_the_others_on_request() -> None:
    rules = LogitRules(9, [2, 5], [7], CPU)
    masked = LOGITS.clone()
    masked[:, [2, 5, 7]] = -torch.inf
    torch.testing.assert_close(rules.renormalised().log_probs(LOGITS, first=True), masked.log_softmax(-1))
    assert not torch.equal(rules.log_probs(LOGITS, first=True), rules.renormalised().log_probs(LOGITS, first=True))


def test_no_rules_and_ids_outside_the_vocabulary() -> None:
    for rules in (LogitRules(9, [], [], CPU), LogitRules(9, [-1, 9, 100], [-1, 9], CPU)):
        for first in (True, False):
            assert torch.equal(rules.log_probs(LOGITS, first=first), LOGITS.log_softmax(-1))


def test_half_precision_logits_become_float32() -> None:
    assert LogitRules(9, [1], [], CPU).log_probs(LOGITS.bfloat16(), first=False).dtype == torch.float32


@given(st.lists(st.integers(0, 50), max_size=20), st.lists(st.integers(0, 50), min_size=1, max_size=16))
def test_loops_are_found_and_cut_to_one_round(start: list[int], period: list[int]) -> None:
    """Fed token by token, as the search does: cut as soon as it is a loop, one round of it is left."""
    tokens: list[int] = list(start)
    for token in period * 40:
        tokens.append(token)
        if cut := repeated_tail(tokens):
            break
    else:
        pytest.fail("not found")
    # No later than 4 rounds of the period, or 16 tokens (a shorter period may be hidden in it).
    assert len(tokens) - len(start) <= max(4 * len(period), 16)
    # What was cut goes on in the period of what is left (15 cut tokens may be 3 rounds of 5, or 15 of 1).
    behind = range(len(tokens) - cut, len(tokens))
    periods = [p for p in range(1, 17) if cut == max(4 * p, 16) - p]
    assert any(all(tokens[i] == tokens[i - p] for i in behind) for p in periods)


@pytest.mark.parametrize(
    "tokens",
    [
        [],
        [7] * 15,
        [1, 2, 3] * 3,
        [1, 2, 3, 4, 5] * 3,  # a sentence said three times
        list(range(16)) * 3,
        list(range(17)) * 10,  # a period too long
        [7] * 30 + [1],  # it ended by itself
        [1, 2] * 20 + [3, 4],
        [5, 6, 7, 8] * 3 + [5, 6, 7, 9],
    ],
)
def test_ordinary_repetition_is_no_loop(tokens: list[int]) -> None:
    assert repeated_tail(tokens) == 0


@pytest.mark.parametrize(
    ("tokens", "left"),
    [
        ([7] * 16, 1),
        ([1, 2] * 8, 2),
        ([9, 9, 1, 2, 3, 4, 5, 6] + [1, 2, 3, 4, 5, 6] * 3, 8),
        (list(range(16)) * 4, 16),
    ],
)
def test_loops(tokens: list[int], left: int) -> None:
    assert len(tokens) - repeated_tail(tokens) == left


@given(
    st.lists(st.integers(0, 50), max_size=20),
    st.lists(st.integers(0, 50), min_size=1, max_size=16),
    st.lists(st.integers(51, 60), max_size=20),
)
def test_a_finished_loop_is_cut_where_a_search_would_have(start: list[int], period: list[int], end: list[int]) -> None:
    """However long it went on, and whatever came behind it."""
    tokens: list[int] = []
    for token in [*start, *period * 40]:
        tokens.append(token)
        if cut := repeated_tail(tokens):
            break
    assert first_loop([*start, *period * 40, *end]) == len(tokens) - cut
    assert first_loop(end[:3]) is None
