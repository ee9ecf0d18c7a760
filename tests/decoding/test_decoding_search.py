"""Greedy and beam search over small random models, against searches written out by the definition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from glossary_reference import Words, boost_of
from hypothesis import given, settings
from hypothesis import strategies as st
from random_whisper import decoder_that_ends, random_windows, ready_to_search

from whispertune.decoding import beam as beam_module
from whispertune.decoding import transcriber as transcriber_module
from whispertune.decoding.beam import beam_search
from whispertune.decoding.glossary import GlossaryBoost
from whispertune.decoding.greedy import greedy_search
from whispertune.decoding.options import GREEDY, SearchOptions
from whispertune.decoding.prefill import prefill
from whispertune.decoding.rules import Hypothesis, LogitRules, repeated_tail
from whispertune.decoding.sampling import sample_search
from whispertune.decoding.transcriber import Transcriber, windows_at_once
from whispertune.errors import RecipeError
from whispertune.model import cache as cache_module
from whispertune.model.cache import DecoderCache, rows_to_keep
from whispertune.states.computed import EncoderStates

CPU = torch.device("cpu")
VOCAB, EOT = 23, 22
SUPPRESSED, AT_FIRST = [3, 4], [5, EOT]
RULES = LogitRules(VOCAB, SUPPRESSED, AT_FIRST, CPU)
DECODERS = [decoder_that_ends(seed, VOCAB, EOT) for seed in range(4)]
PROMPT = (1, 2)


@torch.inference_mode()
def next_log_probs(decoder: torch.nn.Module, states: EncoderStates, tokens: Sequence[int]) -> torch.Tensor:
    """(V,) of one row, computed from the whole input anew."""
    hidden = decoder(torch.tensor([[*PROMPT, *tokens]]), states.states, states.log_weights)
    return RULES.log_probs(decoder.logits(hidden[:, -1]), first=not tokens)[0]  # type: ignore[operator]


def reference_greedy(decoder: torch.nn.Module, states: EncoderStates, max_tokens: int, cut_loops: bool) -> Hypothesis:
    tokens: list[int] = []
    log_prob = 0.0
    while True:
        best, token = next_log_probs(decoder, states, tokens).max(-1)
        if int(token) == EOT:
            return Hypothesis(tuple(tokens), log_prob + float(best))
        if len(tokens) == max_tokens:
            return Hypothesis(tuple(tokens), log_prob, ended=False)
        tokens.append(int(token))
        log_prob += float(best)
        if cut_loops and (loop := repeated_tail(tokens)):
            return Hypothesis(tuple(tokens[:-loop]), log_prob, ended=False, looped=True, cut=loop)


def transcriber(decoder: Any, search: SearchOptions, rules: LogitRules = RULES) -> Transcriber:
    return Transcriber(ready_to_search(decoder, rules, SimpleNamespace(eot=EOT)), search)


def assert_same(ours: Hypothesis, reference: Hypothesis) -> None:
    shown = [(found.tokens, found.ended, found.looped, found.cut) for found in (ours, reference)]
    assert shown[0] == shown[1]
    assert ours.log_prob == pytest.approx(reference.log_prob, abs=1e-3)


ROWS = st.integers(1, 6)
LIMITS = st.lists(st.integers(0, 30), min_size=6, max_size=6)


@settings(max_examples=40, deadline=None)
@given(ROWS, st.integers(0, 10_000), st.integers(0, 3), LIMITS, st.booleans())
def test_greedy_rows_are_what_they_are_alone(
    rows: int, seed: int, which: int, limits: list[int], cut_loops: bool
) -> None:
    """Rows of a batch that end, loop or are stopped at different times, each against one searched by hand."""
    states, decoder = random_windows(rows, seed), DECODERS[which]
    prefilled = prefill(decoder, states, [PROMPT] * rows)
    found = greedy_search(decoder, prefilled, RULES, EOT, limits[:rows], cut_loops=cut_loops)
    for row, hypothesis in enumerate(found):
        assert_same(hypothesis, reference_greedy(decoder, states.select([row]), limits[row], cut_loops))


def test_how_many_windows_a_gpu_decodes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By what is free: large-v3 in bf16 on 1500 frames takes 0.4 GB a window (its own 448 tokens counted twice)."""
    layers, width = 32, 1280
    gpu = SimpleNamespace(
        embed_tokens=SimpleNamespace(weight=torch.empty(1, width, dtype=torch.bfloat16, device="meta")),
        embed_positions=SimpleNamespace(num_embeddings=448), layers=[None] * layers, graphs=None,
    )  # fmt: skip

    def found(*free: float) -> list[list[int]]:
        sizes = []
        for gigabytes in free:
            monkeypatch.setattr(transcriber_module, "free_memory_on", lambda device, free=gigabytes: int(free * 1e9))
            sizes.append([windows_at_once(gpu, 1500, beam) for beam in (1, 8)])
        return sizes

    assert found(60, 12, 3, 0.1) == [[64, 16], [8, 4], [2, 1], [1, 1]]
    gpu.graphs = SimpleNamespace(num_bytes=0)  # where steps are recorded, states are there twice
    assert found(60, 12, 3, 0.1) == [[32, 16], [8, 2], [2, 1], [1, 1]]
    gpu.graphs.num_bytes = int(10e9)  # what they hold already is theirs
    assert found(60, 12, 3, 0.1) == [[32, 16], [16, 4], [8, 2], [4, 2]]
    assert [windows_at_once(DECODERS[0], 1500, beam) for beam in (1, 8, 100)] == [64, 8, 1]


