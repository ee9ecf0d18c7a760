"""Words that beam search favours: their automaton, and the search with it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parent))
from glossary_reference import boost_of
from random_whisper import random_windows, ready_to_search
from test_decoding_search import DECODERS, EOT, PROMPT, RULES, VOCAB, assert_same, reference_beam

from whispertune.decoding.beam import beam_search
from whispertune.decoding.glossary import GlossaryBoost, load_glossary
from whispertune.decoding.options import SearchOptions
from whispertune.decoding.prefill import prefill
from whispertune.decoding.transcriber import Transcriber
from whispertune.errors import RecipeError, UserError
from whispertune.text.tokenizer import Tokenizer

tokens = st.integers(0, 3)
words = st.lists(st.lists(tokens, min_size=1, max_size=4).map(tuple), min_size=1, max_size=6)


def added(glossary: GlossaryBoost, sequence: list[int]) -> float:
    state, total = 0, 0.0
    for token in sequence:
        state, more = glossary.after(state, token)
        total += more
    return total


@given(words, st.lists(tokens, max_size=12))
def test_the_automaton_adds_what_counting_from_the_beginning_does(
    glossary: list[tuple[int, ...]], sequence: list[int]
) -> None:
    boost = GlossaryBoost(glossary, 0.5)
    assert added(boost, sequence) == pytest.approx(boost_of(tuple(sequence), glossary, 0.5))


@given(st.lists(st.sampled_from([(7, 8, 9), (7, 8), (1,), (2,)]), max_size=8))
def test_a_finished_word_keeps_its_boost_and_an_unfinished_one_loses_it(parts: list[tuple[int, ...]]) -> None:
    sequence = [token for part in parts for token in part]
    total = added(GlossaryBoost([(7, 8, 9)], 2.0), [*sequence, EOT])
    assert total == pytest.approx(2.0 * 3 * parts.count((7, 8, 9)))


def test_a_word_that_ends_within_another_keeps_its_boost_when_that_one_is_left() -> None:
    assert added(GlossaryBoost([(1, 2, 3), (2,)], 0.5), [1, 2, 9]) == 0.5
    assert added(GlossaryBoost([(1, 2, 3, 4), (2, 3)], 0.5), [1, 2, 3, 9]) == 1.0
    assert added(GlossaryBoost([(1, 2, 3), (2, 3, 4)], 0.5), [1, 2, 9]) == 0.0


@given(words, st.lists(st.lists(tokens, max_size=6), min_size=1, max_size=5), st.integers(0, 1000))
def test_boosted_rows_hold_each_tokens_gain(
    glossary: list[tuple[int, ...]], histories: list[list[int]], seed: int
) -> None:
    boost, states = GlossaryBoost(glossary, 0.75), []
    for history in histories:
        state = 0
        for token in history:
            state, _ = boost.after(state, token)
        states.append(state)
    log_probs = torch.randn(len(states), 5, generator=torch.Generator().manual_seed(seed))
    gains = torch.tensor([[boost.after(state, token)[1] for token in range(5)] for state in states])
    torch.testing.assert_close(boost.boosted(log_probs, states), log_probs + gains)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(0, 3),
    st.lists(st.lists(st.integers(0, VOCAB - 2), min_size=1, max_size=3).map(tuple), min_size=1, max_size=4),
    st.sampled_from([0.0, 0.5, 4.0]),
)
def test_the_search_ranks_by_it_and_reports_the_models_own_log_probability(
    seed: int, which: int, glossary: list[tuple[int, ...]], boost: float
) -> None:
    states, decoder = random_windows(3, seed), DECODERS[which]
    found = beam_search(
        decoder, prefill(decoder, states, [PROMPT] * 3), RULES, EOT, [9, 4, 12], beam_size=3,
        glossary=GlossaryBoost(glossary, boost),
    )  # fmt: skip
    for row, (hypothesis, limit) in enumerate(zip(found, [9, 4, 12], strict=True)):
        alone = states.select([row])
        assert_same(hypothesis, reference_beam(decoder, alone, limit, 3, 1.0, glossary, boost))


class Numbers:
    """A tokenizer of numbers."""

    eot = EOT

    def encode(self, text: str) -> list[int]:
        return [int(number) for number in text.split()]


def test_a_transcriber_favours_the_glossary_of_its_options(tmp_path: Path) -> None:
    file = tmp_path / "numbers.txt"
    file.write_text("3 5\n7\n", encoding="utf-8")
    states, decoder = random_windows(3, 1), DECODERS[0]
    ready = ready_to_search(decoder, RULES, Numbers())

    def found(search: SearchOptions) -> list[tuple[int, ...]]:
        return [tuple(each.tokens) for each in Transcriber(ready, search).decode(states, [PROMPT] * 3, [9, 4, 12])]

    expected = beam_search(
        decoder, prefill(decoder, states, [PROMPT] * 3), RULES, EOT, [9, 4, 12], beam_size=3,
        glossary=GlossaryBoost([(3, 5), (7,)], 2.0),
    )  # fmt: skip
    boosted = found(SearchOptions(beam_size=3, glossary=str(file), glossary_boost=2.0))
    assert boosted == [tuple(each.tokens) for each in expected]
    assert boosted != found(SearchOptions(beam_size=3, glossary=str(file)))


def test_words_are_found_at_the_beginning_of_a_text_and_within(tokenizer: Tokenizer, tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("Rossi\n", encoding="utf-8")
    boost = load_glossary(str(file), 1.0, tokenizer)
    for text in ("Rossi", "sono Rossi"):
        assert added(boost, [*tokenizer.encode(text), EOT + 1000]) >= len(tokenizer.encode("Rossi"))
    assert added(boost, [*tokenizer.encode("sono Rosso"), EOT + 1000]) == pytest.approx(0)


def test_what_cannot_be_used_is_refused() -> None:
    with pytest.raises(RecipeError, match="there is no glossary"):
        SearchOptions(glossary_boost=1.0)
    with pytest.raises(RecipeError, match="greedy"):
        SearchOptions(glossary_boost=1.0, glossary="names.txt", beam_size=1)
    with pytest.raises(UserError, match="absent"):
        load_glossary("absent.txt", 1.0, None)  # type: ignore[arg-type]
