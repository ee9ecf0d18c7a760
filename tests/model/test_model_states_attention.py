"""Cross-attention on the states themselves: the same numbers and gradients as with keys and values, in less work."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_whisper import random_whisper
from torch import Tensor

from whispertune.model import whisper as whisper_module
from whispertune.model.packed_lengths import PackedLengths, attend_by_row
from whispertune.model.states_attention import attend_to_states, few_sizes, is_cheaper, share_states

HEADS, WIDTH = 2, 16
row_sizes = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 9)), min_size=1, max_size=4)


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def with_keys_and_values(
    query: Tensor, weights: tuple[Tensor, Tensor], states: Tensor, log_weights: Tensor | None,
    rows: tuple[PackedLengths, PackedLengths],
) -> Tensor:  # fmt: skip
    packed = rows[1].pack(states)
    biases = None if log_weights is None else rows[1].pack(log_weights)
    return attend_by_row(query, packed @ weights[0].T, packed @ weights[1].T, biases, *rows, HEADS)


@given(row_sizes, st.booleans(), st.integers(0, 9), st.integers(1, 8))
@settings(deadline=None, max_examples=60)
def test_outputs_and_gradients_are_those_of_keys_and_values(
    sizes: list[tuple[int, int]], weighted: bool, seed: int, multiple: int
) -> None:
    rows = tuple(PackedLengths(each, multiple) for each in zip(*sizes, strict=True))
    queries, keys = rows
    states = draw(len(sizes), max(keys.sizes), WIDTH, seed=seed)
    log_weights = draw(*states.shape[:2], seed=seed + 1) if weighted else None
    query = draw(queries.total, WIDTH, seed=seed + 2).requires_grad_()
    weights = tuple(draw(WIDTH, WIDTH, seed=seed + 3 + number).requires_grad_() for number in range(2))
    # What lies in the filler is of no account: its gradient is zero in a model.
    outer = draw(queries.total, WIDTH, seed=seed + 5)
    outer[sum(queries.sizes) :] = 0
    expected = with_keys_and_values(query, weights, states, log_weights, rows)
    found = attend_to_states(query, *weights, share_states(states, log_weights, *rows, HEADS))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    gradients = (torch.autograd.grad(x, (query, *weights), outer) for x in (found, expected))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@given(row_sizes, st.booleans(), st.integers(0, 9), st.sampled_from([0.0, 30.0]))
@settings(deadline=None, max_examples=40)
def test_in_bf16_rounding_is_about_that_with_keys_and_values(
    sizes: list[tuple[int, int]], weighted: bool, seed: int, common: float
) -> None:
    """Nor where the states have much in common, which softmax does not see; and rows do not see their neighbours."""
    rows = tuple(PackedLengths(each, 4) for each in zip(*sizes, strict=True))
    queries, keys = rows
    states = (draw(len(sizes), max(keys.sizes), WIDTH, seed=seed) + common * draw(WIDTH, seed=seed + 9)).bfloat16()
    log_weights = draw(*states.shape[:2], seed=seed + 1).bfloat16().float() if weighted else None
    weights_given = [draw(WIDTH, WIDTH, seed=seed + 3 + number) / WIDTH**0.5 for number in range(2)]
    inputs = [draw(queries.total, WIDTH, seed=seed + 2), *weights_given]
    outer = draw(queries.total, WIDTH, seed=seed + 5).bfloat16()
    outer[sum(queries.sizes) :] = 0
    found = []
    for dtype, by_states in ((torch.float64, False), (torch.bfloat16, False), (torch.bfloat16, True)):
        query, *weights = (x.bfloat16().to(dtype).requires_grad_() for x in inputs)
        if by_states:
            shared = share_states(states.to(dtype), log_weights, *rows, HEADS)
            out = attend_to_states(query, *weights, shared)
        else:
            out = with_keys_and_values(query, tuple(weights), states.to(dtype), log_weights, rows)
        real = out[: sum(queries.sizes)]
        assert not out[sum(queries.sizes) :].any()
        found.append([real.detach(), *torch.autograd.grad(out, (query, *weights), outer.to(dtype))])
    exact, by_row, ours = found
    for name, should, theirs, own in zip(("out", "query", "key", "value"), exact, by_row, ours, strict=True):
        if should.norm() > 1e-6 * outer.norm():  # a single frame has no gradient but rounding
            assert relative_error(own, should) < 1.5 * relative_error(theirs, should) + 0.03, name


@given(st.integers(1, 5000), st.sampled_from([8, 64]))
def test_sizes_are_few_and_not_much_longer(length: int, step: int) -> None:
    size = few_sizes(length, step)
    assert length <= size < length * 1.25 + step
    assert size % step == 0
    assert len({few_sizes(n, step) for n in range(1, length + 1)}) <= 4 * max(1, (length // step).bit_length() + 1)


def test_a_decoder_trains_the_same_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = random_whisper().double().decoder
    width = decoder.layer_norm.weight.shape[0]
    ids, states = torch.tensor([[3, 7, 1], [4, 2, 0]]), draw(2, 90, width, seed=0)
    log_weights = torch.zeros(2, 90)
    log_weights[1, 70:] = -30_000
    found = []
    for way in (False, True):
        monkeypatch.setattr(whisper_module, "is_cheaper", lambda *_, way=way: way)
        for recompute in (False, True):
            decoder.recompute = recompute
            decoder.zero_grad()
            hidden = decoder(ids, states, log_weights, (3, 2), (90, 70))
            hidden.square().sum().backward()
            names = ("k_proj.weight", "v_proj.weight", "v_proj.bias", "q_proj.weight", "out_proj.bias")
            attention = decoder.blocks()[0].encoder_attn
            found.append([hidden.detach(), *(attention.get_parameter(name).grad for name in names)])
    for other in found[1:]:
        for ours, theirs in zip(found[0], other, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)


def test_it_is_taken_where_it_saves_work_and_can_be() -> None:
    frames = PackedLengths((200,) * 8, 64)
    few, many = PackedLengths((14,) * 8, 16), PackedLengths((80,) * 8, 16)
    states = torch.zeros(8, 200, 512)
    assert is_cheaper(states, few, frames, 8)
    assert not is_cheaper(states, many, frames, 8)
    assert not is_cheaper(states.half(), few, frames, 8)
    assert is_cheaper(states.bfloat16(), few, frames, 8)
    assert not is_cheaper(states.bfloat16(), many, frames, 8)
    assert not is_cheaper(states.clone().requires_grad_(), few, frames, 8)
    assert not is_cheaper(torch.zeros(8, 200, 512, device="meta"), few, frames, 8)
    with torch.no_grad():
        assert not is_cheaper(states, few, frames, 8)