def test_rows_leave_a_gpus_batch_by_halves() -> None:
    gpu, cpu = torch.device("meta"), torch.device("cpu")
    assert rows_to_keep(range(3, 36), 64, gpu) is None
    assert rows_to_keep(range(3, 35), 64, gpu) == list(range(3, 35))
    assert rows_to_keep([5, 60], 64, gpu) == [*range(15), 60]  # filled up with finished ones
    assert rows_to_keep([5], 16, gpu) is None
    assert (rows_to_keep([0, 2, 3], 4, cpu), rows_to_keep(range(4), 5, cpu)) == ([0, 2, 3], None)


def test_greedy_may_end_at_its_very_limit() -> None:
    """With room for all its tokens but none to spare, a row is not cut: end of text needs no room."""
    states, ended = random_windows(6, 0), 0
    for decoder in DECODERS:
        arguments = (decoder, prefill(decoder, states, [PROMPT] * 6), RULES, EOT)
        free = greedy_search(*arguments, [30] * 6)
        exact = greedy_search(*arguments, [len(hypothesis.tokens) for hypothesis in free])
        for hypothesis, wanted in zip(exact, free, strict=True):
            assert_same(hypothesis, wanted)
            ended += hypothesis.ended
    assert ended > 5


def test_a_sample_that_loops_ranks_behind_those_that_do_not() -> None:
    """A loop's tokens are likely ones: its mean log-probability beats that of real text."""
    states = random_windows(6, 0)
    mixed = 0
    for decoder in DECODERS:
        found = sample_search(
            decoder, prefill(decoder, states, [PROMPT] * 6), RULES, EOT, [30] * 6,
            temperature=0.5, seeds=[(n,) for n in range(6)], best_of=6, cut_loops=True,
        )  # fmt: skip
        for best in found:
            ranked = [best, *best.alternatives]
            assert ranked == sorted(ranked, key=lambda h: (h.looped, -h.mean_log_prob))
            mixed += best.looped != ranked[-1].looped and ranked[-1].mean_log_prob > best.mean_log_prob
    assert mixed


def test_the_models_above_do_end_loop_and_get_stopped() -> None:
    """Else the test above would show little."""
    found = [
        hypothesis
        for seed, decoder in enumerate(DECODERS * 4)
        for hypothesis in greedy_search(
            decoder,
            prefill(decoder, random_windows(6, seed), [PROMPT] * 6),
            RULES,
            EOT,
            [30] * 6,
            cut_loops=seed % 2 == 0,
        )
    ]
    assert sum(h.looped for h in found) > 5
    assert sum(not h.ended and not h.looped for h in found) > 5
    lengths = [len(h.tokens) for h in found if h.ended]
    assert len(set(lengths)) > 5


