"""How training utterances share windows, as fields of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from whispertune.system.fields import Bounds, Options, Share

MOST_UTTERANCES = 100
Utterances = Annotated[int, Bounds(ge=2, le=MOST_UTTERANCES)]
Pause = Annotated[float, Bounds(ge=0, le=30)]


@dataclass(frozen=True, kw_only=True)
class WindowOptions(Options):
    """Training windows of 30 s: one utterance each, or several stitched together."""

    stitched_share: Annotated[float | Literal["auto"], Bounds(ge=0, lt=1)] = "auto"
    """Share of training windows that hold several utterances one after another (0 to below 1). `auto` is 0.15 if most
    rows are segments of longer recordings (subtitles, or start and end), so that timestamps are trained, and 0 for
    clips."""

    min_utterances: Utterances = 3
    """Minimum number of utterances in a stitched window."""

    max_utterances: Utterances = 10
    """Maximum number of utterances in a stitched window."""

    min_pause: Pause = 0.2
    """Minimum pause between stitched utterances in seconds."""

    max_pause: Pause = 1.0
    """Maximum pause between stitched utterances in seconds."""

    timestamps: Share = 0.5
    """Share of windows with known times that are trained with timestamps. Times are known of stitched windows, of
    segments joined by data.merge_segments, and from texts that hold them (<|0.00|>Sì.<|1.20|>). Other windows are never
    trained with timestamps, because the ends of a file are not those of the speech. 0 trains no timestamps."""

    previous_text: Share = 0.0
    """Share of windows that are trained with the text before theirs as a prompt, among those that have one: segments
    that follow another one in the same recording, and stitched windows, which take another window's text. The prompt is
    at most 223 tokens long and carries no loss."""

    def check(self) -> None:
        self.require_order("min_utterances", "max_utterances")
        self.require_order("min_pause", "max_pause")
