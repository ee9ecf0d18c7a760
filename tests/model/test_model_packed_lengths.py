"""Rows laid end to end: attention of a row at a time against torch's fused kernel, and against one row alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_whisper import random_whisper
from torch import Tensor

from whispertune.model import packed_lengths as rows_module
from whispertune.model.attention import PADDING_LOG_WEIGHT
from whispertune.model.packed_lengths import PackedLengths, attend_by_row, few_lengths
from whispertune.model.padded_attention import attend_padded, padded_bias

HEADS, WIDTH = 2, 8
row_sizes = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 9)), min_size=1, max_size=4)


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def by_definition(
    query: Tensor, keys: Tensor, values: Tensor, log_weights: Tensor | None, sizes: list[tuple[int, int]], causal: bool
) -> Tensor:
    """softmax(q k / sqrt(d) + log_weights) v, row by row and head by head."""
    outputs, begin, first = [], 0, 0
    for num_queries, num_keys in sizes:
        q, k, v = query[begin : begin + num_queries], keys[first : first + num_keys], values[first : first + num_keys]
        heads = []
        for head in range(HEADS):
            part = slice(head * WIDTH // HEADS, (head + 1) * WIDTH // HEADS)
            scores = q[:, part] @ k[:, part].T / (WIDTH / HEADS) ** 0.5
            if log_weights is not None:
                scores = scores + log_weights[first : first + num_keys]
            if causal:
                scores = scores + torch.full_like(scores, -torch.inf).triu(1)
            heads.append(scores.softmax(-1) @ v[:, part])
        outputs.append(torch.cat(heads, -1))
        begin, first = begin + num_queries, first + num_keys
    return torch.cat(outputs)


@given(
    row_sizes,
    st.booleans(),
    st.booleans(),
    st.integers(0, 9),
    st.sampled_from(["kept", "fused", "padded"]),
    st.integers(1, 8),
)
@settings(deadline=None, max_examples=60)
def test_outputs_and_gradients_follow_the_definition(
    sizes: list[tuple[int, int]], weighted: bool, causal: bool, seed: int, way: str, multiple: int
) -> None:
    """And what lies in the filler reaches nothing, and gets no gradient."""
    if causal:
        sizes = [(queries, queries) for queries, _ in sizes]
    queries, keys = (
        PackedLengths(tuple(q for q, _ in sizes), multiple, least=2 * multiple),
        PackedLengths(tuple(k for _, k in sizes), multiple, least=2 * multiple),
    )
    inputs = [
        draw(rows.total, WIDTH, seed=seed + number).requires_grad_()
        for number, rows in enumerate((queries, keys, keys))
    ]
    log_weights = draw(keys.total, seed=seed + 3) if weighted and not causal else None
    outer = draw(queries.total, WIDTH, seed=seed + 4)
    defined = by_definition(*inputs, log_weights, sizes, causal)
    expected = torch.cat([defined, defined.new_zeros(queries.total - len(defined), WIDTH)])
    gradients = torch.autograd.grad(expected, inputs, outer)
    attend: Callable[..., Tensor] = attend_padded if way == "padded" else attend_by_row
    weights = padded_bias(inputs[0], log_weights, keys) if way == "padded" and not causal else log_weights
    with pytest.MonkeyPatch.context() as patch:
        if way == "fused":
            patch.setattr(rows_module, "LARGEST_SCORES", 0)
        found = attend(*inputs, weights, queries, keys, HEADS, causal=causal)
        found_gradients = torch.autograd.grad(found, inputs, outer)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    for ours, theirs in zip(found_gradients, gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def test_bf16_products_are_summed_in_float32() -> None:
    sizes = PackedLengths((40,)), PackedLengths((300,))
    exact = [
        draw(sum(rows.sizes), 64, seed=n, dtype=torch.float32) for n, rows in enumerate((sizes[0], *sizes[1:] * 2))
    ]
    rounded = [x.bfloat16() for x in exact]
    expected = attend_by_row(*(x.double() for x in rounded), None, *sizes, num_heads=1)
    # With gradients on, the weights are kept: the way that training takes.
    found = attend_by_row(*(x.requires_grad_() for x in rounded), None, *sizes, num_heads=1)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=2**-8, atol=1e-4)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5), st.integers(0, 3), st.integers(1, 8))
def test_packing_and_padding_are_inverse(sizes: list[int], more: int, multiple: int) -> None:
    rows = PackedLengths(tuple(sizes), multiple)
    packed = draw(rows.total, 3, seed=0)
    packed[sum(sizes) :] = 0  # the filler
    padded = rows.pad(packed, max(sizes) + more, fill=-7.0)
    assert torch.equal(rows.pack(padded), packed)
    for row, size in enumerate(sizes):
        assert (padded[row, size:] == -7).all()


@torch.no_grad()
def test_the_decoder_computes_a_row_as_if_it_were_alone() -> None:
    decoder = random_whisper().decoder
    states, log_weights = draw(3, 7, 32, seed=0).float(), draw(3, 7, seed=1).float()
    frames, num_tokens = [7, 4, 5], [2, 6, 3]
    for row, size in enumerate(frames):
        log_weights[row, size:] = PADDING_LOG_WEIGHT
    input_ids = torch.randint(0, 60, (3, 6), generator=torch.Generator().manual_seed(2))
    together = decoder(input_ids, states, log_weights, num_tokens)
    for row, (size, length) in enumerate(zip(frames, num_tokens, strict=True)):
        alone = decoder(
            input_ids[row : row + 1, :length], states[row : row + 1, :size], log_weights[row : row + 1, :size]
        )
        torch.testing.assert_close(together[row, :length], alone[0], rtol=1e-5, atol=1e-5)
        assert not together[row, length:].any()


def test_few_lengths() -> None:
    assert [few_lengths(n, 32) for n in (1, 32, 33, 64, 100, 448)] == [32, 32, 64, 64, 128, 512]
    assert [few_lengths(n, 256) for n in (1, 300, 1025, 1500)] == [256, 512, 1536, 1536]
    assert len({few_lengths(n, 256) for n in range(1, 1501)}) == 4
    rows = [len(PackedLengths((3,) * n).with_few_rows().sizes) for n in (1, 2, 3, 4, 5, 8, 9, 64)]
    assert rows == [1, 2, 4, 4, 8, 8, 16, 64]
