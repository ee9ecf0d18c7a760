"""Searches, fallback, long form and subtitles, as fields and flags."""

from __future__ import annotations

from dataclasses import dataclass

from whispertune.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """The search of the final test; beam size and length penalty are `evaluate`'s, too."""

    beam_size: int = 8
    """Hypotheses kept side by side; 1 is greedy search."""

    length_penalty: float = 1.0
    """Exponent of the length that a hypothesis's log-probability is divided by; above 1 favours longer ones."""

    patience: float = 1.0
    """Finished hypotheses that beam search gathers before it may stop, in units of beam_size."""

    def __post_init__(self) -> None:
        if not 1 <= self.beam_size <= 64:
            raise RecipeError(f"is {self.beam_size}; it must lie between 1 and 64", field="search.beam_size")
        if not 0 < self.patience <= 16:
            raise RecipeError(f"is {self.patience}; it must be above 0 and at most 16", field="search.patience")


GREEDY = SearchOptions(beam_size=1)


TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True, kw_only=True)
class FallbackOptions:
    """How a window is decoded, and when its result is tried again."""

    beam_size: int = 5
    """Hypotheses kept side by side at temperature 0; 1 is greedy search, the fastest."""

    patience: float = 1.0
    """Finished hypotheses that beam search gathers before it may stop, in units of beam_size."""

    length_penalty: float = 1.0
    """Exponent of the length that a hypothesis's log-probability is divided by (beam search)."""

    temperature: tuple[float, ...] = TEMPERATURES
    """Tried one after the other until a result passes: 0 takes the likeliest, above 0 tokens are drawn at random."""

    best_of: int = 5
    """Samples drawn at a temperature above 0, of which the likeliest is taken."""

    compression_ratio_threshold: float | None = 2.4
    """A text that zlib compresses by more than this repeats itself: the window is tried again."""

    logprob_threshold: float | None = -1.0
    """A result whose tokens have a mean log-probability below this is tried again."""

    no_speech_threshold: float | None = 0.6
    """A window with a higher probability of no speech, and a result below logprob_threshold, is silence."""

    repetition_guard: bool = True
    """Cut a window's output where it begins to repeat itself, and try again."""

    seed: int = 0
    """Of the samples."""

    def __post_init__(self) -> None:
        for name, least, most in (("beam_size", 1, 64), ("best_of", 1, 64)):
            if not least <= getattr(self, name) <= most:
                raise RecipeError(f"is {getattr(self, name)}; it must lie between {least} and {most}", field=name)
        if not 0 < self.patience <= 16:
            raise RecipeError(f"is {self.patience}; it must be above 0 and at most 16", field="patience")
        if not self.temperature or not all(0 <= value <= 10 for value in self.temperature):
            raise RecipeError(
                f"is {list(self.temperature)}; it takes numbers from 0 to 10: [0,0.2]", field="temperature"
            )
        if self.no_speech_threshold is not None and not 0 <= self.no_speech_threshold <= 1:
            raise RecipeError(
                f"is {self.no_speech_threshold}; it must lie between 0 and 1", field="no_speech_threshold"
            )
        if self.seed < 0:
            raise RecipeError(f"is {self.seed}; it must be at least 0", field="seed")

    @property
    def search(self) -> SearchOptions:
        """The search at temperature 0."""
        return SearchOptions(beam_size=self.beam_size, length_penalty=self.length_penalty, patience=self.patience)


MAX_INITIAL = 1.0
"""Seconds: the latest first timestamp of a window."""


@dataclass(frozen=True, kw_only=True)
class LongFormOptions:
    """How windows follow one another."""

    timestamps: bool = True
    """Let the model say when each segment begins and ends; without, each window of 30 s is one segment."""

    condition_on_previous_text: bool = True
    """Tell each window what was said before: names and style stay the same, but a mistake may spread."""

    prompt: str | None = None
    """Text that the first window is told came before: spellings of names, a style of punctuation."""

    max_initial_timestamp: float | None = MAX_INITIAL
    """The latest time, seconds into a window, at which its first segment may begin."""

    batch_size: int = 8
    """Recordings whose windows are decoded side by side."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise RecipeError(f"is {self.batch_size}; it must be at least 1", field="batch_size")
        if self.max_initial_timestamp is not None and not 0 <= self.max_initial_timestamp <= 30:
            raise RecipeError(
                f"is {self.max_initial_timestamp}; it must lie between 0 and 30 s", field="max_initial_timestamp"
            )


@dataclass(frozen=True, slots=True)
class SubtitleLines:
    """How subtitles are laid out. width: of a line, in columns (a Chinese character takes two), None: unlimited;
    count: of lines in one subtitle."""

    width: int | None = 42
    count: int = 2

    def __post_init__(self) -> None:
        if self.width is not None and not 10 <= self.width <= 1000:
            raise RecipeError(
                f"is {self.width}; it must lie between 10 and 1000 columns, or be null", field="max_line_width"
            )
        if not 1 <= self.count <= 100:
            raise RecipeError(f"is {self.count}; it must lie between 1 and 100", field="max_line_count")


FORMATS = ("txt", "srt", "vtt", "json")
