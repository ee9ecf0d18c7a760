"""Devices, transfers to them, and precision. Parameters, gradients and optimiser state are always float32."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from whispertune.errors import RecipeError
from whispertune.system.options import PrecisionName

_TYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_TF32_CAPABILITY = (8, 0)


def resolve_device(device: str) -> torch.device:
    """`auto` is the first GPU, else the CPU.

    Raises:
        RecipeError: if the device is unknown or missing.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError:
        resolved = None
    if resolved is None or resolved.type not in ("cpu", "cuda"):
        raise RecipeError(f"is {device!r}; use auto, cpu, cuda or cuda:N", field="device")
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise RecipeError(f"is {device!r}, but PyTorch sees no GPU here; use auto or cpu", field="device")
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise RecipeError(
            f"is {device!r}, but PyTorch sees {torch.cuda.device_count()} GPUs, from cuda:0 on", field="device"
        )
    return resolved


@dataclass(frozen=True)
class Precision:
    """The precision of matrix products and stored states, from `resolve_precision`.

    name: fp32, tf32, bf16 or fp16.
    """

    name: str

    @property
    def dtype(self) -> torch.dtype:
        """Type of the tensors: float32 for tf32 too, which only rounds the factors of products."""
        return _TYPES[self.name]


def resolve_precision(precision: PrecisionName, device: torch.device) -> Precision:
    """Resolve `--precision`: `auto` is bf16 where the hardware supports it natively.

    On a GPU without bf16 `auto` is fp16 (with loss scaling); on a CPU without it, fp32. With `tf32` a GPU rounds the
    factors of float32 products to 10 bits of mantissa; `fp32` never does, not even in convolutions, as PyTorch does by
    default. This changes PyTorch's settings for the whole process.

    Raises:
        RecipeError: if the device has no TF32.
    """
    if precision == "tf32" and (device.type != "cuda" or torch.cuda.get_device_capability(device) < _TF32_CAPABILITY):
        raise RecipeError("precision is tf32, which needs an NVIDIA GPU of compute capability 8.0; use fp32 or auto")
    rounding = "tf32" if precision == "tf32" else "ieee"
    torch.backends.cuda.matmul.fp32_precision = rounding
    torch.backends.cudnn.conv.fp32_precision = rounding  # type: ignore[attr-defined]
    name: str = precision
    if precision == "auto" and device.type == "cuda":
        name = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    elif precision == "auto":
        name = "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "fp32"
    return Precision(name)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to a device; to a GPU from pinned memory and asynchronously, as other copies synchronise."""
    if device.type == "cpu" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
