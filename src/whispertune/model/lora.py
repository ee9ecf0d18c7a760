"""LoRA (Hu et al. 2021, arXiv:2106.09685): a weight W (out, in) becomes W + alpha / rank * B A, of which A (rank, in)
and B (out, rank) learn.

Nothing of a model's forward or backward pass changes: it computes with the merged weight, and the gradient G of that
is what the gradients of both factors follow from, alpha / rank * B^T G and alpha / rank * G A^T.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from whispertune.model.options import LoraOptions
from whispertune.model.whisper import Whisper

_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")
_TARGETS = {"q,v": ("q_proj", "v_proj"), "attention": _ATTENTION, "all": (*_ATTENTION, "fc1", "fc2")}


def layer_pattern(options: LoraOptions) -> str:
    """A regular expression for the whole names of the layers that these options adapt."""
    halves = "decoder" if options.where == "decoder" else "(encoder|decoder)"
    return rf"model\.{halves}\.layers\..*\.({'|'.join(_TARGETS[options.targets])})"


def adapted_weights(model: Whisper, options: LoraOptions) -> dict[str, Tensor]:
    """The weights (out, in) that these options adapt, by name."""
    pattern = re.compile(rf"{layer_pattern(options)}\.weight")
    return {name: weight for name, weight in model.named_parameters() if pattern.fullmatch(name)}


def merged_weight(weight: Tensor, first: Tensor, second: Tensor, scale: float) -> Tensor:
    """W + scale * B A in float32, from W (out, in), A (rank, in) and B (out, rank)."""
    return weight.to(torch.float32, copy=True).addmm_(second.float(), first.float(), alpha=scale)


class Factors(nn.Module):
    """A and B of one weight (out, in), in float32: B begins at zero, A as a linear layer does, as in peft."""

    def __init__(self, weight: Tensor, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        num_out, num_in = weight.shape
        bound = 1 / math.sqrt(num_in)
        first = torch.empty(rank, num_in).uniform_(-bound, bound, generator=generator)
        self.lora_A = nn.Parameter(first.to(weight.device))
        self.lora_B = nn.Parameter(torch.zeros(num_out, rank, device=weight.device))
        self.scale = alpha / rank

    def merged(self, weight: Tensor) -> Tensor:
        """W + alpha / rank * B A in float32."""
        return merged_weight(weight.detach(), self.lora_A.detach(), self.lora_B.detach(), self.scale)

    @torch.no_grad()
    def add_gradient(self, gradient: Tensor) -> None:
        """Add to both factors' gradients, in float32, what follows from that of the merged weight (out, in).

        Its own type is computed in, except for float16, in which products could overflow.
        """
        full = gradient.float() if gradient.dtype == torch.float16 else gradient
        first, second = self.lora_A.to(full.dtype), self.lora_B.to(full.dtype)
        for factor, part in ((self.lora_A, second.T @ full), (self.lora_B, full @ first.T)):
            if factor.grad is None:
                factor.grad = torch.zeros_like(factor)
            factor.grad.add_(part, alpha=self.scale)


class Adapter(nn.Module):
    """The factors of some of a model's weights, under the modules' own names: `model.decoder.layers.0.fc1.lora_A`.

    options: with their rank above 0. seed: of A's initial values, which are the same on any device.
    """

    def __init__(self, weights: Mapping[str, Tensor], options: LoraOptions, seed: int) -> None:
        super().__init__()
        self.options = options
        self.factors: dict[str, Factors] = {}
        generator = torch.Generator().manual_seed(seed)
        for name, weight in weights.items():
            self.factors[name] = Factors(weight, options.rank, options.resolved_alpha, generator)
            *path, last = name.removesuffix(".weight").split(".")
            module: nn.Module = self
            for part in path:
                if not hasattr(module, part):
                    module.add_module(part, nn.Module())
                module = module.get_submodule(part)
            module.add_module(last, self.factors[name])

    def merged(self, weights: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Name and merged value, in float32, of each adapted weight, of these untouched ones."""
        for name, factors in self.factors.items():
            yield name, factors.merged(weights[name])
