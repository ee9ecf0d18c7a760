"""AdamW with decay groups, clipping over all parameters, and the guard against non-finite gradients.

Where products are computed in bf16 on a CPU, gradients stay in bf16 until the update, which saves the memory of their
sums in float32: they are cast, clipped and applied, and the copy that computes is written, one block after the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from whispertune.training.adamw8bit import build_adamw8bit, is_quantized, moment_bytes
from whispertune.training.options import OptimizerOptions

BLOCK_ELEMENTS = 2**18
"""Parameters that are updated at once: with gradient, moments and copy 4.5 MB."""


def parameter_groups(model: nn.Module, weight_decay: float, encoder_scale: float = 1.0) -> list[dict[str, Any]]:
    """Trainable parameters in groups: with weight decay, and (vectors and position embeddings) without; those of the
    encoder apart if their rate is scaled. `lr_scale` of a group multiplies the schedule's rate."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {(weight_decay, 1.0): [], (0.0, 1.0): []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decay = 0.0 if parameter.ndim < 2 or "embed_positions" in name else weight_decay
            scale = encoder_scale if name.startswith("model.encoder.") else 1.0
            groups.setdefault((decay, scale), []).append(parameter)
    return [{"params": params, "weight_decay": decay, "lr_scale": scale} for (decay, scale), params in groups.items()]


def build_optimizer(model: nn.Module, options: OptimizerOptions, encoder_scale: float = 1.0) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters, PyTorch's own or the one of 8 bits; its learning rate is set before each
    update (`set_rate`)."""
    for method in (torch.optim.Optimizer.add_param_group, torch.optim.Optimizer.zero_grad):
        # They only keep the compiler out of the method, but import it for that: 1.5 s and 75 MB.
        plain: Any = getattr(method, "__wrapped__", method)
        plain.__dynamo_disable = plain
    groups, betas = parameter_groups(model, options.weight_decay, encoder_scale), (options.beta1, options.beta2)
    if options.name == "adamw8bit":
        return build_adamw8bit(groups, betas, options.eps)
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=options.eps, fused=True)


def quantized_parameters(optimizer: torch.optim.Optimizer) -> int:
    """Number of parameters whose moments are in 8 bits."""
    if isinstance(optimizer, torch.optim.AdamW):
        return 0
    return sum(p.numel() for group in optimizer.param_groups for p in group["params"] if is_quantized(p))


def placeholder_moments(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Tensors that take the memory which the moments will take from the first update on."""
    in_float32 = isinstance(optimizer, torch.optim.AdamW)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    sizes = [(p.device, p.nbytes if in_float32 else moment_bytes(p)) for p in parameters]
    return [torch.ones(size, dtype=torch.uint8, device=device) for device, size in sizes for _ in range(2)]


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of the next update in all groups, by their scales."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


def clip_gradients(parameters: Iterable[Tensor], max_norm: float) -> float:
    """Scale all gradients together to an L2 norm of at most `max_norm` (0: leave them); their norm before.

    Non-finite gradients are left as they are; the norm then is not finite either.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = float(torch.linalg.vector_norm(torch.stack(norms_of(gradients))))
    if gradients and 0 < max_norm < norm < math.inf:
        torch._foreach_mul_(gradients, max_norm / norm)
    return norm


def norms_of(gradients: list[Tensor]) -> list[Tensor]:
    """Their L2 norms, the squares summed in float32 at least."""
    if not any(gradient.dtype == torch.bfloat16 for gradient in gradients):
        return list(torch._foreach_norm(gradients))  # on a GPU a few kernels for all of them
    return [_norm_by_blocks(gradient) for gradient in gradients]


def _norm_by_blocks(gradient: Tensor) -> Tensor:
    flat = gradient.reshape(-1)
    cast_block = torch.empty(min(BLOCK_ELEMENTS, len(flat)), device=flat.device)
    parts = torch.split(flat, BLOCK_ELEMENTS)
    norms = [torch.linalg.vector_norm(cast_block[: len(part)].copy_(part)) for part in parts]
    return cast(Tensor, torch.linalg.vector_norm(torch.stack(norms)))


@torch.no_grad()
def update_on_cpu(optimizer: torch.optim.AdamW) -> None:
    """What `optimizer.step()` does on a CPU, without importing PyTorch's compiler."""
    for group, parameters, states in _begun(optimizer):
        means, squares, steps = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
        _adamw(group, parameters, [cast(Tensor, p.grad) for p in parameters], means, squares, steps)


