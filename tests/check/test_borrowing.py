"""Which clips a language's token is measured on, and what their losses amount to."""

from __future__ import annotations

import numpy as np
import pytest

from whispertune.check.borrowing import TokenLosses, clips_to_measure


def test_clips_are_spread_and_short_where_there_are_enough() -> None:
    seconds = np.array([20.0, 3.0] * 40)
    chosen = clips_to_measure(seconds, range(80))
    assert len(chosen) == 16
    assert (chosen[0], chosen[-1]) == (1, 79)
    assert all(row % 2 for row in chosen)
    assert clips_to_measure(seconds, [0, 2, 3]) == [0, 2, 3]
    assert clips_to_measure(seconds, []) == []


def test_the_best_token_and_what_cannot_be_told_from_it() -> None:
    tokens = np.array([10, 20, 10, 20])
    per_token = {"xx": [2.0, 2.0, 2.0, 2.0], "aa": [1.0, 1.0, 1.0, 1.0], "bb": [0.5, 1.2, 1.3, 1.1]}
    losses = np.array([np.array(rates) * tokens for rates in per_token.values()])
    found = TokenLosses("sc", list(per_token), losses, tokens, 3.0)
    assert found.best == "aa"
    (first, close, last) = found.ranking()
    assert (first[0], close[0], last[0]) == ("aa", "bb", "xx")
    assert first[1:] == (pytest.approx(1.0), 0.0, 0.0)
    assert close[2] < 0 < close[3]
    assert last[2:] == (pytest.approx(1.0), pytest.approx(1.0))
