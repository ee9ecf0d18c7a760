"""The buckets in which gradients are summed over processes."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from whispertune.system.processes import Processes
from whispertune.training import all_reduce as module
from whispertune.training.all_reduce import GradientSum, buckets, gradient_of

SIZES = st.lists(st.sampled_from([0, 1, 3, 7, 8, 20]), min_size=1)


@dataclass(frozen=True)
class Twins(Processes):
    """Two processes with equal values. sent: the number of elements of each tensor, in order."""

    world_size: int = 2
    sent: list[int] = field(default_factory=list)

    def start_all_reduce(self, tensor: torch.Tensor) -> Any:
        self.sent.append(tensor.numel())
        return Doubling(tensor, 2 * tensor, len(self.sent) % 3 == 0)


class Doubling(NamedTuple):
    tensor: torch.Tensor
    doubled: torch.Tensor
    done: bool

    def is_completed(self) -> bool:
        return self.done

    def wait(self) -> None:
        self.tensor.copy_(self.doubled)


@given(SIZES)
def test_buckets_hold_every_tensor(sizes: list[int]) -> None:
    tensors = [torch.zeros(size) for size in sizes]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BUCKET_ELEMENTS", 8)
        found = list(buckets(tensors))
    assert [id(tensor) for bucket in found for tensor in bucket] == [id(tensor) for tensor in tensors]
    assert all(len(bucket) == 1 or sum(tensor.numel() for tensor in bucket) <= 8 for bucket in found)


@given(SIZES, st.integers(0, 2), st.integers(0))
def test_sums_are_of_whole_gradients_and_sent_in_one_order(sizes: list[int], passes: int, seed: int) -> None:
    """In whatever order gradients of any layout come; the first parameter has two a pass."""
    parameters = [torch.nn.Parameter(torch.zeros(size, 2)) for size in sizes]
    contributions = [*parameters, parameters[0]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BUCKET_ELEMENTS", 16)
        total = GradientSum(contributions, processes := Twins())
        expected = [sum(p.numel() for p in bucket) for bucket in buckets(parameters)][::-1]
    draw = random.Random(seed)
    for _ in range(2):  # steps
        total.expect(passes)
        for _ in range(passes):
            for parameter in draw.sample(contributions, len(contributions)):
                if parameter.grad is None:
                    parameter.grad = torch.zeros(2, len(parameter)).T
                parameter.grad += 1
                total.add(parameter)
        assert processes.sent == (expected if passes else [])
        total.send()
        total.finish()
        assert processes.sent == expected
        for place, parameter in enumerate(parameters):
            added = passes * (1 if place else 2)
            assert torch.equal(gradient_of(parameter), torch.full_like(parameter, 2 * added))
            parameter.grad = None
        processes.sent.clear()


def test_few_buckets_are_on_the_way_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each may be a copy: over a slow network all of them would be one more copy of the model."""
    monkeypatch.setattr(module, "BUCKET_ELEMENTS", 8)
    monkeypatch.setattr(Doubling, "is_completed", lambda _: False)
    parameters = [torch.nn.Parameter(torch.zeros(8)) for _ in range(20)]
    for parameter in parameters:
        parameter.grad = torch.ones(8)
    total = GradientSum(parameters, Twins())
    total.expect(1)
    for parameter in reversed(parameters):
        total.add(parameter)
        assert len(total._on_the_way) <= module.MOST_ON_THE_WAY
    total.send()
    total.finish()
    assert all(torch.equal(gradient_of(parameter), torch.full((8,), 2.0)) for parameter in parameters)


def test_one_process_sends_nothing() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    total = GradientSum([parameter], Processes())
    total.expect(1)
    total.add(parameter)
    total.send()
    total.finish()
    assert parameter.grad is None


def test_a_missing_gradient_is_zero() -> None:
    parameter = torch.nn.Parameter(torch.ones(2, 3))
    assert torch.equal(gradient_of(parameter), torch.zeros(2, 3))
    parameter.grad = given = torch.ones(2, 3)
    assert gradient_of(parameter) is given
