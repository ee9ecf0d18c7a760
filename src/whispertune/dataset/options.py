"""How training utterances share windows, as fields of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from whispertune.errors import RecipeError

MOST_UTTERANCES = 100


@dataclass(frozen=True, kw_only=True)
class WindowOptions:
    """How training utterances share windows."""

    stitched_share: float | Literal["auto"] = "auto"
    """Share of the training windows that hold several utterances in a row (0 to below 1). auto: 0.15 where most rows
    are segments of longer recordings (subtitles, or start and end), so that timestamps are trained; 0 for clips."""

    min_utterances: int = 3
    """Fewest utterances in a stitched window."""

    max_utterances: int = 10
    """Most utterances in a stitched window."""

    min_pause: float = 0.2
    """Shortest pause between stitched utterances, seconds."""

    max_pause: float = 1.0
    """Longest pause between stitched utterances, seconds."""

    timestamps: float = 0.5
    """Share of the windows of which is known what is said when (stitched, joined by data.merge_segments, or with times
    in the text, <|0.00|>Sì.<|1.20|>) whose target has timestamps; others never have: their file's ends are not those
    of the speech. 0 leaves times out."""

    previous_text: float = 0.0
    """Share of the windows that begin with the text before theirs, of those that have one: a segment with another
    before it in the same recording, and a stitched window, which gets another one's. It is at most 223 tokens long,
    and carries no loss."""

    def __post_init__(self) -> None:
        if self.stitched_share != "auto" and not 0 <= self.stitched_share < 1:
            raise RecipeError(
                f"is {self.stitched_share}; it must be at least 0 and below 1", field="windows.stitched_share"
            )
        if not 2 <= self.min_utterances <= self.max_utterances <= MOST_UTTERANCES:
            raise RecipeError(
                f"is {self.min_utterances} and max_utterances {self.max_utterances}; "
                f"they must lie between 2 and {MOST_UTTERANCES} and be in order",
                field="windows.min_utterances",
            )
        if not 0 <= self.min_pause <= self.max_pause <= 30:
            raise RecipeError(
                f"is {self.min_pause} and max_pause {self.max_pause}; they must lie between 0 and 30 s and be in order",
                field="windows.min_pause",
            )
        for name, share in (("timestamps", self.timestamps), ("previous_text", self.previous_text)):
            if not 0 <= share <= 1:
                raise RecipeError(f"is {share}; it must lie between 0 and 1", field=f"windows.{name}")
