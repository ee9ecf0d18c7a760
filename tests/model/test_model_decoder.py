from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_whisper import random_weights, random_whisper, small_config

from whispertune.model.attention import PADDING_LOG_WEIGHT
from whispertune.model.cache import CACHE_TOKENS
from whispertune.model.packed_lengths import few_lengths
from whispertune.model.whisper import build_whisper, inference_copy

WHISPER = random_whisper(small_config(layers=(1, 3)))
DECODER = WHISPER.decoder


def random_states(rows: int, seed: int = 0, num_frames: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    """States (rows, K, 32) and log weights, each row but the first with padding."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(rows, num_frames, 32, generator=generator)
    log_weights = torch.randint(1, 30, (rows, num_frames), generator=generator).float().log()
    for row in range(rows):
        log_weights[row, num_frames - row :] = PADDING_LOG_WEIGHT
    return states, log_weights


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 4),
    prompt=st.integers(1, 5),
    new=st.integers(0, 6),
    seed=st.integers(0, 999),
    weighted=st.booleans(),
)
@torch.no_grad()
def test_step_by_step_equals_the_whole(rows: int, prompt: int, new: int, seed: int, weighted: bool) -> None:
    states, log_weights = random_states(rows, seed)
    weights = log_weights if weighted else None
    tokens = torch.randint(0, 61, (rows, prompt + new), generator=torch.Generator().manual_seed(seed))
    whole = DECODER(tokens, states, weights)
    cache = DECODER.start(states, weights)
    hidden = [DECODER.step(tokens[:, :prompt], cache)]
    hidden += [DECODER.step(tokens[:, i : i + 1], cache) for i in range(prompt, prompt + new)]
    assert cache.num_tokens == prompt + new
    torch.testing.assert_close(torch.stack(hidden, 1), whole[:, prompt - 1 :], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(DECODER.read(tokens, cache.emptied()), whole, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_every_position_up_to_448() -> None:
    states, log_weights = random_states(1)
    tokens = torch.randint(0, 61, (1, 448), generator=torch.Generator().manual_seed(0))
    whole = DECODER(tokens, states, log_weights)
    cache = DECODER.start(states, log_weights)
    DECODER.step(tokens[:, :447], cache)
    torch.testing.assert_close(DECODER.step(tokens[:, 447:], cache), whole[:, -1], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_cache_grows_and_rows_leave_meanwhile() -> None:
    states, log_weights = random_states(3)
    num_tokens = 2 * CACHE_TOKENS + 3
    tokens = torch.randint(0, 61, (3, num_tokens), generator=torch.Generator().manual_seed(0))
    whole = DECODER(tokens, states, log_weights)
    cache = DECODER.start(states, log_weights)
    rows = torch.tensor([0, 1, 2])
    DECODER.step(tokens[:, : CACHE_TOKENS - 2], cache)
    for at in range(CACHE_TOKENS - 2, num_tokens):
        if at in (CACHE_TOKENS, CACHE_TOKENS + 30):
            kept = torch.arange(1, len(rows))
            cache.select(kept, kept)
            rows = rows[kept]
        hidden = DECODER.step(tokens[rows, at : at + 1], cache)
        torch.testing.assert_close(hidden, whole[rows, at], rtol=1e-4, atol=1e-4)
    assert rows.tolist() == [2]


@torch.no_grad()
def test_as_many_tokens_on_a_device_of_few_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention looks at rounded lengths there, but not beyond the cache."""
    monkeypatch.setattr(
        "whispertune.model.whisper.padded_length", lambda length, least, device: few_lengths(length, least)
    )
    states, _ = random_states(1)
    tokens = torch.randint(0, 61, (1, 200), generator=torch.Generator().manual_seed(0))
    whole = DECODER(tokens, states, None)
    cache = DECODER.start(states, None)
    DECODER.step(tokens[:, :1], cache)
    for at in range(1, 200):
        hidden = DECODER.step(tokens[:, at : at + 1], cache)
    torch.testing.assert_close(hidden, whole[:, -1], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_padding_behind_a_row_changes_nothing_before_it() -> None:
    states, log_weights = random_states(2)
    tokens = torch.randint(0, 61, (2, 9), generator=torch.Generator().manual_seed(0))
    first = DECODER(tokens, states, log_weights)
    tokens[1, 5:] = 60
    second = DECODER(tokens, states, log_weights)
    torch.testing.assert_close(first[1, :5], second[1, :5], rtol=0, atol=0)
    assert not torch.allclose(first[1, 5:], second[1, 5:])


@torch.no_grad()
def test_cache_select_keeps_rows_and_utterances() -> None:
    states, log_weights = random_states(4)
    tokens = torch.randint(0, 61, (4, 6), generator=torch.Generator().manual_seed(0))
    whole = DECODER(tokens, states, log_weights)
    cache = DECODER.start(states, log_weights)
    DECODER.step(tokens[:, :3], cache)
    kept = torch.tensor([3, 1])
    cache.select(kept, kept)
    DECODER.step(tokens[kept, 3:4], cache)
    cache.select(torch.tensor([1]), torch.tensor([1]))
    hidden = DECODER.step(tokens[1:2, 4:5], cache)
    torch.testing.assert_close(hidden[0], whole[1, 4], rtol=1e-4, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 3), st.integers(2, 4), st.integers(0, 999), st.booleans(), st.sampled_from([0, 2, 3]))
@torch.no_grad()
def test_beams_of_an_utterance_equal_copied_rows(
    utterances: int, beams: int, seed: int, weighted: bool, shared: int
) -> None:
    states, log_weights = random_states(utterances, seed)
    weights = log_weights if weighted else None
    generator = torch.Generator().manual_seed(seed)
    prompt = torch.randint(0, 61, (utterances, 3), generator=generator)
    cache = DECODER.start(states, weights)
    DECODER.step(prompt, cache)
    cache.num_shared = shared  # of the three tokens
    history = prompt.repeat_interleave(beams, 0)
    cache.select(torch.arange(utterances).repeat_interleave(beams))
    copied = (states.repeat_interleave(beams, 0), None if weights is None else weights.repeat_interleave(beams, 0))
    for _ in range(3):
        tokens = torch.randint(0, 61, (utterances * beams, 1), generator=generator)
        history = torch.cat([history, tokens], 1)
        hidden = DECODER.step(tokens, cache)
        torch.testing.assert_close(hidden, DECODER(history, *copied)[:, -1], rtol=1e-4, atol=1e-4)
        # A search moves beams about within their utterance.
        moved = torch.randint(0, beams, (utterances, beams), generator=generator)
        order = (torch.arange(utterances)[:, None] * beams + moved).flatten()
        history = history[order]
        cache.select(order)


@torch.no_grad()
def test_an_utterance_leaves_with_its_beams() -> None:
    states, log_weights = random_states(3)
    tokens = torch.randint(0, 61, (6, 4), generator=torch.Generator().manual_seed(0))
    whole = DECODER(tokens, states.repeat_interleave(2, 0), log_weights.repeat_interleave(2, 0))
    cache = DECODER.start(states, log_weights)
    DECODER.step(tokens[::2, :1], cache)
    cache.select(torch.arange(3).repeat_interleave(2))
    # Both beams of an utterance have begun alike: rewrite the whole's first token accordingly.
    tokens[1::2, 0] = tokens[::2, 0]
    whole = DECODER(tokens, states.repeat_interleave(2, 0), log_weights.repeat_interleave(2, 0))
    DECODER.step(tokens[:, 1:2], cache)
    cache.select(torch.tensor([0, 1, 4, 5]), torch.tensor([0, 2]))
    hidden = DECODER.step(tokens[[0, 1, 4, 5], 2:3], cache)
    torch.testing.assert_close(hidden, whole[[0, 1, 4, 5], 2], rtol=1e-4, atol=1e-4)


def test_inference_copy_shares_what_stays_and_leaves_the_original() -> None:
    whisper = random_whisper()
    same, half = inference_copy(whisper, torch.float32), inference_copy(whisper, torch.bfloat16)
    assert same.decoder.embed_tokens.weight.data_ptr() == whisper.decoder.embed_tokens.weight.data_ptr()
    assert all(p.dtype == torch.bfloat16 and not p.requires_grad for p in half.parameters())
    assert whisper.decoder.embed_tokens.weight.requires_grad
    assert whisper.decoder.embed_tokens.weight.dtype == torch.float32
    with torch.no_grad():
        whisper.decoder.embed_tokens.weight.add_(1)
    assert torch.equal(same.decoder.embed_tokens.weight, whisper.decoder.embed_tokens.weight)


def test_no_normal_numbers_are_drawn_to_be_overwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    """On `meta` they are drawn in Python, for which torch imports 800 modules."""
    config = small_config()
    weights = random_weights(config, 0)
    monkeypatch.setattr(torch.nn.init, "normal_", None)
    build_whisper(config, weights)


def test_build_whisper_copies_the_weights() -> None:
    config = small_config()
    weights = {name: value.half() for name, value in random_weights(config).items()}
    whisper = build_whisper(config, weights)
    assert whisper.state_dict().keys() == weights.keys()
    before = {name: value.clone() for name, value in weights.items()}
    with torch.no_grad():
        for parameter in whisper.parameters():
            assert parameter.dtype == torch.float32
            parameter.zero_()
    assert all(torch.equal(weights[name], before[name]) for name in weights)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_steps_equal_half_precision_whole(dtype: torch.dtype) -> None:
    decoder = inference_copy(DECODER, dtype)
    states, log_weights = random_states(2)
    states = states.to(dtype)
    tokens = torch.randint(0, 61, (2, 5), generator=torch.Generator().manual_seed(0))
    cache = decoder.start(states, log_weights)
    decoder.step(tokens[:, :4], cache)
    stepped = decoder.step(tokens[:, 4:], cache).float()
    whole = decoder(tokens, states, log_weights)[:, -1].float()
    exact = DECODER(tokens, states.float(), log_weights)[:, -1]
    assert float((stepped - whole).norm() / whole.norm()) < 0.03
    assert float((stepped - exact).norm() / exact.norm()) < 0.03


@pytest.mark.parametrize("split", [1, 3, 5])
def test_prompts_of_many_lengths_side_by_side(split: int) -> None:
    """Filler before the shorter ones, the prompt in two parts, rows taken over: what each row gets when alone."""
    decoder = random_whisper().decoder
    generator = torch.Generator().manual_seed(3)
    states = torch.randn(3, 9, 32, generator=generator)
    rows = [torch.randint(61, (length,), generator=generator) for length in (6, 2, 4)]
    rows = [torch.cat([row, torch.randint(61, (3,), generator=generator)]) for row in rows]  # 3 more, one by one
    filled = torch.stack([torch.nn.functional.pad(row, (9 - len(row), 0), value=7) for row in rows])
    with torch.inference_mode():
        cache = decoder.start(states, None)
        cache.padding = torch.tensor([9 - len(row) for row in rows])
        for begin, end in ((0, split), (split, 6), (6, 7), (7, 8), (8, 9)):
            if end > begin:
                hidden = decoder.step(filled[:, begin:end], cache)
            if begin == 6:
                kept = torch.tensor([2, 0])
                cache.select(kept, kept)
                filled, rows, states = filled[kept], [rows[2], rows[0]], states[kept]
        for place, row in enumerate(rows):
            alone = decoder(row[None], states[place : place + 1], None)[0, -1]
            torch.testing.assert_close(hidden[place], alone, atol=1e-5, rtol=1e-4)
