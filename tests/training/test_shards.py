"""Who updates what, in one process that takes itself for one of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from training_samples import tiny_whisper

from whispertune.system.processes import Processes
from whispertune.training import shards as module
from whispertune.training.freeze import apply_freeze
from whispertune.training.optimiser import build_optimizer
from whispertune.training.options import OptimizerOptions
from whispertune.training.shards import Shards, buckets, gradient_of, in_one_piece
from whispertune.training.working_copy import WorkingCopy


@dataclass(frozen=True, slots=True)
class WithOthers(Processes):
    """One of several, whose others have these norms to add."""

    norms: Sequence[float] = ()

    def sum(self, values: Sequence[float]) -> list[float]:
        return [own + others for own, others in zip(values, self.norms, strict=True)]


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


@pytest.mark.parametrize("sharded", [True, False])
def test_one_process_updates_all(sharded: bool) -> None:
    whisper = tiny_whisper()
    shards = Shards(WorkingCopy(whisper, torch.bfloat16), sharded=sharded)
    assert not shards.sharded
    assert shards.owned == [p for p in whisper.parameters() if p.requires_grad]
    shards.sum_gradients()
    assert all(parameter.grad is None for parameter in shards.owned)


@pytest.mark.parametrize("world_size", [2, 3, 80])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_parameter_has_one_owner(world_size: int, dtype: torch.dtype) -> None:
    """Which alone holds it where it is not also what computes; the working copy stays whole everywhere."""
    owners: dict[str, int] = {}
    loads = []
    shapes = {name: parameter.shape for name, parameter in tiny_whisper().named_parameters()}
    for rank in range(world_size):
        whisper = tiny_whisper()
        apply_freeze(whisper, "none")
        working = WorkingCopy(whisper, dtype)
        before = [worker.clone() for worker in working.compute_params]
        shards = Shards(working, Processes(rank, world_size), sharded=True)
        held = 0
        for name, parameter in whisper.named_parameters():
            if not parameter.requires_grad:
                continue
            assert parameter.shape == shapes[name]
            assert parameter.dtype == torch.float32
            if shards.owns(parameter):
                assert name not in owners, "two owners"
                owners[name] = rank
                held += parameter.numel()
            else:
                whole = dtype == torch.float32
                assert parameter.untyped_storage().nbytes() == 4 * (parameter.numel() if whole else 1)
        loads.append(held)
        assert all(torch.equal(worker, old) for worker, old in zip(working.compute_params, before, strict=True))
        # One that owns nothing, too, has an optimiser to step.
        optimizer = build_optimizer(whisper, OptimizerOptions(), shards.owns)
        stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        assert stepped == {id(parameter) for parameter in shards.owned}
        for parameter in shards.owned:
            gradient_of(parameter)
        optimizer.step()
        assert len(optimizer.state) == len(shards.owned)
    names = {name for name, parameter in whisper.named_parameters() if parameter.requires_grad}
    assert set(owners) == names
    sizes = [parameter.numel() for parameter in whisper.parameters() if parameter.requires_grad]
    assert 3 * max(loads) <= 4 * max(*sizes, sum(sizes) / world_size)  # Graham 1969


@pytest.mark.parametrize("max_norm", [0.5, 1e6])
def test_each_owner_clips_by_the_norm_of_all(max_norm: float) -> None:
    """As PyTorch clips all parameters together, whoever updates them."""
    reference = tiny_whisper()
    apply_freeze(reference, "none")
    learning = [parameter for parameter in reference.parameters() if parameter.requires_grad]
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(parameter.shape, generator=generator) for parameter in learning]
    for parameter, gradient in zip(learning, gradients, strict=True):
        parameter.grad = gradient.clone()
    expected = float(torch.nn.utils.clip_grad_norm_(learning, max_norm))
    for rank in range(2):
        whisper = tiny_whisper()
        apply_freeze(whisper, "none")
        own = [parameter for parameter in whisper.parameters() if parameter.requires_grad]
        owner = Shards(WorkingCopy(whisper, torch.float32), Processes(rank, 2), sharded=True)
        norms = [0.0 if owner.owns(p) else float(g.norm()) for p, g in zip(own, gradients, strict=True)]
        shards = Shards(WorkingCopy(whisper, torch.float32), WithOthers(rank, 2, norms=norms), sharded=True)
        for parameter, gradient in zip(own, gradients, strict=True):
            parameter.grad = gradient.clone() if shards.owns(parameter) else None
        assert shards.clip(max_norm) == pytest.approx(expected, rel=1e-5)
        for parameter, clipped in zip(own, learning, strict=True):
            if shards.owns(parameter):
                torch.testing.assert_close(parameter.grad, clipped.grad)
