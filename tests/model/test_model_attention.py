"""Proportional attention: a frame of weight log(count) is `count` frames of weight 1."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_whisper import random_whisper
from torch import Tensor

from whispertune.model.attention import PADDING_LOG_WEIGHT, Attention, attention_bias

COUNTS = st.lists(st.integers(1, 40), min_size=1, max_size=12)


def reference_attention(module: Attention, x: Tensor, context: Tensor, bias: Tensor) -> Tensor:
    """One row (T, D) attending to (K, D) with `bias` (T, K) added to the logits, head by head."""
    width = x.shape[-1] // module.num_heads
    query, keys, values = module.q_proj(x), module.k_proj(context), module.v_proj(context)
    parts = []
    for head in range(module.num_heads):
        part = slice(head * width, (head + 1) * width)
        logits = query[:, part] @ keys[:, part].T / math.sqrt(width) + bias
        parts.append(logits.softmax(dim=-1) @ values[:, part])
    return module.out_proj(torch.cat(parts, dim=-1))


@pytest.fixture(scope="module")
def attention() -> Attention:
    return random_whisper().encoder.layers[0].self_attn  # type: ignore[return-value]


@torch.no_grad()
def test_against_the_formula(attention: Attention) -> None:
    torch.manual_seed(0)
    x, context, weights = torch.randn(3, 5, 32), torch.randn(3, 9, 32), torch.randn(3, 9)
    keys, values = attention.keys_values(context)
    ours = attention(x, keys, values, attention_bias(weights, torch.float32))
    for row in range(3):
        reference = reference_attention(attention, x[row], context[row], weights[row].expand(5, -1))
        torch.testing.assert_close(ours[row], reference, rtol=1e-5, atol=1e-5)
    causal = attention(x, *attention.keys_values(x), causal=True)
    mask = torch.full((5, 5), -torch.inf).triu(1)
    for row in range(3):
        reference = reference_attention(attention, x[row], x[row], mask)
        torch.testing.assert_close(causal[row], reference, rtol=1e-5, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(COUNTS, st.integers(0, 100))
@torch.no_grad()
def test_cross_attention_repeats_are_a_weight(counts: list[int], seed: int) -> None:
    attention = random_whisper().decoder.blocks()[0].encoder_attn
    generator = torch.Generator().manual_seed(seed)
    x, context = torch.randn(1, 3, 32, generator=generator), torch.randn(1, len(counts), 32, generator=generator)
    repeats = torch.tensor(counts)
    weighted = attention(x, *attention.keys_values(context), attention_bias(repeats.log()[None], torch.float32))
    repeated = attention(x, *attention.keys_values(context.repeat_interleave(repeats, dim=1)))
    torch.testing.assert_close(weighted, repeated, rtol=1e-5, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(COUNTS, st.integers(0, 100))
@torch.no_grad()
def test_encoder_and_decoder_repeats_are_a_weight(counts: list[int], seed: int) -> None:
    """The same through the whole model: frames that repeat stand at one position and look alike."""
    whisper = random_whisper(seed=seed % 3)
    generator = torch.Generator().manual_seed(seed)
    log_mel = torch.randn(1, 80, 30, generator=generator)
    index = torch.randint(0, 15, (1, len(counts)), generator=generator)
    positions = torch.randperm(1500, generator=generator)[: len(counts)][None]
    repeats = torch.tensor(counts)
    log_weights = repeats.log()[None]
    ours = whisper.encoder(log_mel, index, positions, log_weights)
    whole = whisper.encoder(log_mel, index.repeat_interleave(repeats, 1), positions.repeat_interleave(repeats, 1), None)
    torch.testing.assert_close(ours.repeat_interleave(repeats, 1), whole, rtol=1e-4, atol=1e-4)
    input_ids = torch.randint(0, 61, (1, 6), generator=generator)
    torch.testing.assert_close(
        whisper.decoder(input_ids, ours, log_weights), whisper.decoder(input_ids, whole, None), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@torch.no_grad()
def test_padding_has_no_weight_in_any_type(attention: Attention, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module = Attention(32, 2)
    module.load_state_dict(attention.state_dict())
    module = module.to(dtype)
    x, context = torch.randn(2, 4, 32).to(dtype), torch.randn(2, 7, 32).to(dtype)
    log_weights = torch.zeros(2, 7)
    log_weights[0, 3:] = PADDING_LOG_WEIGHT
    bias = attention_bias(log_weights, dtype)
    first = module(x, *module.keys_values(context), bias)
    context[0, 3:] = 50.0
    second = module(x, *module.keys_values(context), bias)
    assert torch.isfinite(first).all()
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@torch.no_grad()
def test_beams_share_keys(attention: Attention) -> None:
    torch.manual_seed(0)
    x, context, weights = torch.randn(6, 2, 32), torch.randn(2, 9, 32), torch.randn(2, 9)
    bias = attention_bias(weights, torch.float32)
    shared = attention(x, *attention.keys_values(context), bias)
    copied = attention(x, *attention.keys_values(context.repeat_interleave(3, 0)), bias.repeat_interleave(3, 0))  # type: ignore[union-attr]
    torch.testing.assert_close(shared, copied, rtol=1e-5, atol=1e-5)
