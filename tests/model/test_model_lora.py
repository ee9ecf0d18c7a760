"""LoRA's factors, against autograd through W + alpha / rank * B A."""

from __future__ import annotations

import math

import pytest
import torch
from random_whisper import random_whisper
from torch import Tensor, nn

from whispertune.errors import RecipeError
from whispertune.model.lora import Adapter, adapted_weights
from whispertune.model.options import LoraOptions


@pytest.mark.parametrize(
    ("targets", "where", "number"),
    [("q,v", "decoder", 2 * 4), ("attention", "decoder", 2 * 8), ("all", "decoder", 2 * 10), ("all", "both", 2 * 16)],
)
def test_what_is_adapted(targets: str, where: str, number: int) -> None:
    options = LoraOptions(rank=2, targets=targets, where=where)  # type: ignore[arg-type]
    weights = adapted_weights(random_whisper(), options)
    assert len(weights) == number
    assert all(weight.ndim == 2 and "embed" not in name for name, weight in weights.items())
    assert any(".encoder.layers." in name for name in weights) == (where == "both")


def test_gradients_equal_those_through_the_merged_weight() -> None:
    """Two backward passes, so that they are sums; then the merged weight itself."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 7, generator=generator)
    adapter = Adapter({"layer.weight": weight}, LoraOptions(rank=3, alpha=4.5), seed=1)
    factors = adapter.factors["layer.weight"]
    assert float(factors.lora_A.detach().abs().max()) <= 1 / math.sqrt(7)
    assert torch.equal(factors.merged(weight), weight)  # B is zero
    with torch.no_grad():
        factors.lora_B.normal_(generator=generator)
    a, b = (factor.detach().clone().requires_grad_() for factor in (factors.lora_A, factors.lora_B))
    merged = weight + 4.5 / 3 * b @ a
    for _ in range(2):
        x = torch.randn(2, 7, generator=generator)
        (full,) = torch.autograd.grad((x @ merged.T).tanh().sum(), merged, retain_graph=True)
        factors.add_gradient(full)
        (x @ merged.T).tanh().sum().backward(retain_graph=True)
    torch.testing.assert_close(factors.lora_A.grad, a.grad)
    torch.testing.assert_close(factors.lora_B.grad, b.grad)
    torch.testing.assert_close(factors.merged(weight), merged.detach())


def test_names_and_initial_values() -> None:
    weights: dict[str, Tensor] = {f"model.layers.{n}.fc1.weight": nn.Linear(4, 6).weight for n in range(2)}
    first, same, other = (Adapter(weights, LoraOptions(rank=2), seed) for seed in (0, 0, 1))
    names = [name for name, _ in first.named_parameters()]
    assert names == [f"model.layers.{n}.fc1.lora_{factor}" for n in range(2) for factor in "AB"]
    pairs = zip(first.parameters(), same.parameters(), other.parameters(), strict=True)
    equal = [(torch.equal(a, b), torch.equal(a, c)) for a, b, c in pairs]
    assert equal == [(True, False), (True, True)] * 2


def test_fields_that_need_a_rank() -> None:
    assert LoraOptions(rank=8).resolved_alpha == 16
    with pytest.raises(RecipeError, match=r"is q,v, but lora\.rank is 0"):
        LoraOptions(targets="q,v")
