"""Sampling, temperature fallback, language detection and segments on small random models and by hand."""

from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from checkpoint_samples import TOKENIZER, VOCAB_SIZE
from hypothesis import given, settings
from hypothesis import strategies as st
from random_whisper import random_whisper, ready_to_search, small_config

from whispertune.decoding import transcriber as module
from whispertune.decoding.beam import beam_search
from whispertune.decoding.fallback import WindowResult, compression_ratio, decode_with_fallback
from whispertune.decoding.greedy import greedy_search
from whispertune.decoding.language import detect_languages
from whispertune.decoding.options import FallbackOptions
from whispertune.decoding.prefill import prefill
from whispertune.decoding.rules import Hypothesis, LogitRules
from whispertune.decoding.sampling import sample_search
from whispertune.decoding.segmentation import Span, split_window
from whispertune.decoding.timestamps import TimestampRules
from whispertune.decoding.transcriber import Transcriber
from whispertune.errors import RecipeError
from whispertune.states.computed import EncoderStates
from whispertune.text.tokenizer import Tokenizer

TOKENS = Tokenizer(TOKENIZER)
BEGIN, EOT = TOKENS.timestamp_begin, TOKENS.eot
RULES = LogitRules(VOCAB_SIZE, [1, *range(EOT + 1, BEGIN)], [EOT], torch.device("cpu"))
GRAMMAR = TimestampRules(TOKENS)
DECODER = random_whisper(small_config(vocab_size=VOCAB_SIZE, layers=(1, 2)), 3).decoder
with torch.no_grad():
    DECODER.embed_tokens.weight[BEGIN:] *= 0.5
    DECODER.layer_norm.bias += 0.6 * DECODER.embed_tokens.weight[EOT]
PROMPTS = [[TOKENS.sot], [TOKENS.sot_prev, 5, 6, 7, TOKENS.sot], [TOKENS.sot_prev, 9, TOKENS.sot]]


def transcriber(options: FallbackOptions, timestamps: TimestampRules | None = GRAMMAR) -> Transcriber:
    return Transcriber(ready_to_search(DECODER, RULES, TOKENS), options, timestamps=timestamps)


def states_of(rows: int, seed: int = 0) -> EncoderStates:
    return EncoderStates(3 * torch.randn(rows, 12, 32, generator=torch.Generator().manual_seed(seed)), None)


def sampled_by_hand(row: int, temperature: float, seed: tuple[int, ...], max_tokens: int) -> Hypothesis:
    """One sample, each step computed from the whole input anew, drawn with numpy."""
    draws = np.random.default_rng(seed)
    states = states_of(3).states[row : row + 1]
    history = GRAMMAR.start(1, torch.device("cpu"))
    tokens: list[int] = []
    log_prob = 0.0
    while True:
        with torch.inference_mode():
            logits = DECODER.logits(DECODER(torch.tensor([[*PROMPTS[row], *tokens]]), states, None)[:, -1])
            log_probs = history.restrict(RULES.log_probs(logits, first=not tokens))[0].double().numpy()
        weights = np.exp(log_probs / temperature)
        sums = np.cumsum(weights)
        token = int(np.searchsorted(sums, draws.random() * sums[-1], side="right"))
        if token == EOT:
            return Hypothesis(tuple(tokens), log_prob + log_probs[token])
        if len(tokens) == max_tokens:
            return Hypothesis(tuple(tokens), log_prob, ended=False)
        tokens.append(token)
        log_prob += log_probs[token]
        history.append(torch.tensor([token]))


@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_samples_are_drawn_by_their_seeds_alone(temperature: float) -> None:
    """Side by side, with prompts of three lengths, some longer than others: each what it is by hand."""
    prefilled = prefill(DECODER, states_of(3), PROMPTS)
    limits = [12, 3, 20]
    seeds = [(7, row) for row in range(3)]
    found = sample_search(
        DECODER, prefilled, RULES, EOT, limits, temperature=temperature, seeds=seeds, best_of=3, timestamps=GRAMMAR
    )
    for row, hypothesis in enumerate(found):
        samples = [sampled_by_hand(row, temperature, (7, row, number), limits[row]) for number in range(3)]
        best = max(samples, key=lambda h: h.log_prob / (len(h.tokens) + 1))
        assert (hypothesis.tokens, hypothesis.ended) == (best.tokens, best.ended)
        assert hypothesis.log_prob == pytest.approx(best.log_prob, abs=1e-3)
        assert hypothesis.score == pytest.approx(best.log_prob / (len(best.tokens) + 1), abs=1e-3)
        others = [h.tokens for h in (hypothesis, *hypothesis.alternatives)]
        assert sorted(others) == sorted(h.tokens for h in samples)


