"""Timestamp rules against the grammar written out row by row, and searches under them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from checkpoint_samples import TOKENIZER, VOCAB_SIZE
from hypothesis import given, settings
from hypothesis import strategies as st
from random_whisper import random_whisper, ready_to_search, small_config

from whispertune.decoding.options import SearchOptions
from whispertune.decoding.rules import LogitRules
from whispertune.decoding.segmentation import Span, split_window
from whispertune.decoding.timestamps import TimestampRules
from whispertune.decoding.transcriber import Transcriber
from whispertune.states.computed import EncoderStates
from whispertune.text.tokenizer import Tokenizer

CPU = torch.device("cpu")
TOKENS = Tokenizer(TOKENIZER)
BEGIN, EOT = TOKENS.timestamp_begin, TOKENS.eot
RULES = TimestampRules(TOKENS)
SPECIAL = sorted({*range(EOT + 1, BEGIN)})


def allowed_by_hand(emitted: Sequence[int], log_probs: torch.Tensor, max_initial: int = 50) -> set[int]:
    """The grammar, for one row: what may follow `emitted` (already restricted by other rules)."""
    stamps = [token for token in emitted if token >= BEGIN]
    if not emitted:
        allowed = set(range(BEGIN, BEGIN + max_initial + 1))
    else:
        last_is_stamp = emitted[-1] >= BEGIN
        one_alone = last_is_stamp and len(emitted) > 1 and emitted[-2] < BEGIN
        later = set(range(max(stamps, default=BEGIN - 1) + 1, VOCAB_SIZE))
        if one_alone:
            allowed = {EOT, *SPECIAL, emitted[-1], *later}
        elif last_is_stamp:
            allowed = set(range(BEGIN))
        else:
            allowed = set(range(BEGIN)) | later
    allowed -= {TOKENS.no_timestamps}
    probabilities = log_probs.exp().tolist()
    allowed = {token for token in allowed if probabilities[token] > 0}
    stamp_mass = sum(probabilities[token] for token in allowed if token >= BEGIN)
    best_other = max((probabilities[token] for token in allowed if token < BEGIN), default=0.0)
    return {token for token in allowed if token >= BEGIN} if stamp_mass > best_other else allowed


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(0, 10_000), st.integers(1, 10), st.sampled_from([-4.0, 0.0, 4.0, 8.0]))
def test_each_row_follows_the_grammar(rows: int, seed: int, steps: int, text_bias: float) -> None:
    """Rows that draw at random from what is allowed, some leaving or doubled on the way."""
    generator = torch.Generator().manual_seed(seed)
    other = LogitRules(VOCAB_SIZE, [1, 2, *SPECIAL], [3, EOT], CPU)
    history = RULES.start(rows, CPU)
    emitted: list[list[int]] = [[] for _ in range(rows)]
    for step in range(steps):
        logits = 3 * torch.randn(len(emitted), VOCAB_SIZE, generator=generator)
        logits[:, :BEGIN] += text_bias
        log_probs = other.log_probs(logits, first=step == 0)
        restricted = history.restrict(log_probs.clone())
        for row, tokens in enumerate(emitted):
            expected = allowed_by_hand(tokens, log_probs[row])
            assert set(restricted[row].isfinite().nonzero()[:, 0].tolist()) == expected
            kept = sorted(expected)
            torch.testing.assert_close(restricted[row, kept], log_probs[row, kept].log_softmax(-1))
        drawn = torch.multinomial(restricted.exp(), 1, generator=generator)[:, 0]
        sources = torch.randint(len(emitted), (max(1, len(emitted) - step % 2),), generator=generator)
        history.select(sources)
        history.append(drawn[sources])
        emitted = [[*emitted[source], int(drawn[source])] for source in sources.tolist()]


def test_any_first_timestamp_and_another_bound() -> None:
    logits = torch.randn(1, VOCAB_SIZE, generator=torch.Generator().manual_seed(0)).log_softmax(-1)
    for seconds, last in ((None, 1500), (0.0, 0), (0.5, 25), (99.0, 1500)):
        found = TimestampRules(TOKENS, max_initial=seconds).start(1, CPU).restrict(logits.clone())
        assert found[0].isfinite().nonzero()[:, 0].tolist() == list(range(BEGIN, BEGIN + last + 1))


def test_ids_behind_the_last_timestamp_are_never_emitted() -> None:
    """A vocabulary that is padded to a multiple of 64, say."""
    history = RULES.start(1, CPU)
    for token in (BEGIN, 5, 6):
        restricted = history.restrict(torch.zeros(1, VOCAB_SIZE + 40).log_softmax(-1))
        assert torch.isneginf(restricted[:, VOCAB_SIZE:]).all()
        history.append(torch.tensor([token]))


DECODERS = [random_whisper(small_config(vocab_size=VOCAB_SIZE, layers=(1, 2)), seed).decoder for seed in range(2)]
for _decoder in DECODERS:
    with torch.no_grad():  # text, timestamps and ends are all likely enough
        _decoder.embed_tokens.weight[BEGIN:] *= 0.5
        _decoder.layer_norm.bias += 0.3 * _decoder.embed_tokens.weight[EOT]
PROMPT = (TOKENS.sot,)
SUPPRESS = LogitRules(VOCAB_SIZE, SPECIAL, [EOT], CPU)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_searches_under_the_grammar(beam_size: int) -> None:
    """What each search emits can be emitted, and its log-probability is that of its tokens, computed anew."""
    ended = pairs = 0
    for seed, decoder in enumerate(DECODERS):
        states = EncoderStates(3 * torch.randn(5, 12, 32, generator=torch.Generator().manual_seed(seed)), None)
        model = ready_to_search(decoder, SUPPRESS, TOKENS)
        searched = Transcriber(model, SearchOptions(beam_size=beam_size), timestamps=RULES)
        found = searched.decode(states, [PROMPT] * 5, [25] * 5)
        for row, hypothesis in enumerate(found):
            tokens = [*hypothesis.tokens, *([EOT] if hypothesis.ended else [])]
            with torch.inference_mode():
                inputs = torch.tensor([[*PROMPT, *tokens[:-1]]])
                all_logits = decoder.logits(decoder(inputs, states.states[row : row + 1], None))[0]
            total = 0.0
            for place, token in enumerate(tokens):
                log_probs = SUPPRESS.log_probs(all_logits[place : place + 1], first=place == 0)[0]
                allowed = sorted(allowed_by_hand(tokens[:place], log_probs))
                assert token in allowed
                total += float(log_probs[allowed].log_softmax(-1)[allowed.index(token)])
            assert hypothesis.log_prob == pytest.approx(total, abs=1e-3)
            ended += hypothesis.ended
            pairs += sum(a >= BEGIN and b >= BEGIN for a, b in pairwise(tokens))
    assert ended > 0
    assert pairs > 5


def test_no_segment_begins_before_its_window() -> None:
    """Without the grammar a pair of timestamps may stand in the middle of text."""
    spans, _ = split_window([5, 1001, 1002, 6, 1003], 1000, 3000)
    assert [(round(span.start, 2), round(span.end, 2)) for span in spans] == [(0.0, 0.02), (0.04, 0.06)]


def test_text_that_a_user_added_is_text() -> None:
    """Its ids lie behind the timestamps; a vocabulary in which they lie before end of text must give the same."""
    content = json.loads(TOKENIZER)
    content["added_tokens"] += [
        content["added_tokens"][-1] | {"id": VOCAB_SIZE + number, "content": name, "special": special}
        for number, (name, special) in enumerate([("zzz", False), ("yyy", False), ("<|cough|>", True)])
    ]
    added = TimestampRules(Tokenizer(json.dumps(content), VOCAB_SIZE + 5))
    assert added.added_text == [VOCAB_SIZE, VOCAB_SIZE + 1]
    moved = [*range(VOCAB_SIZE)]
    moved[7], moved[8] = added.added_text  # 7 and 8 are text for which the added tokens stand in
    generator = torch.Generator().manual_seed(0)
    text = timestamps = 0
    for _ in range(40):
        plain, larger = RULES.start(3, CPU), added.start(3, CPU)
        for _ in range(6):
            logits = 3 * torch.randn(3, VOCAB_SIZE, generator=generator)
            logits[:, :BEGIN] += 3
            logits[:, 7:9] += 4
            wide = torch.full((3, VOCAB_SIZE + 5), -torch.inf)
            wide[:, moved] = logits
            wide[:, VOCAB_SIZE + 2 :] = 9.0  # of a special token, and of rows that no token has
            expected = plain.restrict(logits.log_softmax(-1))
            wide = larger.restrict(wide.log_softmax(-1))
            torch.testing.assert_close(wide[:, moved], expected)
            assert torch.isneginf(wide[:, VOCAB_SIZE + 2 :]).all()
            assert torch.isneginf(wide[:, 7:9]).all()
            tokens = torch.multinomial(expected.exp(), 1, generator=generator)[:, 0]
            plain.append(tokens)
            larger.append(torch.tensor(moved)[tokens])
            text += int(((tokens == 7) | (tokens == 8)).sum())
            timestamps += int((tokens >= BEGIN).sum())
    assert text > 20
    assert timestamps > 50
    tokens = [BEGIN, VOCAB_SIZE, BEGIN + 50]
    assert split_window(tokens, BEGIN, 300) == ([Span(0.0, 1.0, tuple(tokens))], 300)
