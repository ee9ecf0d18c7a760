"""The flags of `whispertune transcribe`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from whispertune.decoding.options import (
    FORMATS,
    FallbackOptions,
    LongFormOptions,
    SubtitleOptions,
    require_used_glossary,
)
from whispertune.errors import RecipeError
from whispertune.features.options import DENSE, FrameOptions
from whispertune.run.help_text import help_text
from whispertune.run.options import ModelOptions
from whispertune.system.fields import FLAT, PositiveInt
from whispertune.system.options import DeviceOptions, SharingOptions

USAGE = """whispertune transcribe --model M AUDIO … [--language L] [--output DIR]
                              [--format srt,json,…] [--field value …]"""

DESCRIPTION = """Transcribe recordings of any length.

AUDIO is a file, a folder (all audio in it and its subfolders) or a pattern such as 'talks/*.mp3'.

As in openai-whisper, windows of 30 s move on by the timestamps that the model predicts, and each is prompted with the
text before it; a window whose result looks wrong (repetitive or unlikely) is decoded again at a higher temperature.
Several recordings are decoded side by side, which is faster than one by one. --beam_size 1 is the fastest search.

Without --output the text is printed with its times. With --output each recording gets one file per --format. Existing
files are kept, and their recordings are not transcribed again: the same command continues after an interruption.
--overwrite true replaces them. A recording with the name of another one that was transcribed into this
folder is refused (.recordings.jsonl there says which they were).

--channels separate transcribes each channel of a recording by itself and merges them on one time line, each under its
name: for calls with one speaker per channel.

--word_timestamps true finds when each word is said and how confident the model is of it: JSON files have both, Praat's
and ELAN's a tier of words, and subtitles are split at the times of their words, with --max_words 1 into single words.

A recording that cannot be read, or whose transcript cannot be written, is reported; the others are transcribed, and
the exit status is 2."""


@dataclass(frozen=True, kw_only=True)
class TranscribeOptions(DeviceOptions, ModelOptions):
    """Model and output."""

    output: str | None = None
    """Folder for the transcripts; without it they are printed."""

    format: str = "txt"
    """Format of the files: txt, srt, vtt, json, tsv (as openai-whisper's), textgrid (Praat), eaf (ELAN), audacity
    (NAME.labels.txt), several of them separated by commas, or all. Praat's and ELAN's have a tier for each channel that
    is transcribed separately."""

    overwrite: bool = False
    """Replace files that exist already."""

    language: str | None = None
    """Language spoken. By default the one that the model was fine-tuned on; otherwise it is detected in each
    recording."""

    channels: Literal["mix", "separate"] = "mix"
    """`mix` averages the channels of a recording. `separate` transcribes each by itself and merges them on one time
    line, each under its name: for calls with one speaker per channel."""

    channel_names: str | None = None
    """Names of separate channels, separated by commas: agent,caller. By default left and right if there are two,
    otherwise channel 0, channel 1, …"""

    n_best: PositiveInt = 1
    """Number of hypotheses of each window in JSON files, with their scores."""

    search: FallbackOptions = field(default_factory=FallbackOptions, metadata=FLAT)
    windows: LongFormOptions = field(default_factory=LongFormOptions, metadata=FLAT)
    subtitles: SubtitleOptions = field(default_factory=SubtitleOptions, metadata=FLAT)
    frames: FrameOptions = field(default_factory=lambda: DENSE)
    processes: SharingOptions = field(default_factory=SharingOptions)

    def check(self) -> None:
        super().check()
        require_used_glossary(self.search, "glossary")
        if self.channel_names is not None and self.channels == "mix":
            raise RecipeError("is given, but the channels are mixed: add --channels separate", field="channel_names")
        if self.subtitles.max_words is not None and not self.windows.word_timestamps:
            raise RecipeError("needs the times of words: add --word_timestamps true", field="max_words")
        names = self.names
        if len(set(names)) < len(names) or not all(names):
            raise RecipeError(
                f"is {self.channel_names!r}; it takes names that differ: agent,caller", field="channel_names"
            )
        self.formats  # noqa: B018 - built to have it checked

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


def usage() -> str:
    """The text of --help."""
    return help_text(TranscribeOptions, USAGE, DESCRIPTION)