def test_a_sample_may_end_at_its_very_limit() -> None:
    """With room for all its tokens but none to spare, it is not cut: end of text needs no room."""

    def sampled(limits: list[int]) -> list[Hypothesis]:
        prefilled = prefill(DECODER, states_of(12), [PROMPTS[0]] * 12)
        seeds = [(number,) for number in range(12)]
        return sample_search(DECODER, prefilled, RULES, EOT, limits, temperature=1.0, seeds=seeds, timestamps=GRAMMAR)

    free = sampled([40] * 12)
    exact = sampled([len(hypothesis.tokens) for hypothesis in free])
    assert [(h.tokens, h.ended) for h in exact] == [(h.tokens, h.ended) for h in free]
    assert sum(hypothesis.ended for hypothesis in free) > 3


def test_samples_follow_the_probabilities() -> None:
    prefilled = prefill(DECODER, states_of(1), PROMPTS[:1])
    (found,) = sample_search(DECODER, prefilled, RULES, EOT, [1], temperature=2.0, seeds=[(1,)], best_of=500)
    with torch.inference_mode():
        log_probs = RULES.log_probs(DECODER.logits(prefilled.hidden), first=True)[0]
    expected = (log_probs / 2.0).softmax(-1)
    drawn = [hypothesis.tokens[0] for hypothesis in (found, *found.alternatives)]
    assert EOT not in drawn
    likeliest = expected.topk(20).indices.tolist()
    share, prob = np.mean([token in likeliest for token in drawn]), float(expected[likeliest].sum())
    assert 0.02 < prob < 0.9
    assert share == pytest.approx(prob, abs=4 * (prob * (1 - prob) / 500) ** 0.5)


def result(log_prob: float = -0.5, ratio: float = 1.0, silence: float = 0.1, looped: bool = False) -> WindowResult:
    return WindowResult(Hypothesis((), log_prob, looped=looped), "", 0.0, log_prob, ratio, silence)


@pytest.mark.parametrize(
    ("window", "failed", "silent"),
    [
        (result(), False, False),
        (result(ratio=2.5), True, False),
        (result(log_prob=-1.1), True, False),
        (result(log_prob=-1.1, silence=0.7), False, True),  # unlikely, but silence: left as it is, passed over
        (result(ratio=2.5, silence=0.7), True, False),  # likely and repeated: tried again
        (result(ratio=2.5, log_prob=-1.1, silence=0.7), False, True),
        (result(silence=0.7), False, False),  # likely: kept
        (result(looped=True), True, False),
    ],
)
def test_when_a_window_is_tried_again_and_when_passed_over(window: WindowResult, failed: bool, silent: bool) -> None:
    options = FallbackOptions()
    assert window.failed(options) == failed
    assert window.is_silence(options) == silent
    without = replace(
        options, compression_ratio_threshold=None, logprob_threshold=None, no_speech_threshold=None
    )  # fmt: skip
    assert window.failed(without) == window.hypothesis.looped
    assert not window.is_silence(without)
    # Without a bound on the log-probability silence is what the model says is silence.
    assert window.is_silence(replace(options, logprob_threshold=None)) == (window.no_speech_prob > 0.6)


def test_compression_ratio() -> None:
    text = "Grazie. " * 30
    assert compression_ratio(text) == len(text.encode()) / len(zlib.compress(text.encode())) > 2.4
    assert compression_ratio("") == 0.0
    assert compression_ratio("Il numero chiamato non è raggiungibile.") < 1.5


def decode(rows: list[int], options: FallbackOptions) -> list[WindowResult]:
    return decode_with_fallback(
        transcriber(options), states_of(3).select(rows), [PROMPTS[row] for row in rows], [30] * len(rows), options,
        seeds=[(row,) for row in rows],
    )  # fmt: skip