@settings(max_examples=40, deadline=None)
@given(ROWS, st.integers(0, 10_000), st.integers(0, 3), st.sampled_from([1, 2, 5]))
def test_suppressed_tokens_never_appear(rows: int, seed: int, which: int, beam_size: int) -> None:
    states, search = random_windows(rows, seed), SearchOptions(beam_size=beam_size)
    found = transcriber(DECODERS[which], search).decode(states, [PROMPT] * rows, [12] * rows)
    for hypothesis in found:
        assert not set(hypothesis.tokens) & {*SUPPRESSED, EOT}
        assert hypothesis.tokens
        assert hypothesis.tokens[0] not in AT_FIRST
        assert len(hypothesis.tokens) <= 12
        assert hypothesis.log_prob > -torch.inf


def test_without_the_rules_they_would() -> None:
    free = LogitRules(VOCAB, [], [], CPU)
    found = [
        hypothesis
        for seed, decoder in enumerate(DECODERS * 5)
        for hypothesis in transcriber(decoder, GREEDY, free).decode(random_windows(6, seed), [PROMPT] * 6, [12] * 6)
    ]
    assert any(set(h.tokens) & set(SUPPRESSED) for h in found)
    assert any(not h.tokens or h.tokens[0] == 5 for h in found)


def reference_beam(
    decoder: torch.nn.Module, states: EncoderStates, max_tokens: int, beam_size: int, length_penalty: float,
    words: Words = (), boost: float = 0.0,
) -> Hypothesis:  # fmt: skip
    """The search that beam.py documents, one utterance, no cache. words: of a glossary."""

    def own(score: float, tokens: tuple[int, ...]) -> float:
        return score - boost_of(tokens, words, boost)

    def rank(entry: tuple[float, Hypothesis]) -> tuple[bool, float]:
        return entry[1].repeats, -entry[0]

    running: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    finished: list[tuple[float, Hypothesis]] = []
    while True:
        candidates = []
        for score, tokens in running:
            log_probs = next_log_probs(decoder, states, tokens).tolist()
            before = own(score, tokens)
            candidates += [
                (before + value + boost_of((*tokens, token), words, boost), tokens, token)
                for token, value in enumerate(log_probs)
            ]
        candidates = sorted(candidates, key=lambda c: -c[0])[: 2 * beam_size]
        num_tokens = len(running[0][1]) + 1
        for score, tokens, token in candidates[:beam_size]:
            if token == EOT and score > -math.inf:
                ended = Hypothesis(tokens, own(score, (*tokens, EOT)))
                finished.append((score / num_tokens**length_penalty, ended))
        if num_tokens > max_tokens:
            for score, tokens in [] if finished else running:
                cut = Hypothesis(tokens, own(score, tokens), ended=False)
                finished.append((score / max(1, len(tokens)) ** length_penalty, cut))
            return min(finished, key=rank)[1]
        running = [(score, (*tokens, token)) for score, tokens, token in candidates if token != EOT][:beam_size]
        finished = sorted(finished, key=rank)[:beam_size]
        if finished and num_tokens % 8 == 0:
            running = [(-math.inf if repeated_tail(tokens) else score, tokens) for score, tokens in running]
        best = max(score for score, _ in running)
        if best == -math.inf:
            return finished[0][1]
        full = len(finished) == beam_size and not finished[-1][1].repeats
        if full and best / num_tokens**length_penalty <= finished[-1][0]:
            return finished[0][1]


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 4),
    seed=st.integers(0, 10_000),
    which=st.integers(0, 3),
    limits=st.lists(st.sampled_from([0, 1, 4, 9, 25, 30]), min_size=4, max_size=4),
    beam_size=st.integers(2, 4),
    length_penalty=st.sampled_from([0.0, 0.6, 1.0, 1.5]),
)
def test_beam_search_rows_are_what_they_are_alone(
    rows: int, seed: int, which: int, limits: list[int], beam_size: int, length_penalty: float
) -> None:
    states, decoder = random_windows(rows, seed), DECODERS[which]
    prefilled = prefill(decoder, states, [PROMPT] * rows)
    found = beam_search(
        decoder, prefilled, RULES, EOT, limits[:rows], beam_size=beam_size, length_penalty=length_penalty
    )  # fmt: skip
    for row, hypothesis in enumerate(found):
        expected = reference_beam(decoder, states.select([row]), limits[row], beam_size, length_penalty)
        assert_same(hypothesis, expected)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 3))
