"""Which frames the encoder computes, as fields of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from whispertune.system.fields import Bounds, Options, PositiveInt

WINDOW_FRAMES = 1500
"""Encoder frames in a window of 30 s, 20 ms each."""
Frames = Annotated[int, Bounds(ge=0, le=WINDOW_FRAMES)]


@dataclass(frozen=True, kw_only=True)
class FrameOptions(Options):
    """Which of a window's 1500 encoder frames (of 20 ms) are computed."""

    selection: Literal["thinned", "dense"] = "thinned"
    """`thinned` keeps the speech and a few frames of the silence after it; `dense` keeps all 1500, as plain Whisper
    does."""

    stride: PositiveInt = 60
    """Maximum number of silent frames that one kept frame stands for."""

    margin: Frames = 10
    """Number of silent frames to keep directly after the speech."""

    edge: Frames = 40
    """Number of frames to keep at the end of the window."""


DENSE = FrameOptions(selection="dense")
