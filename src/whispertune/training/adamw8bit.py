"""AdamW that keeps its moments in 8 bits (Dettmers et al. 2022, "8-bit optimizers via block-wise quantization"), by
bitsandbytes, the extra `adamw8bit`.

Each value of a moment is a code of 8 bits, and 256 of them share a scale in float32. Small tensors, such as biases and
LayerNorm weights, keep their moments in float32.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from whispertune.errors import RecipeError

SMALLEST = 4096
"""Values of the smallest tensor whose moments are in 8 bits: the library's default."""
BLOCK = 256
"""Values that share a scale."""


def build_adamw8bit(groups: Iterable[dict[str, Any]], betas: tuple[float, float], eps: float) -> torch.optim.Optimizer:
    """bitsandbytes' optimiser over groups of parameters, each with a weight decay of its own; the rate is 0 as yet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch's, at what bitsandbytes imports
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of kernels that are not used here
        from bitsandbytes.optim import AdamW8bit
    optimizer: torch.optim.Optimizer = AdamW8bit(groups, lr=0.0, betas=betas, eps=eps, min_8bit_size=SMALLEST)
    return optimizer


def require_adamw8bit(device: torch.device) -> None:
    """Make an update of a few values on this device, before anything else is computed.

    Raises:
        RecipeError: if bitsandbytes is not installed, or cannot make the update.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise RecipeError(
            "is adamw8bit, which needs bitsandbytes; install it: pip install 'whispertune[adamw8bit]'",
            field="optimizer.name",
        )
    parameter = torch.zeros(SMALLEST, device=device, requires_grad=True)
    parameter.grad = torch.ones_like(parameter)
    try:
        build_adamw8bit([{"params": [parameter]}], (0.9, 0.98), 1e-8).step()
    except Exception as error:  # a third-party library, which may not be built for this GPU, driver or PyTorch
        raise RecipeError(
            f"is adamw8bit, but bitsandbytes cannot run an update on {device} ({type(error).__name__}: {error}); run "
            "python -m bitsandbytes for the reason, or leave it out",
            field="optimizer.name",
        ) from None


def is_quantized(parameter: Tensor) -> bool:
    """Whether the moments of this parameter are in 8 bits."""
    return parameter.numel() >= SMALLEST


def moment_bytes(parameter: Tensor) -> int:
    """Bytes of one of the two moments of a parameter."""
    count = parameter.numel()
    return count + 4 * -(-count // BLOCK) if is_quantized(parameter) else 4 * count
