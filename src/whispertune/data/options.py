"""Options for reading data, as recipe fields and flags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from whispertune.data.reading import Reading, parse_columns
from whispertune.system.fields import Bounds, Options, PositiveInt, Share


@dataclass(frozen=True, kw_only=True)
class ReadingOptions(Options):
    """Reading the data."""

    workers: PositiveInt = 2
    """Number of threads that decode audio and compute features; it does not affect the results."""

    columns: str | None = None
    """Names of manifest columns that differ from the usual ones: text=transkript,audio=datei (also id, language, task,
    start, end, duration, speaker, prompt, channel)."""

    audio_root: str | None = None
    """Folder that the recordings lie in, if it is not the folder of the manifest or the subtitles."""

    exclude: str | None = None
    """File that lists rows to leave out, such as the transcripts marked as wrong on a report's page: CSV or JSONL with
    the column id and, optionally, text and reason. Where a text is given, the row is left out only while it still has
    this text. `check` reports these rows as errors."""

    def check(self) -> None:
        self.reading  # noqa: B018 - built to have it checked

    @property
    def reading(self) -> Reading:
        """The same, parsed."""
        return Reading(parse_columns(self.columns) if self.columns else (), self.audio_root or None)


@dataclass(frozen=True, kw_only=True)
class DataOptions(ReadingOptions):
    """Reading the data."""

    max_excluded: Share = 0.05
    """Maximum share of a split's rows that may be unusable; with more, the command refuses to start."""

    empty_text: Literal["exclude", "keep"] = "exclude"
    """What to do with rows without text. `exclude` leaves them out; `keep` takes them for clips of silence or noise, in
    which the model is to write nothing. A model that is trained with them may return no text at all (generation
    config)."""

    merge_segments: Annotated[float, Bounds(ge=0, le=30)] = 0.0
    """Merge neighbouring segments of a recording into windows of up to this many seconds; 0 keeps them apart."""

    check_audio: Literal["auto", "all", "headers"] = "auto"
    """How to check recordings at the start: decode all of them (`all`) or read only their headers (`headers`). `auto`
    decodes up to 20,000 rows; of more it reads the headers."""


@dataclass(frozen=True, kw_only=True)
class TrainingDataOptions(DataOptions):
    """Reading the data, and drawing from it."""

    temperature: Annotated[float, Bounds(ge=1, le=100)] = 1.0
    """Sampling temperature T over the languages of the training data: p ~ n^(1/T), where n is a language's (weighted)
    number of rows. T=1 is the natural distribution; T>1 upsamples low-resource languages."""
