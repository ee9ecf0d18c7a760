"""Searches, temperature fallback, long form and subtitles, as fields of a recipe and as flags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from whispertune.errors import RecipeError
from whispertune.system.fields import Bounds, Options, PositiveInt, Seed

TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
MAX_INITIAL = 1.0
"""Seconds: a window's first segment begins no later (openai-whisper's default)."""
ENDINGS = {
    "txt": "txt",
    "srt": "srt",
    "vtt": "vtt",
    "json": "json",
    "tsv": "tsv",
    "textgrid": "TextGrid",
    "eaf": "eaf",
    "audacity": "labels.txt",
}
"""The formats of transcripts, and how the names of their files end."""
FORMATS = tuple(ENDINGS)
Beams = Annotated[int, Bounds(ge=1, le=64)]


@dataclass(frozen=True, kw_only=True)
class SearchOptions(Options):
    """Beam search (in training, that of the final test)."""

    beam_size: Beams = 8
    """Number of beams; 1 is greedy search, the fastest. With more, an output that repeats itself is returned only if
    there is no other."""

    length_penalty: float = 1.0
    """Exponent of the length by which a hypothesis's log-probability is divided; values above 1 favour longer
    hypotheses."""

    patience: Annotated[float, Bounds(gt=0, le=16)] = 1.0
    """Beam search stops once it has patience x beam_size finished hypotheses."""

    glossary: str | None = None
    """Text file of words and phrases that matter (names, places, products), one per line, spelled as they should be
    written. glossary_boost makes beam search favour them; `evaluate` also reports how many of their occurrences were
    recognised."""

    glossary_boost: Annotated[float, Bounds(ge=0, le=20)] = 0.0
    """Bonus in beam search for the words of the glossary: this much (in nats) is added to a hypothesis's
    log-probability for each token of such a word, and subtracted again if the hypothesis does not complete the word. 0
    turns it off. Begin with 0.5: with higher values, more outputs repeat a word of the glossary over and over."""

    def check(self) -> None:
        if self.glossary_boost and self.glossary is None:
            raise RecipeError("is given, but there is no glossary to favour: name its file", field="glossary_boost")
        if self.glossary_boost and self.beam_size == 1:
            raise RecipeError(
                f"is {self.glossary_boost:g}, but greedy search has no room for it: beam_size must be 2 or more",
                field="glossary_boost", others=("beam_size",),
            )  # fmt: skip


GREEDY = SearchOptions(beam_size=1)


def require_used_glossary(search: SearchOptions, field: str) -> None:
    """Refuse a glossary that does nothing, where no scores are reported. field: its name."""
    if search.glossary is not None and not search.glossary_boost:
        raise RecipeError("is given, but nothing uses it: give glossary_boost as well, such as 0.5", field=field)


@dataclass(frozen=True, kw_only=True)
class FallbackOptions(SearchOptions):
    """How each window is decoded, and when it is decoded again at a higher temperature."""

    beam_size: Beams = 5

    temperature: Annotated[float | tuple[float, ...], Bounds(ge=0, le=10)] = TEMPERATURES
    """Temperatures to try in turn until a result is accepted: a number, or a list such as [0,0.2,0.4]. At 0 beam search
    is used; above 0 tokens are sampled."""

    best_of: Beams = 5
    """Number of samples at a temperature above 0; the most likely one is kept."""

    compression_ratio_threshold: float | None = 2.4
    """Try the next temperature if the zlib compression ratio of the text is above this, a sign of repetition."""

    logprob_threshold: float | None = -1.0
    """Try the next temperature if the mean log-probability of the tokens is below this."""

    no_speech_threshold: Annotated[float | None, Bounds(ge=0, le=1)] = 0.6
    """Treat a window as silence if its no-speech probability is above this and the result is below logprob_threshold.
    Each of these thresholds can be turned off with null."""

    repetition_guard: bool = True
    """Cut the output of a window where it begins to repeat itself, and try the next temperature."""

    seed: Seed = 0
    """Random seed for sampling at temperatures above 0."""

    @property
    def temperatures(self) -> tuple[float, ...]:
        """All of them."""
        return self.temperature if isinstance(self.temperature, tuple) else (self.temperature,)


@dataclass(frozen=True, kw_only=True)
class LongFormOptions(Options):
    """How the windows of a recording follow one another."""

    timestamps: bool = True
    """Let the model predict when each segment begins and ends; without timestamps, each window of 30 s is one
    segment."""

    word_timestamps: bool = False
    """Find when each word is said, from the decoder's attention, and how likely it is. JSON files have both, Praat's
    and ELAN's a tier of words, and subtitles are split at these times. The text stays the same; the times of segments
    follow those of their words."""

    condition_on_previous_text: bool = True
    """Prompt each window with the text before it: names and style stay consistent, but errors may propagate."""

    prompt: str | None = None
    """Text that the first window is prompted with, as if it came before: spellings of names, a style of punctuation."""

    max_initial_timestamp: Annotated[float | None, Bounds(ge=0, le=30)] = MAX_INITIAL
    """Latest time in seconds at which the first segment of a window may begin; null sets no limit."""

    batch_size: PositiveInt = 8
    """Number of recordings to decode side by side."""


@dataclass(frozen=True, kw_only=True)
class SubtitleOptions(Options):
    """Layout of subtitles (srt, vtt)."""

    max_line_width: Annotated[int | None, Bounds(ge=10, le=1000)] = 42
    """Maximum width of a line in columns (a Chinese character takes two); null sets no limit."""

    max_line_count: Annotated[int, Bounds(ge=1, le=100)] = 2
    """Maximum number of lines in one subtitle. A longer segment is split into several; without word timestamps its time
    is divided among them by the length of their texts."""

    max_words: Annotated[int | None, Bounds(ge=1, le=1000)] = None
    """Maximum number of words in one subtitle; 1 gives each word its own. Needs word timestamps."""
