"""AdamW with decay groups, clipping over all parameters, and the guard against non-finite gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from whispertune.training.options import OptimizerOptions


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
