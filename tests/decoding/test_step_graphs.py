"""Captured decoding steps: whatever is captured, and whichever shapes meet, a search returns what it would without."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_whisper import decoder_that_ends, random_windows

from whispertune.decoding.beam import beam_search
from whispertune.decoding.greedy import greedy_search
from whispertune.decoding.prefill import Prefill, prefill
from whispertune.decoding.rules import Hypothesis, LogitRules
from whispertune.decoding.sampling import sample_search
from whispertune.model import cache as cache_module
from whispertune.model import prepacked, step_graphs
from whispertune.model.cache import CACHE_TOKENS
from whispertune.model.prepacked import for_decoding
from whispertune.model.step_graphs import StepGraphs, python_capture
from whispertune.model.whisper import Decoder
from whispertune.states.computed import EncoderStates

VOCAB, EOT = 23, 22
CPU = torch.device("cpu")
RULES = LogitRules(VOCAB, [3, 4], [5, EOT], CPU)
DECODER = decoder_that_ends(1, VOCAB, EOT)


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(step_graphs.CAPTURES, "cpu", python_capture)
    monkeypatch.setattr(step_graphs, "FEWEST_STEPS", 1)
    monkeypatch.setattr(cache_module, "FEWEST_ROWS", 2)


def windows(rows: int, num_frames: int, seed: int, *, weighted: bool) -> EncoderStates:
    found = random_windows(rows, seed, num_frames)
    return found if weighted else EncoderStates(found.states, None)


def searched(decoder: Decoder, prefilled: Prefill, how: int, limits: list[int]) -> list[Hypothesis]:
    if how == 0:
        return greedy_search(decoder, prefilled, RULES, EOT, limits)
    if how == 1:
        return beam_search(decoder, prefilled, RULES, EOT, limits, beam_size=3)
    seeds = [(row,) for row in range(len(limits))]
    return sample_search(decoder, prefilled, RULES, EOT, limits, temperature=0.7, seeds=seeds, best_of=2)


def shown(found: list[Hypothesis]) -> list[Any]:
    return [(h.tokens, h.ended, [other.tokens for other in h.alternatives]) for h in found]


BATCH = st.tuples(
    st.integers(1, 6),
    st.integers(4, 12),
    st.booleans(),
    st.booleans(),
    st.lists(st.integers(0, 2), min_size=1, max_size=2),
    st.lists(st.integers(0, 80), min_size=6, max_size=6),
)
"""Rows, frames, whether they are weighted, whether prompts differ in length, searches, limits."""


@settings(max_examples=25, deadline=None)
@given(st.lists(BATCH, min_size=1, max_size=4), st.integers(0, 999))
def test_searches_find_the_same(batches: list[Any], seed: int) -> None:
    """Several batches of one decoder after another, each searched once or twice."""
    capturing = for_decoding(DECODER)
    assert capturing is not DECODER
    assert DECODER.graphs is None
    for number, (rows, num_frames, weighted, ragged, searches, limits) in enumerate(batches):
        states = windows(rows, num_frames, seed + number, weighted=weighted)
        prompts = [[1, 2] if row % 2 or not ragged else [1, 6, 7, 2] for row in range(rows)]
        prefilled = [prefill(decoder, states, prompts) for decoder in (DECODER, capturing)]
        for how in searches:
            expected, found = (
                searched(decoder, its, how, limits[:rows])
                for decoder, its in zip((DECODER, capturing), prefilled, strict=True)
            )
            assert shown(found) == shown(expected)
            for ours, theirs in zip(found, expected, strict=True):
                assert ours.log_prob == pytest.approx(theirs.log_prob, abs=1e-3)


class Counted:
    """A capture that counts, and may fail, replay nothing or compute something else."""

    def __init__(self, *, fails: bool = False, empty: bool = False, off: float = 0.0) -> None:
        self.captured = self.replayed = 0
        self.fails, self.empty, self.off = fails, empty, off

    def __call__(self, run: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, Callable[[], None]]:
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing\nsecond line")
        self.captured += 1
        hidden, replay = python_capture(CPU)(run)

        def counted() -> None:
            self.replayed += 1
            if not self.empty:
                replay()
            hidden.add_(self.off)

        return hidden, counted


def long_search(decoder: Decoder, seed: int = 0, rows: int = 4) -> list[Hypothesis]:
    never = LogitRules(VOCAB, [EOT], [], CPU)
    prefilled = prefill(decoder, windows(rows, 9, seed, weighted=True), [[1, 2]] * rows)
    with torch.inference_mode():
        return greedy_search(decoder, prefilled, never, EOT, [CACHE_TOKENS + 40 - row for row in range(rows)])


def capturing_with(capture: Counted) -> Decoder:
    decoder = copy.copy(DECODER)
    decoder.graphs = StepGraphs(capture)
    return decoder


def test_a_shape_is_captured_once_and_used_for_other_windows() -> None:
    capture = Counted()
    decoder, expected = capturing_with(capture), long_search(DECODER)
    assert shown(long_search(decoder)) == shown(expected)
    assert 2 <= capture.captured <= 6  # with room for 64 and for 128 tokens
    assert capture.replayed > 90
    # What worked on the memory for 64 tokens went with it, and rows that left at the end are met for the second time.
    assert shown(long_search(decoder)) == shown(expected)
    second = capture.captured
    assert shown(long_search(decoder, seed=5)) == shown(long_search(DECODER, seed=5)) != shown(expected)
    assert capture.captured == second
    held = decoder.graphs.num_bytes if decoder.graphs is not None else 0
    assert held >= 4 * 2 * 2 * 4 * 32 * (9 + 2 * CACHE_TOKENS)  # floats, keys and values, layers, rows, width


def test_few_steps_are_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_graphs, "FEWEST_STEPS", 1000)
    capture = Counted()
    decoder = capturing_with(capture)
    assert shown(long_search(decoder)) == shown(long_search(DECODER))
    assert (capture.captured, decoder.graphs and decoder.graphs.num_bytes) == (0, 0)


@pytest.mark.parametrize(
    ("capture", "told"),
    [
        (Counted(fails=True), "not permitted"),
        (Counted(off=3.0), "differs"),
        (Counted(off=float("nan")), "differs by nan"),
        (Counted(empty=True), "differs"),
    ],
)
def test_what_cannot_be_captured_is_computed_as_ever(
    capture: Counted, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    decoder = capturing_with(capture)
    assert shown(long_search(decoder)) == shown(long_search(DECODER))
    assert capture.replayed <= 1
    output = " ".join(capsys.readouterr().err.split())
    assert told in output
    assert output.count("without CUDA graphs") == 1
    assert "second line" not in output


@pytest.mark.parametrize("prompt", [[1], [1, 2], [1, 2, 6]])
def test_prompts_stay_what_they_are(prompt: list[int]) -> None:
    """Also those of one token, alone or up to `<|startoftranscript|>`: several searches start from them."""
    capturing = for_decoding(DECODER)
    for seed in range(6):
        states = windows(3, 9, seed, weighted=True)
        both = [prefill(its, states, [prompt] * 3, sot=1, no_speech=7) for its in (DECODER, capturing)]
        assert both[1].no_speech_probs == pytest.approx(both[0].no_speech_probs, rel=1e-4)
        for how in (1, 2, 0):
            expected, found = (
                searched(its, prefilled, how, [20] * 3)
                for its, prefilled in zip((DECODER, capturing), both, strict=True)
            )
            assert shown(found) == shown(expected)


def test_a_search_behind_the_last_is_an_error() -> None:
    decoder = for_decoding(DECODER)
    prefilled = replace(prefill(decoder, windows(2, 9, 0, weighted=True), [[1, 2]] * 2), last=True)
    searched(decoder, prefilled, 0, [20] * 2)
    with pytest.raises(RuntimeError, match="said to be the last"):
        searched(decoder, prefilled, 0, [20] * 2)


def test_a_search_that_another_one_has_overtaken_is_an_error() -> None:
    """Its keys and values are no longer there."""
    decoder = for_decoding(DECODER)
    states = windows(2, 9, 0, weighted=True)
    caches = [prefill(decoder, states, [[1, 2]] * 2).fork()[0] for _ in range(2)]
    with torch.inference_mode():
        for cache in caches:
            for _ in range(3):
                decoder.step(torch.tensor([[6], [7]]), cache)
        with pytest.raises(RuntimeError, match="another one of the same decoder"):
            decoder.step(torch.tensor([[6], [7]]), caches[0])


def test_a_copy_has_memory_of_its_own() -> None:
    decoder = for_decoding(DECODER)
    long_search(decoder)
    other = copy.deepcopy(decoder)
    assert decoder.graphs is not None
    assert other.graphs is not None
    assert other.graphs.num_bytes == 0 < decoder.graphs.num_bytes
    assert shown(long_search(other)) == shown(long_search(DECODER))


def test_nothing_is_captured_where_there_are_no_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(step_graphs.CAPTURES, "cpu")
    assert prepacked.for_decoding(DECODER).graphs is None


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
