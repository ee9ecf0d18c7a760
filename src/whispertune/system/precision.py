"""Devices, the way to them, and number formats. Parameters, gradients and optimiser state are float32 throughout."""

from __future__ import annotations

import torch
from torch import Tensor

from whispertune.errors import RecipeError
from whispertune.system.options import Precision

_TYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_TF32_CAPABILITY = (8, 0)


def resolve_device(device: str) -> torch.device:
    """`auto` is the first GPU, else the CPU.

    Raises:
        RecipeError: if the device is unknown or not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError:
        resolved = None
    if resolved is None or resolved.type not in ("cpu", "cuda"):
        raise RecipeError(f"is {device!r}; it takes auto, cpu, cuda or cuda:N", field="device")
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise RecipeError(f"is {device!r}, but PyTorch sees no GPU here; take auto or cpu", field="device")
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise RecipeError(
            f"is {device!r}, but PyTorch sees {torch.cuda.device_count()} GPUs, from cuda:0 on", field="device"
        )
    return resolved


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """What products and stored states are computed in: `auto` is bf16 where the hardware multiplies it fast.

    On a GPU without bf16 `auto` is fp16 (with loss scaling); on a CPU without it, fp32. `tf32` is float32 whose factors
    a GPU rounds to 10 bits of mantissa; `fp32` rounds none, in convolutions neither (PyTorch by itself does there).

    Raises:
        RecipeError: if the device has no TF32.
    """
    if precision == "tf32" and (device.type != "cuda" or torch.cuda.get_device_capability(device) < _TF32_CAPABILITY):
        raise RecipeError("precision is tf32, which needs an NVIDIA GPU of compute capability 8.0; take fp32, or auto")
    rounding = "tf32" if precision == "tf32" else "ieee"
    torch.backends.cuda.matmul.fp32_precision = rounding
    torch.backends.cudnn.conv.fp32_precision = rounding  # type: ignore[attr-defined]
    if precision != "auto":
        return _TYPES[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device; to a GPU from pinned memory: any other copy waits until the GPU has done all
    that it was asked for."""
    if device.type == "cpu" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def precision_name(dtype: torch.dtype) -> str:
    """`bf16` of torch.bfloat16, and so on; `tf32` of torch.float32 where `resolve_precision` was asked for that."""
    if dtype == torch.float32:
        return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "fp32"
    return next(name for name, value in _TYPES.items() if value == dtype)