@pytest.mark.parametrize("guard", [True, False])
def test_a_loop_of_beam_search_is_cut_at_its_first_round(monkeypatch: pytest.MonkeyPatch, guard: bool) -> None:
    loop = [BEGIN, 5, 6, *[7, 8] * 60, BEGIN + 50]
    monkeypatch.setattr(module, "beam_search", lambda *arguments, **options: [Hypothesis(tuple(loop), -9.0)])
    options = FallbackOptions(beam_size=2, temperature=(0.0,), repetition_guard=guard)
    (found,) = decode_with_fallback(transcriber(options), states_of(1), PROMPTS[:1], [200], options, seeds=[(0,)])
    assert found.hypothesis.looped == guard
    assert list(found.hypothesis.tokens) == (loop[:5] if guard else loop)
    assert found.mean_log_prob == -9.0 / (len(loop) + 1)  # of what the sum is of, whatever was cut off


def test_without_timestamps_thresholds_see_renormalised_probabilities() -> None:
    """As in openai-whisper: a likely token that may not be emitted makes the others no less likely."""
    options = FallbackOptions(beam_size=1, temperature=(0.0,), repetition_guard=False)
    (found,) = decode_with_fallback(transcriber(options, None), states_of(1), PROMPTS[:1], [6], options, seeds=[(0,)])
    prefilled = prefill(DECODER, states_of(1), PROMPTS[:1])
    (expected,) = greedy_search(DECODER, prefilled, RULES.renormalised(), EOT, [6])
    assert found.hypothesis == expected
    (other,) = greedy_search(DECODER, prefilled, RULES, EOT, [6])
    assert other.log_prob < expected.log_prob - 1e-3


@pytest.mark.parametrize("beam_size", [1, 3])
def test_windows_fall_back_as_if_alone(beam_size: int) -> None:
    """Thresholds between the windows' values: some pass at 0, others later or never, batched or not."""
    free = FallbackOptions(beam_size=beam_size, temperature=(0.0,), repetition_guard=False)
    values = sorted(r.mean_log_prob for r in decode([0, 1, 2], free))
    options = replace(
        free, temperature=(0.0, 0.5, 1.0), best_of=2, no_speech_threshold=None, compression_ratio_threshold=None,
        logprob_threshold=(values[1] + values[2]) / 2,
    )  # fmt: skip
    together = decode([0, 1, 2], options)
    assert len({r.temperature for r in together}) > 1
    for row, window in enumerate(together):
        (alone,) = decode([row], options)
        assert (alone.hypothesis.tokens, alone.temperature) == (window.hypothesis.tokens, window.temperature)
        assert alone.mean_log_prob == pytest.approx(window.mean_log_prob, abs=1e-4)
        assert alone.no_speech_prob == pytest.approx(window.no_speech_prob, rel=1e-3)
        passes = window.mean_log_prob >= (options.logprob_threshold or 0)
        assert passes or window.temperature == 1.0
    assert [r.hypothesis.tokens for r in decode([0, 1, 2], replace(options, seed=1))] != [
        r.hypothesis.tokens for r in together
    ]


def test_each_window_and_each_temperature_has_draws_of_its_own() -> None:
    """Equal windows (silence, a jingle) are not all given the same sample, nor is one that failed drawn again."""

    def samples(seeds: list[int], *temperatures: float) -> list[tuple[int, ...]]:
        options = FallbackOptions(
            temperature=temperatures, best_of=1, repetition_guard=False, logprob_threshold=1.0, no_speech_threshold=None
        )  # no sample is as likely as that: all temperatures are tried, the last one's is kept
        found = decode_with_fallback(
            transcriber(options), states_of(3).select([0] * len(seeds)), [PROMPTS[0]] * len(seeds), [20] * len(seeds),
            options, seeds=[(seed,) for seed in seeds],
        )  # fmt: skip
        return [window.hypothesis.tokens for window in found]

    assert len(set(samples([3] * 8, 1.0))) == 1
    once, twice = samples([*range(8)], 1.0), samples([*range(8)], 1.0, 1.0)
    assert len(set(once)) > 4
    assert once != twice


def test_no_speech_probability_is_that_behind_the_start() -> None:
    found = decode([0, 1, 2], FallbackOptions(beam_size=1, temperature=(0.0,)))
    for row, window in enumerate(found):
        inputs = torch.tensor([PROMPTS[row]])  # each ends in <|startoftranscript|>
        with torch.inference_mode():
            hidden = DECODER(inputs, states_of(3).states[row : row + 1], None)[0, -1]
            expected = float(DECODER.logits(hidden).softmax(-1)[TOKENS.no_speech])
        assert window.no_speech_prob == pytest.approx(expected, rel=1e-3)


