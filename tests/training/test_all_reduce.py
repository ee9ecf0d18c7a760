"""The buckets in which gradients are summed over processes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from whispertune.training import all_reduce as module
from whispertune.training.all_reduce import buckets, gradient_of, in_one_piece

SIZES = st.lists(st.sampled_from([0, 1, 3, 7, 8, 20]), min_size=1)


@given(SIZES)
def test_buckets_hold_every_tensor(sizes: list[int]) -> None:
    tensors = [torch.zeros(size) for size in sizes]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BUCKET_ELEMENTS", 8)
        found = list(buckets(tensors))
    assert [id(tensor) for bucket in found for tensor in bucket] == [id(tensor) for tensor in tensors]
    assert all(len(bucket) == 1 or sum(tensor.numel() for tensor in bucket) <= 8 for bucket in found)


@given(SIZES)
def test_what_happens_to_a_bucket_happens_to_its_tensors(sizes: list[int]) -> None:
    """Of any layout, in place."""
    tensors = [torch.arange(2.0 * size).view(size, 2).T for size in sizes]
    expected = [tensor + 1 for tensor in tensors]
    in_one_piece(tensors, lambda piece: piece.add_(1))
    assert all(torch.equal(tensor, wanted) for tensor, wanted in zip(tensors, expected, strict=True))


def test_a_missing_gradient_is_zero() -> None:
    parameter = torch.nn.Parameter(torch.ones(2, 3))
    assert torch.equal(gradient_of(parameter), torch.zeros(2, 3))
    parameter.grad = given = torch.ones(2, 3)
    assert gradient_of(parameter) is given
