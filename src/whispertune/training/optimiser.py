"""AdamW with decay groups, clipping over all parameters, and the guard against non-finite gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from whispertune.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """AdamW (Loshchilov & Hutter 2019)."""

    weight_decay: float = 0.01
    """Decoupled; not applied to biases, LayerNorm gains and position embeddings."""

    beta1: float = 0.9
    """Decay of the mean of gradients."""

    beta2: float = 0.98
    """Decay of the mean of squared gradients."""

    eps: float = 1e-8
    """Added to the root of the latter."""

    max_grad_norm: float = 2.0
    """Gradients are scaled down to this L2 norm over all parameters; 0 leaves them alone."""

    max_skipped_in_a_row: int = 20
    """Updates skipped in a row for non-finite gradients before the run stops."""

    def __post_init__(self) -> None:
        if self.weight_decay < 0:
            raise RecipeError(f"optimizer.weight_decay is {self.weight_decay}; it must be at least 0")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise RecipeError(f"optimizer.{name} is {getattr(self, name)}; it must be at least 0, below 1")
        if self.eps <= 0:
            raise RecipeError(f"optimizer.eps is {self.eps}; it must be above 0")
        if self.max_grad_norm < 0:
            raise RecipeError(f"optimizer.max_grad_norm is {self.max_grad_norm}; it must be at least 0")
        if self.max_skipped_in_a_row < 1:
            raise RecipeError(f"optimizer.max_skipped_in_a_row is {self.max_skipped_in_a_row}; it must be at least 1")


def decay_groups(
    model: nn.Module, weight_decay: float, owns: Callable[[Tensor], bool] = lambda _: True
) -> list[dict[str, object]]:
    """Trainable parameters in two groups: with weight decay, and (vectors and position embeddings) without.

    owns: whether a parameter is this process's to update (`Shards.owns`); others are left out.
    """
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and owns(parameter):
            (spared if parameter.ndim < 2 or "embed_positions" in name else decayed).append(parameter)
    groups = [(decayed, weight_decay), (spared, 0.0)]
    return [{"params": params, "weight_decay": decay} for params, decay in groups]


def build_optimizer(
    model: nn.Module, options: OptimizerOptions, owns: Callable[[Tensor], bool] = lambda _: True
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters that this process updates; its learning rate is set before each update."""
    return torch.optim.AdamW(
        decay_groups(model, options.weight_decay, owns),
        lr=0.0,
        betas=(options.beta1, options.beta2),
        eps=options.eps,
        fused=True,
    )


def clip_gradients(parameters: Iterable[Tensor], max_norm: float, norms: Tensor | None = None) -> float:
    """Scale all gradients together to an L2 norm of at most `max_norm` (0: leave them); their norm before.

    norms: of all gradients, where these parameters are only a part. Non-finite gradients are left as they are; the
    norm then is not finite either.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if norms is None:
        norms = torch.stack(torch._foreach_norm(gradients))
    norm = float(torch.linalg.vector_norm(norms))
    if gradients and 0 < max_norm < norm < math.inf:
        torch._foreach_mul_(gradients, max_norm / norm)
    return norm
