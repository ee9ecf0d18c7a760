"""Devices, transfers to them, and precision. Parameters, gradients and optimiser state are always float32."""

from __future__ import annotations

import os
import shutil
import warnings
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from whispertune.errors import RecipeError
from whispertune.system.console import console
from whispertune.system.options import PrecisionName

_TYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_TF32_CAPABILITY = (8, 0)
LIMITED = {"mps"}
"""Devices that have no float64, and on which sparse tensors are not relied on."""


def resolve_device(device: str) -> torch.device:
    """`auto` is the first NVIDIA or AMD GPU, else the CPU.

    Raises:
        RecipeError: if the device is unknown or missing, or there is a GPU that PyTorch cannot use.
    """
    if device == "auto":
        return torch.device("cuda" if gpu_is_usable() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError:
        resolved = None
    if resolved is None or resolved.type not in ("cpu", "cuda", "mps"):
        raise RecipeError(f"is {device!r}; use auto, cpu, cuda, cuda:N or mps", field="device")
    if resolved.type == "mps" and not torch.backends.mps.is_available():
        raise RecipeError("is 'mps', but PyTorch sees no Apple GPU here; use auto or cpu", field="device")
    if resolved.type == "cuda" and not gpu_is_usable():
        raise RecipeError(f"is {device!r}, but PyTorch sees no GPU here; use auto or cpu", field="device")
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise RecipeError(
            f"is {device!r}, but PyTorch sees {torch.cuda.device_count()} GPUs, from cuda:0 on", field="device"
        )
    return resolved


def gpu_is_usable() -> bool:
    """Whether PyTorch can use a GPU through CUDA (or ROCm). A PyTorch that is built for CPUs says so beside a GPU.

    Raises:
        RecipeError: if there is a GPU that it cannot use, mostly as the driver is too old for it.
    """
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        usable = torch.cuda.is_available()
    # PyTorch warns, and then counts no GPU at all; without any driver it counts none and does not warn.
    reasons = [str(warning.message) for warning in warned if "CUDA" in str(warning.message)]
    if not usable and reasons:
        reason = " ".join(reasons[0].partition(" (Triggered")[0].split())
        raise RecipeError(
            f"there is a GPU that PyTorch {torch.__version__} cannot use ({reason:.300}); update the driver or install "
            "a PyTorch for it, or compute without it: --device cpu",
            field="device",
        )
    if not usable and torch.version.cuda is None and torch.version.hip is None:
        _report_unused_gpu()
    return usable


@cache
def _report_unused_gpu() -> None:
    if shutil.which("nvidia-smi") is not None:
        console.print(
            f"device    there is an NVIDIA driver here, but PyTorch {torch.__version__} is built for the CPU alone and "
            "uses no GPU: install it as pytorch.org says for CUDA",
            style="yellow",
        )


def make_deterministic() -> None:
    """Have a GPU compute the same bits each time, for the whole process; before it computes anything.

    cuBLAS reads the environment variable when it starts.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def exact_dtype(device: torch.device) -> torch.dtype:
    """The widest float of a device."""
    return torch.float32 if device.type in LIMITED else torch.float64


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

    On a GPU without bf16 `auto` is fp16 (with loss scaling); on a CPU without it and on Apple's GPUs, fp32. With `tf32`
    a GPU rounds the factors of float32 products to 10 bits of mantissa; `fp32` never does, not even in convolutions, as
    PyTorch does by default. This changes PyTorch's settings for the whole process.

    Raises:
        RecipeError: if the device has no TF32.
    """
    if precision == "tf32" and (device.type != "cuda" or torch.cuda.get_device_capability(device) < _TF32_CAPABILITY):
        raise RecipeError("precision is tf32, which needs an NVIDIA GPU of compute capability 8.0; use fp32 or auto")
    rounding = "tf32" if precision == "tf32" else "ieee"
    if device.type == "cuda":
        # It plans attention anew for each shape that it has not met, which takes up to a second, and shapes here vary.
        torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.cuda.matmul.fp32_precision = rounding
    torch.backends.cudnn.conv.fp32_precision = rounding  # type: ignore[attr-defined]
    name: str = precision
    if precision == "auto" and device.type == "cuda":
        name = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    elif precision == "auto" and device.type == "mps":
        name = "fp32"
    elif precision == "auto":
        name = "bf16" if cpu_multiplies_bf16() else "fp32"
    return Precision(name)


def cpu_multiplies_bf16() -> bool:
    """Whether this CPU multiplies bf16 natively; never where torch is built without oneDNN, as for macOS."""
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supported is not None and bool(supported())


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to a device; to a GPU from pinned memory and asynchronously, as other copies synchronise."""
    if device.type in ("cpu", "mps") or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
