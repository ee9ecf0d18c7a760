"""The flags of `whispertune transcribe`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from whispertune.decoding.options import (
    FORMATS,
    MAX_INITIAL,
    TEMPERATURES,
    FallbackOptions,
    LongFormOptions,
    SubtitleLines,
)
from whispertune.errors import RecipeError
from whispertune.features.options import DENSE, FrameOptions
from whispertune.run.flags import help_text
from whispertune.system.options import PrecisionName

USAGE = """whispertune transcribe --model M AUDIO … [--language L] [--format txt,srt,vtt,json] [--output DIR]
       [--field value …]
       AUDIO is a file, a folder (all audio in it and its folders) or a pattern such as 'talks/*.mp3'"""

DESCRIPTION = """Write down what is said in recordings of any length.

Windows of 30 s follow one another by the times that the model gives, each told what was said before, as in
openai-whisper; a window that looks wrong (repetition, unlikely words) is tried again at a higher temperature.
Several recordings are decoded side by side, which is faster than one by one. --beam_size 1 is the fastest search.

Without --output the text is printed, with times. With it, each recording gets a file for each --format. Files that
are there already are kept, and what they hold is not transcribed again: the same command goes on where it was
interrupted. --overwrite true replaces them. Another recording of the same name is told from the one that is there
already (by .recordings.jsonl beside the files), and refused.

--channels separate writes down the channels of a recording apart, on one time line, each under its name: for calls
with a speaker a channel.

A recording that cannot be read, or whose transcript cannot be written, is reported, the others are transcribed, and the
exit status is 2."""


@dataclass(frozen=True, kw_only=True)
class TranscribeOptions:
    """One call."""

    model: str
    """Model: a folder, an OpenAI .pt (with a tokenizer.json beside it, or openai-whisper installed), a Hub id, a run
    (its best/), or packaged:whisper-base."""

    language: str | None = None
    """Language spoken. Default: the one that the model was fine-tuned on, else detected in each recording."""

    language_token: str | None = None
    """A language of Whisper's whose token stands for `language`, which Whisper does not know."""

    task: Literal["transcribe", "translate"] = "transcribe"
    """What to write down: what is said, or that in English."""

    format: str = "txt"
    """Of the files: txt, srt, vtt, json, several with commas between, or all."""

    output: str | None = None
    """Folder for the files; without it the text is printed."""

    channels: Literal["mix", "separate"] = "mix"
    """mix: the channels of a recording are averaged. separate: each is transcribed apart, and all stand on one time
    line with the name of their channel: calls with a speaker a channel."""

    channel_names: str | None = None
    """What separate channels are called, with commas between: agent,caller. Default: left and right of two channels,
    else channel 0, channel 1, …"""

    max_line_width: int | None = 42
    """Columns of a line of subtitles (srt, vtt); null: no bound."""

    max_line_count: int = 2
    """Lines of one subtitle. A longer segment fills several, the time between them divided by the length of their
    texts."""

    overwrite: bool = False
    """Replace files that are there already."""

    beam_size: int = 5
    """Hypotheses kept side by side at temperature 0; 1 is greedy search, the fastest."""

    patience: float = 1.0
    """Finished hypotheses that beam search gathers before it may stop, in units of beam_size."""

    length_penalty: float = 1.0
    """Exponent of the length that a hypothesis's log-probability is divided by (beam search)."""

    n_best: int = 1
    """Hypotheses of each window that JSON holds, with their scores."""

    temperature: float | tuple[float, ...] = TEMPERATURES
    """Tried one after the other until a result passes: at 0 the likeliest is taken, above it tokens are drawn."""

    best_of: int = 5
    """Samples drawn at a temperature above 0, of which the likeliest is taken."""

    compression_ratio_threshold: float | None = 2.4
    """A text that zlib compresses by more than this repeats itself: the next temperature is tried."""

    logprob_threshold: float | None = -1.0
    """A result whose tokens have a mean log-probability below this is tried again."""

    no_speech_threshold: float | None = 0.6
    """A window with a higher probability of no speech, and a result below logprob_threshold, is silence."""

    repetition_guard: bool = True
    """Cut a window's output where it begins to repeat itself, and try again."""

    timestamps: bool = True
    """Let the model say when each segment begins and ends; without, each window of 30 s is one segment."""

    max_initial_timestamp: float | None = MAX_INITIAL
    """The latest time, seconds into a window, at which its first segment may begin."""

    prompt: str | None = None
    """Text that the first window is told came before: spellings of names, a style of punctuation."""

    condition_on_previous_text: bool = True
    """Tell each window what was said before: names and style stay the same, but a mistake may spread."""

    batch_size: int = 8
    """Recordings decoded side by side."""

    seed: int = 0
    """Of what is drawn at temperatures above 0."""

    frames: FrameOptions = field(default_factory=lambda: DENSE)

    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    precision: PrecisionName = "auto"
    """Of matrix products. auto: bf16 where the hardware multiplies it fast, else fp16 on a GPU, fp32 on a CPU."""

    def __post_init__(self) -> None:
        if self.language_token is not None and self.language is None:
            raise RecipeError("language_token is given without language: name the language that borrows it")
        if self.n_best < 1:
            raise RecipeError(f"is {self.n_best}; it must be at least 1", field="n_best")
        if self.channel_names is not None and self.channels == "mix":
            raise RecipeError("channel_names is given, but the channels are mixed: add --channels separate")
        names = self.names
        if len(set(names)) < len(names) or not all(names):
            raise RecipeError(
                f"is {self.channel_names!r}; it takes names that differ: agent,caller", field="channel_names"
            )
        self.formats, self.search, self.windows, self.subtitle_lines  # noqa: B018 - built to have their values checked

    @property
    def formats(self) -> list[str]:
        """The formats asked for, each once."""
        given = [name.strip().lower() for name in self.format.split(",") if name.strip()]
        if not given or (unknown := [name for name in given if name not in (*FORMATS, "all")]):
            named = unknown[0] if given else self.format
            raise RecipeError(
                f"is {named!r}; it takes {', '.join(FORMATS)}, several with commas, or all", field="format"
            )
        return [name for name in FORMATS if name in given or "all" in given]

    @property
    def names(self) -> list[str]:
        """Of separate channels, as far as they are given."""
        return [] if self.channel_names is None else [name.strip() for name in self.channel_names.split(",")]

    @property
    def subtitle_lines(self) -> SubtitleLines:
        return SubtitleLines(self.max_line_width, self.max_line_count)

    @property
    def search(self) -> FallbackOptions:
        temperature = self.temperature if isinstance(self.temperature, tuple) else (self.temperature,)
        return FallbackOptions(
            beam_size=self.beam_size,
            patience=self.patience,
            length_penalty=self.length_penalty,
            temperature=temperature,
            best_of=self.best_of,
            compression_ratio_threshold=self.compression_ratio_threshold,
            logprob_threshold=self.logprob_threshold,
            no_speech_threshold=self.no_speech_threshold,
            repetition_guard=self.repetition_guard,
            seed=self.seed,
        )

    @property
    def windows(self) -> LongFormOptions:
        return LongFormOptions(
            timestamps=self.timestamps,
            condition_on_previous_text=self.condition_on_previous_text,
            prompt=self.prompt,
            max_initial_timestamp=self.max_initial_timestamp,
            batch_size=self.batch_size,
        )


def usage() -> str:
    """What --help prints."""
    return help_text(TranscribeOptions, USAGE, DESCRIPTION)