def test_a_beam_of_one_is_greedy(seed: int, which: int) -> None:
    states, decoder = random_windows(3, seed), DECODERS[which]
    arguments = (decoder, prefill(decoder, states, [PROMPT] * 3), RULES, EOT, [10] * 3)
    greedy = greedy_search(*arguments)
    for hypothesis, one in zip(greedy, beam_search(*arguments, beam_size=1), strict=True):
        if hypothesis.ended and one.ended:
            assert_same(one, hypothesis)


@pytest.mark.parametrize("fewest", [1, 2, 16])
def test_finished_searches_may_stay_in_a_gpus_batch(monkeypatch: pytest.MonkeyPatch, fewest: int) -> None:
    """Until half of them can leave, or none ever; with a glossary, too."""
    monkeypatch.setattr(cache_module, "FEWEST_ROWS", fewest)
    sizes: set[int] = set()

    def on_a_gpu(staying: Sequence[int], num_searches: int, device: torch.device) -> Sequence[int]:
        going_on = rows_to_keep(staying, num_searches, torch.device("meta")) or range(num_searches)
        sizes.add(len(going_on))
        return going_on

    for seed, decoder in enumerate(DECODERS):
        for glossary in (None, GlossaryBoost([(7, 8), (9, 10, 11)], 1.0)):
            search = partial(beam_search, beam_size=3, glossary=glossary)
            states, limits = random_windows(8, seed), [3, 20, 8, 0, 30, 12, 5, 17]
            expected = search(decoder, prefill(decoder, states, [PROMPT] * 8), RULES, EOT, limits)
            with monkeypatch.context() as patch:
                patch.setattr(beam_module, "_going_on", on_a_gpu)
                found = search(decoder, prefill(decoder, states, [PROMPT] * 8), RULES, EOT, limits)
            for ours, theirs in zip(found, expected, strict=True):
                assert_same(ours, theirs)
                assert [h.tokens for h in ours.alternatives] == [h.tokens for h in theirs.alternatives]
    assert sizes == {16: {8}, 2: {8, 4, 2}, 1: {8, 4, 2, 1}}[fewest]


@pytest.mark.parametrize("beam_size", [1, 3])
def test_prompts_of_many_lengths_and_more_rows_than_fit(beam_size: int) -> None:
    rows = 70
    states, decoder = random_windows(rows, 1), DECODERS[1]
    prompts = [PROMPT if row % 3 else (1, 6, 7, 2) for row in range(rows)]
    limits = [row % 9 for row in range(rows)]
    searched = transcriber(decoder, SearchOptions(beam_size=beam_size))
    found = searched.decode(states, prompts, limits)
    for row in range(0, rows, 7):
        (alone,) = searched.decode(states.select([row]), [prompts[row]], [limits[row]])
        assert_same(found[row], alone)
    assert searched.decode(states.select([]), [], []) == []


def test_all_448_positions_can_be_used() -> None:
    """Up to the last position, and not beyond it (a crash deep inside the model)."""
    never = LogitRules(VOCAB, [EOT], [], CPU)
    states = random_windows(2, 0)
    for search in (GREEDY, SearchOptions(beam_size=2)):
        found = transcriber(DECODERS[0], search, never).decode(states, [PROMPT] * 2, [446, 3])
        assert [len(h.tokens) for h in found] == [446, 3]
        assert not any(h.ended for h in found)


@pytest.mark.parametrize("beam_size", [0, -1, 65])
def test_beam_size_bounds(beam_size: int) -> None:
    with pytest.raises(RecipeError, match="beam_size"):
        SearchOptions(beam_size=beam_size)


