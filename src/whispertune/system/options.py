"""Devices, number formats and processes, as fields of a recipe and as flags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from whispertune.system.fields import Bounds, Options

PrecisionName = Literal["auto", "fp32", "tf32", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class DeviceOptions(Options):
    """What a model computes on, and in which precision."""

    device: str = "auto"
    """Device of the model: auto (the first NVIDIA or AMD GPU, otherwise the CPU), cpu, cuda, cuda:N, or mps (Apple's
    GPUs, which nobody has tested yet)."""

    precision: PrecisionName = "auto"
    """Precision of matrix products and stored encoder states; trained parameters stay in fp32. `auto` is bf16 where
    the hardware is fast at it, otherwise fp16 on a GPU and fp32 on a CPU or mps. `tf32` is fp32 with products rounded
    by the GPU."""


@dataclass(frozen=True, kw_only=True)
class SharingOptions(Options):
    """Several processes that share rows or recordings, started by torchrun or accelerate launch."""

    timeout_minutes: Annotated[float, Bounds(gt=0, le=24 * 60)] = 24 * 60.0
    """End the command if one process is still at work this many minutes after another has done its share. A process
    that has died is noticed at once."""


@dataclass(frozen=True, kw_only=True)
class ProcessOptions(Options):
    """Several processes, started by torchrun or accelerate launch."""

    timeout_minutes: Annotated[float, Bounds(gt=0, le=24 * 60)] = 30.0
    """End the run if one process keeps the others waiting for this many minutes."""

    shard: bool = False
    """Shard the parameters that learn, their gradients and AdamW's moments (16 bytes per parameter) over the processes
    instead of replicating them (PyTorch's FSDP2); results are the same up to rounding."""