def test_language_is_the_likeliest_of_the_models_languages() -> None:
    tokenizer = Tokenizer(TOKENIZER)
    states = states_of(2)
    assert detect_languages(DECODER, states, tokenizer) == [("en", 1.0)] * 2  # by its size it is English-only
    tokenizer.languages = {"it": EOT + 7, "de": EOT + 4, "sw": EOT + 30}
    with torch.inference_mode():
        logits = DECODER.logits(DECODER(torch.full((2, 1), TOKENS.sot), states.states, None)[:, -1])
    for row, (language, prob) in enumerate(detect_languages(DECODER, states, tokenizer)):
        own = torch.stack([logits[row, token] for token in tokenizer.languages.values()]).softmax(0)
        assert language == list(tokenizer.languages)[int(own.argmax())]
        assert prob == pytest.approx(float(own.max()), abs=1e-5)


def stamp(seconds: float) -> int:
    return BEGIN + round(seconds / 0.02)


@pytest.mark.parametrize(
    ("tokens", "spans", "done"),
    [
        # two stretches, and nothing behind them: all done
        (
            [stamp(0), 5, stamp(2), stamp(3), 6, 7, stamp(4)],
            [Span(0, 2, (stamp(0), 5, stamp(2))), Span(3, 4, (stamp(3), 6, 7, stamp(4)))],
            2500,
        ),
        # the second goes on behind the window: it is heard again from 2 s on
        ([stamp(0), 5, stamp(2), stamp(2), 6, 7], [Span(0, 2, (stamp(0), 5, stamp(2)))], 200),
        ([stamp(0), 5, stamp(2), stamp(3)], [Span(0, 2, (stamp(0), 5, stamp(2)))], 200),
        # one stretch
        ([stamp(0.5), 5, stamp(2)], [Span(0, 2, (stamp(0.5), 5, stamp(2)))], 2500),
        ([stamp(0), 5, 6], [Span(0, 25, (stamp(0), 5, 6))], 2500),
        ([5, 6], [Span(0, 25, (5, 6))], 2500),
        ([], [Span(0, 25, ())], 2500),
    ],
)
def test_windows_are_split_at_pairs_of_timestamps(tokens: list[int], spans: list[Span], done: int) -> None:
    found, moved = split_window(tokens, BEGIN, 2500)
    assert moved == done
    assert [span.tokens for span in found] == [span.tokens for span in spans]
    for span, expected in zip(found, spans, strict=True):
        assert (span.start, span.end) == pytest.approx((expected.start, expected.end))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([5, 6, *range(BEGIN, BEGIN + 1501, 100)]), max_size=12), st.integers(1, 3000))
def test_a_window_always_moves_on_and_loses_no_whole_span(tokens: list[int], num_frames: int) -> None:
    spans, done = split_window(tokens, BEGIN, num_frames)
    assert done > 0
    joined = [token for span in spans for token in span.tokens]
    assert joined == tokens[: len(joined)]


@pytest.mark.parametrize(
    "fields",
    [
        {"beam_size": 0}, {"best_of": 0}, {"patience": 0.0}, {"temperature": ()}, {"temperature": (-0.1,)},
        {"no_speech_threshold": 1.5}, {"seed": -1},
    ],
)  # fmt: skip
def test_bad_options(fields: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match=next(iter(fields))):
        FallbackOptions(**fields)  # type: ignore[arg-type]


def test_patience_and_alternatives() -> None:
    """More patience searches on: as many finished hypotheses as asked for, ranked, the best at least as good."""
    prefilled = prefill(DECODER, states_of(3), PROMPTS)
    best = [-torch.inf] * 3
    for patience, expected in ((0.5, 1), (1.0, 2), (3.0, 6)):
        found = beam_search(DECODER, prefilled, RULES, EOT, [40] * 3, beam_size=2, patience=patience)
        for row, hypothesis in enumerate(found):
            scores = [h.score or 0.0 for h in (hypothesis, *hypothesis.alternatives)]
            assert len(scores) <= expected
            assert scores == sorted(scores, reverse=True)
            assert hypothesis.score == pytest.approx(hypothesis.log_prob / (len(hypothesis.tokens) + hypothesis.ended))
            assert scores[0] >= best[row] - 1e-4
            best[row] = scores[0]
    assert any(len(h.alternatives) > 1 for h in found)  # more than beam_size in all