@torch.no_grad()
def update_in_blocks(optimizer: torch.optim.AdamW, copies: Mapping[int, Tensor], divisor: float) -> None:
    """The same, and the parameters' copies (by the parameters' `id`) brought to what comes out.

    Gradients may be of another type than their parameters, and are divided by `divisor` first.
    """
    scale = None if divisor == 1 else torch.tensor(divisor, dtype=torch.float32)
    for group, parameters, states in _begun(optimizer):
        parts: list[tuple[Tensor, ...]] = []
        for p, state in zip(parameters, states, strict=True):
            written = (p, state["exp_avg"], state["exp_avg_sq"], copies[id(p)])
            flat = (cast(Tensor, p.grad).reshape(-1), *(tensor.view(-1) for tensor in written))
            pieces = zip(*(torch.split(tensor, BLOCK_ELEMENTS) for tensor in flat), strict=True)
            parts += [(*piece, state["step"]) for piece in pieces]
        cast_block = torch.empty(BLOCK_ELEMENTS, dtype=parameters[0].dtype)
        for block in _blocks(parts):
            gradients, values, means, squares, copied, steps = map(list, zip(*block, strict=True))
            room = list(torch.split(cast_block[: sum(map(len, values))], list(map(len, values))))
            torch._foreach_copy_(room, gradients)
            _adamw(group, values, room, means, squares, steps, scale)
            torch._foreach_copy_(copied, values)


def _begun(optimizer: torch.optim.AdamW) -> Iterator[tuple[dict[str, Any], list[Tensor], list[dict[str, Tensor]]]]:
    """Each group, its parameters with a gradient, and their states, whose updates are counted up."""
    for group in optimizer.param_groups:
        parameters = [p for p in group["params"] if p.grad is not None]
        if parameters:
            states = [_state(optimizer, p) for p in parameters]
            torch._foreach_add_([state["step"] for state in states], 1)
            yield group, parameters, states


def _adamw(
    group: Mapping[str, Any], values: list[Tensor], gradients: list[Tensor], means: list[Tensor],
    squares: list[Tensor], steps: list[Tensor], scale: Tensor | None = None,
) -> None:  # fmt: skip
    torch._fused_adamw_(
        values, gradients, means, squares, [], steps, amsgrad=False, maximize=False, lr=group["lr"],
        beta1=group["betas"][0], beta2=group["betas"][1], weight_decay=group["weight_decay"], eps=group["eps"],
        grad_scale=scale,
    )  # fmt: skip


def _state(optimizer: torch.optim.AdamW, parameter: Tensor) -> dict[str, Tensor]:
    """A parameter's moments and number of updates, as AdamW initialises them."""
    state: dict[str, Tensor] = optimizer.state[parameter]
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32)
        state["exp_avg"] = torch.zeros_like(parameter, requires_grad=False)
        state["exp_avg_sq"] = torch.zeros_like(parameter, requires_grad=False)
    return state


def _blocks(parts: list[tuple[Tensor, ...]]) -> Iterator[list[tuple[Tensor, ...]]]:
    """The parts in order, as many at once as make up a block."""
    block: list[tuple[Tensor, ...]] = []
    room = BLOCK_ELEMENTS
    for part in parts:
        if len(part[0]) > room:
            yield block
            block, room = [], BLOCK_ELEMENTS
        block.append(part)
        room -= len(part[0])
    if block:
        yield block
