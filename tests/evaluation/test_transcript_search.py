"""Search that knows the transcript, against greedy search that does not."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from whispertune.decoding.beam import beam_search
from whispertune.decoding.greedy import greedy_search
from whispertune.decoding.prefill import Prefill, prefill
from whispertune.decoding.rules import BLOCK, Hypothesis, LogitRules, largest
from whispertune.evaluation.transcript_search import TranscriptSearch, teacher_forced_nll
from whispertune.model.whisper import Decoder
from whispertune.text.targets import Target, make_target

sys.path.append(str(Path(__file__).parents[1] / "model"))
from random_whisper import decoder_that_ends, random_windows

VOCAB, EOT, SOT = 23, 22, 1
RULES = LogitRules(VOCAB, [3, 4], [5, EOT], torch.device("cpu"))
DECODERS = [decoder_that_ends(seed, VOCAB, EOT) for seed in range(4)]


def changed(tokens: Sequence[int], edits: int, draw: random.Random) -> list[int]:
    """The tokens with so many of them inserted, replaced or removed."""
    found = list(tokens)
    for _ in range(edits):
        place = draw.randint(0, len(found))
        found[place : place + draw.randint(0, 2)] = [draw.randrange(VOCAB - 1) for _ in range(draw.randint(0, 2))]
    return found


def searched(
    decoder: Decoder, prefilled: Prefill, limits: Sequence[int], targets: Sequence[Target], cut_loops: bool
) -> list[Hypothesis]:
    known = TranscriptSearch(decoder, prefilled, RULES, targets, 0)
    assert known.nll == pytest.approx(teacher_forced_nll(decoder, prefilled, targets, 0), rel=1e-6)
    return known.search(EOT, limits, cut_loops=cut_loops)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 12),
    seed=st.integers(0, 10_000),
    which=st.integers(0, 3),
    edits=st.integers(0, 8),
    prompt=st.sampled_from([(SOT, 2), (6, 7, SOT, 2)]),
    flags=st.tuples(st.booleans(), st.booleans()),
)
def test_it_finds_what_greedy_search_finds(
    rows: int, seed: int, which: int, edits: int, prompt: tuple[int, ...], flags: tuple[bool, bool]
) -> None:
    """Whatever the transcripts: right, nearly right, or nonsense."""
    decoder, states, draw, (cut_loops, prompt_loss) = (
        DECODERS[which],
        random_windows(rows, seed),
        random.Random(seed),
        flags,
    )
    limits = [draw.randint(0, 40) for _ in range(rows)]
    prefilled = prefill(decoder, states, [prompt] * rows)
    expected = greedy_search(decoder, prefilled, RULES, EOT, limits, cut_loops=cut_loops)
    texts = [changed(hypothesis.tokens, draw.randint(0, edits), draw) for hypothesis in expected]
    targets = [make_target(prompt, text, EOT, sot=SOT, prompt_loss=prompt_loss) for text in texts]
    for found, wanted in zip(searched(decoder, prefilled, limits, targets, cut_loops), expected, strict=True):
        assert (found.tokens, found.ended, found.looped, found.cut) == (
            wanted.tokens, wanted.ended, wanted.looped, wanted.cut
        )  # fmt: skip
        assert found.log_prob == pytest.approx(wanted.log_prob, abs=1e-3)


def test_how_many_passes_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """None where transcripts are what comes out; few where a token or two differ."""
    passes: list[int] = []
    read_at = Decoder.read_at
    monkeypatch.setattr(
        Decoder, "read_at", lambda self, ids, *others: (passes.append(len(ids)), read_at(self, ids, *others))[1]
    )
    states, decoder, limits = random_windows(12, 1), DECODERS[0], [30] * 12
    prefilled = prefill(decoder, states, [(SOT, 2)] * 12)
    expected = greedy_search(decoder, prefilled, RULES, EOT, limits)
    assert {len(hypothesis.tokens) for hypothesis in expected} >= {1, 7, 11, 19, 24, 30}
    counts = []
    for edits in (0, 1):
        texts = [changed(hypothesis.tokens, edits, random.Random(n)) for n, hypothesis in enumerate(expected)]
        targets = [make_target((SOT, 2), text, EOT, sot=SOT) for text in texts]
        passes.clear()
        found = searched(decoder, prefilled, limits, targets, cut_loops=False)
        assert [h.tokens for h in found] == [h.tokens for h in expected]
        counts.append(len(passes))
    assert counts[0] == 0
    assert 0 < counts[1] < 20  # greedy search would take 31


def test_what_comes_after_is_not_changed() -> None:
    """A beam search of the same windows, to the bit, though it follows."""
    prefilled = [prefill(DECODERS[0], random_windows(5, 1), [(SOT, 2)] * 5) for _ in range(2)]
    targets = [make_target((SOT, 2), [7, 8, 9][:row], EOT, sot=SOT) for row in range(5)]
    searched(DECODERS[0], prefilled[0], [30] * 5, targets, cut_loops=False)
    found, expected = (beam_search(DECODERS[0], its, RULES, EOT, [30] * 5, beam_size=3) for its in prefilled)
    assert found == expected


@pytest.mark.parametrize("last", [False, True])
def test_only_the_last_search_uses_the_memory_up(last: bool) -> None:
    """Keys and values of windows that have ended are freed at once, where an earlier search leaves them."""
    prefilled = prefill(DECODERS[0], random_windows(12, 1), [(SOT, 2)] * 12)
    expected = greedy_search(DECODERS[0], prefilled, RULES, EOT, [30] * 12)
    targets = [make_target((SOT, 2), [9, 8, 7], EOT, sot=SOT)] * 12
    found = TranscriptSearch(DECODERS[0], prefilled, RULES, targets, 0).search(EOT, [30] * 12, last=last)
    assert [h.tokens for h in found] == [h.tokens for h in expected]
    left, _ = prefilled.fork()
    assert all((len(keys) < 12) == last for keys in left.cross_keys)


def test_room_for_448_tokens() -> None:
    """Transcripts may be checked beyond the last position; what is there is not used."""
    never = LogitRules(VOCAB, [EOT], [], torch.device("cpu"))
    decoder = DECODERS[0]
    prefilled = prefill(decoder, random_windows(2, 0), [(SOT, 2)] * 2)
    expected = greedy_search(decoder, prefilled, never, EOT, [446, 3])
    texts = [expected[0].tokens[:443], (7, 7)]
    targets = [make_target((SOT, 2), text, EOT, sot=SOT) for text in texts]
    found = TranscriptSearch(decoder, prefilled, never, targets, 0).search(EOT, [446, 3])
    assert [h.tokens for h in found] == [h.tokens for h in expected]
    assert not any(h.ended for h in found)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 5),
    size=st.sampled_from([3, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 3 * BLOCK + 25]),
    levels=st.sampled_from([2, 50, 10_000]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 999),
)
def test_the_likeliest_token_is_found_by_blocks(
    rows: int, size: int, levels: int, dtype: torch.dtype, seed: int
) -> None:
    """As PyTorch finds it, the first one where several are equal, and never one that is suppressed."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(0, levels, (rows, size), generator=generator).to(dtype) / 7
    best, place = largest(logits)
    expected = logits.max(-1)
    assert torch.equal(best, expected.values)
    assert torch.equal(logits.gather(1, place[:, None])[:, 0], expected.values)
    assert torch.equal(place, (logits == best[:, None]).int().argmax(-1))
    suppressed = logits.argmax(-1).tolist()
    for rules in (
        LogitRules(size, suppressed, [0, 1], torch.device("cpu")),
        LogitRules(size, [], [2], torch.device("cpu")),
    ):
        for first in (False, True):
            wanted = rules.log_probs(logits, first=first)
            normalisers = logits.float().logsumexp(-1, keepdim=True)
            for given_normalisers in (None, normalisers):
                found, token = rules.likeliest(logits, first=first, log_normalisers=given_normalisers)
                torch.testing.assert_close(found, wanted.amax(-1), rtol=1e-5, atol=1e-4)
                likely = wanted.gather(1, token[:, None])[:, 0]
                torch.testing.assert_close(likely, wanted.amax(-1), rtol=1e-5, atol=1e-4)
    renormalised = LogitRules(size, suppressed[:1], [], torch.device("cpu")).renormalised()
    assert torch.equal(
        renormalised.likeliest(logits, first=False)[0], renormalised.log_probs(logits, first=False).amax(-1)
    )
