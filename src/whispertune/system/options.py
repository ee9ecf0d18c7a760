"""Number formats and processes, as fields of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from whispertune.errors import RecipeError

PrecisionName = Literal["auto", "fp32", "tf32", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class ProcessOptions:
    """Several processes, started by torchrun or accelerate launch."""

    timeout_minutes: float = 30.0
    """A process that keeps the others waiting for so long is taken for stuck, and the run ends."""

    shard: bool = False
    """Divide AdamW's moments (8 bytes a learning parameter) and, in bf16 and fp16, the float32 parameters (4) among the
    processes instead of holding all in each (ZeRO, stage 1); same results to rounding."""

    def __post_init__(self) -> None:
        if not 0 < self.timeout_minutes <= 24 * 60:
            raise RecipeError(
                f"is {self.timeout_minutes}; it must be above 0, at most 1440 (a day)",
                field="processes.timeout_minutes",
            )
