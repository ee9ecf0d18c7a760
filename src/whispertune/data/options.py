"""How a run reads its data, as fields of its recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from whispertune.data.reading import Reading, reading_as
from whispertune.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Reading the data."""

    max_excluded: float = 0.05
    """Share of a split's rows that may be unusable before the run refuses to start."""

    workers: int = 2
    """Threads that decode audio and compute features; their number changes no result."""

    empty_text: Literal["exclude", "keep"] = "exclude"
    """Rows without any text. `keep` teaches the model to write nothing, for clips of silence or noise, and allows it to
    when it decodes (generation config)."""

    merge_segments: float = 0.0
    """Join neighbouring segments of a recording up to so many seconds (at most 30); 0 leaves them as they are."""

    temperature: float = 1.0
    """Draw the languages of the training data with p ~ n^(1/temperature), n being a language's (weighted) number of
    rows; 1 takes every row once an epoch, more evens the languages out."""

    check_audio: Literal["auto", "all", "headers"] = "auto"
    """Before training decode every recording (`all`), or read its headers only; auto: headers from 20,000 rows on."""

    columns: str | None = None
    """What the columns of manifests are called, where that is unusual: text=transkript,audio=datei (also id, language,
    task, start, end, duration, speaker, prompt, channel)."""

    audio_root: str | None = None
    """The folder that recordings lie in, where that is not the one of the manifest or the subtitles."""

    def __post_init__(self) -> None:
        self.reading  # noqa: B018 - built to have it checked
        if not 0 <= self.max_excluded <= 1:
            raise RecipeError(f"is {self.max_excluded}; it must lie between 0 and 1", field="data.max_excluded")
        if self.workers < 1:
            raise RecipeError(f"is {self.workers}; it must be at least 1", field="data.workers")
        if not 0 <= self.merge_segments <= 30:
            raise RecipeError(f"is {self.merge_segments}; it must lie between 0 and 30 s", field="data.merge_segments")
        if not 1 <= self.temperature <= 100:
            raise RecipeError(f"is {self.temperature}; it must lie between 1 and 100", field="data.temperature")

    @property
    def reading(self) -> Reading:
        return reading_as(self.columns, self.audio_root)
