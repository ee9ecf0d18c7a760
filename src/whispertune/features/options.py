"""Which frames the encoder computes, as fields of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from whispertune.errors import RecipeError

WINDOW_FRAMES = 1500
"""Encoder frames in a window of 30 s, 20 ms each."""


@dataclass(frozen=True, kw_only=True)
class FrameOptions:
    """Which of the window's 1500 encoder frames are computed."""

    selection: Literal["thinned", "dense"] = "thinned"
    """`thinned`: the speech, and few frames of the silence behind it; `dense`: all 1500."""

    stride: int = 60
    """Most silent frames (20 ms each) that one kept frame stands for."""

    margin: int = 10
    """Silent frames kept right behind the speech."""

    edge: int = 40
    """Last frames of the window that are kept."""

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise RecipeError(f"is {self.stride}; it must be at least 1", field="frames.stride")
        for name in ("margin", "edge"):
            if not 0 <= getattr(self, name) <= WINDOW_FRAMES:
                raise RecipeError(
                    f"is {getattr(self, name)}; it must lie between 0 and {WINDOW_FRAMES}", field=f"frames.{name}"
                )


DENSE = FrameOptions(selection="dense")