class Chains:
    """A decoder that mostly says 1 and then 2, 2, 2, …, which ends after `loop` steps with `probability`; it may also
    say 10, 11, … up to `last`, or nothing at all.
    """

    def __init__(self, first: dict[int, float], loop: int, probability: float, last: int) -> None:
        self.first, self.loop, self.probability, self.last = first, loop, probability, last
        self.steps = 0

    def start(self, *_: object) -> DecoderCache:
        return DecoderCache(torch.zeros(1, 1, 1, 0, 1), torch.zeros(1, 1, 1, 0, 1), [], [], None)

    def read(self, input_ids: torch.Tensor, _: object) -> torch.Tensor:
        self.steps += 1
        return input_ids.float()[..., None]

    def step(self, input_ids: torch.Tensor, cache: object) -> torch.Tensor:
        return self.read(input_ids, cache)[:, -1]

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        rows = []
        for token in hidden[:, 0].int().tolist():
            if token == 0:
                probs = self.first
            elif token in (1, 2):
                ends = self.probability if self.steps > self.loop else 0.001
                probs = {2: 1 - ends, END: ends}
            else:
                probs = {token + 1 if token < self.last else END: 0.999}
            rows.append([math.log(probs.get(token, 1e-30)) for token in range(END + 1)])
        return torch.tensor(rows)


END = 60


@pytest.mark.parametrize(
    ("first", "loop", "probability", "beam_size"),
    [
        ({1: 0.98, END: 0.012, 10: 0.008}, 17, 0.999, 2),  # the loop ends before it is noticed
        ({1: 0.98, END: 0.012, 10: 0.008}, 1000, 0.999, 2),  # it never would
        ({1: 0.9, 10: 0.1}, 17, 0.5, 2),  # nothing has ended before it
        ({1: 0.9, 10: 0.1}, 17, 0.5, 3),
    ],
)
def test_a_loop_never_beats_a_hypothesis_that_ended(
    first: dict[int, float], loop: int, probability: float, beam_size: int
) -> None:
    """Nor keeps one from being found that is still running: a loop's score beats that of any real text."""
    states = EncoderStates(torch.zeros(1, 1, 4), None)
    rules = LogitRules(END + 1, [], [], torch.device("cpu"))
    chains: Any = Chains(first, loop, probability, 30)
    (found,) = beam_search(chains, prefill(chains, states, [[0]]), rules, END, [60], beam_size=beam_size)
    assert found.tokens == tuple(range(10, 31))


def test_a_loop_is_not_followed_to_the_bound() -> None:
    states = EncoderStates(torch.zeros(1, 1, 4), None)
    chains: Any = Chains({1: 0.4, END: 0.4, 10: 0.2}, 1000, 0.999, 30)
    rules = LogitRules(END + 1, [], [], torch.device("cpu"))
    (found,) = beam_search(chains, prefill(chains, states, [[0]]), rules, END, [400], beam_size=2)
    assert found.tokens == tuple(range(10, 31))
    assert chains.steps < 30


def test_a_loop_is_returned_if_nothing_else_ends() -> None:
    states = EncoderStates(torch.zeros(1, 1, 4), None)
    rules = LogitRules(END + 1, [], [], torch.device("cpu"))
    for loop, ended in ((17, True), (1000, False)):
        chains: Any = Chains({1: 1.0}, loop, 0.999, 30)
        (found,) = beam_search(chains, prefill(chains, states, [[0]]), rules, END, [40], beam_size=1)
        assert (found.repeats, found.ended) == (True, ended)


def test_beams_beside_a_loop_go_on() -> None:
    """Once something has ended; before, the loop is all there may be."""
    for ended in (tuple([3] * 16), (1, 2)):
        search = beam_module._Beams(0, [[3] * 16, list(range(16))], [-1.0, -2.0], [0.0, 0.0], [0, 0])
        search.drop_loops()
        assert search.log_probs == [-1.0, -2.0]
        search.finish(Hypothesis(ended, -5.0), 0.0, 3, 1.0, 1)
        search.drop_loops()
        assert search.log_probs == [-math.inf, -2.0]
        assert search.can_improve(16, 1.0, 1)
        search.log_probs[:] = [-math.inf, -math.inf]
        assert not search.can_improve(16, 1.0, 2)


@pytest.mark.parametrize("last", [False, True])
def test_only_the_last_search_uses_the_memory_up(last: bool) -> None:
    """What leaves it is freed at once, where an earlier search leaves all to those that follow."""
    prefilled = replace(prefill(DECODERS[0], random_windows(3, 0), [PROMPT] * 3), last=last)
    cache, _ = prefilled.fork()
    row = torch.tensor([1])
    cache.select(row, row)
    again, _ = prefilled.fork()
    assert [len(keys) for keys in again.cross_keys] == [1 if last else 3] * len(again.cross_keys)
