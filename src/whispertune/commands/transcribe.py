"""whispertune transcribe: recordings of any length to text, subtitles or JSON."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from whispertune.allocator import keep_freed_memory
from whispertune.checkpoints.generation import own_language
from whispertune.console import console, progress_bar, results
from whispertune.data.audio import probe_audio
from whispertune.decoding.fallback import TEMPERATURES, FallbackOptions
from whispertune.decoding.long_form import LongForm, LongFormOptions, Transcript
from whispertune.decoding.timestamps import MAX_INITIAL
from whispertune.errors import AudioError, RecipeError
from whispertune.flags import help_text, parse_fields
from whispertune.frames import DENSE, FrameOptions
from whispertune.loading import load_model, ready_to_decode
from whispertune.precision import Precision, precision_name, resolve_device, resolve_precision
from whispertune.processes import were_launched
from whispertune.run_folder import make_writable, write_text
from whispertune.text.languages import spoken_language
from whispertune.transcript_files import FORMATS, WRITERS, Recordings, as_json, as_lines, output_names

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

A recording that cannot be read is reported, the others are transcribed, and the exit status is 2."""

AUDIO_SUFFIXES = (
    *(".wav", ".wave", ".w64", ".rf64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au"),
    *(".snd", ".caf", ".sph", ".m4a", ".m4b", ".mp4", ".aac", ".mov", ".webm", ".mkv"),
)
"""What counts as audio in a folder; a file that is named itself is tried whatever it is called."""


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

    precision: Precision = "auto"
    """Of matrix products. auto: bf16 where the hardware multiplies it fast, else fp16 on a GPU, fp32 on a CPU."""

    def __post_init__(self) -> None:
        if self.language_token is not None and self.language is None:
            raise RecipeError("language_token is given without language: name the language that borrows it")
        if self.n_best < 1:
            raise RecipeError(f"n_best is {self.n_best}; it must be at least 1")
        self.formats, self.search, self.windows  # noqa: B018 - built to have their values checked

    @property
    def formats(self) -> list[str]:
        """The formats asked for, each once."""
        given = [name.strip().lower() for name in self.format.split(",") if name.strip()]
        if not given or (unknown := [name for name in given if name not in (*FORMATS, "all")]):
            named = unknown[0] if given else self.format
            raise RecipeError(f"format is {named!r}; it takes {', '.join(FORMATS)}, several with commas, or all")
        return [name for name in FORMATS if name in given or "all" in given]

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


def main(arguments: Sequence[str]) -> int:
    """Run the command line `whispertune transcribe ARGUMENTS`; 2 if any recording could not be transcribed."""
    if any(flag in ("-h", "--help") for flag in arguments):
        results.print(help_text(TranscribeOptions, USAGE, DESCRIPTION))
        return 0
    given, flags = split_arguments(arguments)
    options = parse_fields(TranscribeOptions, {}, flags, command="transcribe")
    if were_launched():
        raise RecipeError("transcribe runs in one process; start it without torchrun or accelerate launch")
    audios = find_audio(given)
    output = None if options.output is None else Path(options.output)
    if output is not None:
        make_writable(output)
    keep_freed_memory()
    return 2 if transcribe(audios, options, output) else 0


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is to be transcribed, and flags with their values, in any order."""
    audios: list[str] = []
    flags: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        if not argument.startswith("--"):
            audios.append(argument)
            continue
        flags.append(argument)
        if "=" not in argument and (value := next(remaining, None)) is not None:
            flags.append(value)
    return audios, flags


def find_audio(given: Sequence[str]) -> list[Path]:
    """The recordings that files, folders and patterns stand for, each once, in that order.

    Raises:
        RecipeError: if nothing is given, or a folder or pattern holds no audio.
    """
    if not given:
        raise RecipeError("nothing to transcribe; name files or folders: whispertune transcribe --model M talk.mp3")
    found: dict[Path, Path] = {}
    for text in given:
        path = Path(text)
        if path.is_dir():
            matches = sorted(p for p in path.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES and p.is_file())
            if not matches:
                raise RecipeError(f"{path}: no audio in this folder; if it is called otherwise, name the files")
        elif not path.exists() and glob.has_magic(text):
            matches = sorted(p for p in map(Path, glob.iglob(text, recursive=True)) if p.is_file())  # noqa: PTH207
            if not matches:
                raise RecipeError(f"{text}: no file matches this pattern; check the path")
        else:
            matches = [path]
        for match in matches:
            found.setdefault(match.resolve(), match)
    return list(found.values())


def transcribe(audios: Sequence[Path], options: TranscribeOptions, output: Path | None) -> int:
    """Transcribe, and print or write; returns how many recordings could not be.

    Raises:
        UserError: whatever is wrong with options, model or output folder.
    """
    names = output_names(audios)
    known = None if output is None else Recordings(output)
    wanted = [_missing(output, name, options) for name in names]
    for name, audio, files in zip(names, audios, wanted, strict=True):
        if known is None or options.overwrite or len(files) == len(options.formats):
            continue  # nothing of that name is there
        if (other := known.other_than(name, audio)) is not None:
            raise RecipeError(
                f"{output}/{name}: a transcript of {other} is there already, not of {audio}; "
                "name another --output, or --overwrite true"
            )
    done = sum(not files for files in wanted)
    if output is not None and done:
        console.print(f"{done} of {len(audios)} are there already and kept; --overwrite true does them again")
    failures = 0
    durations: dict[int, float] = {}
    for number, audio in enumerate(audios):
        try:
            if wanted[number]:
                num_frames, rate = probe_audio(audio)
                durations[number] = num_frames / rate
        except AudioError as error:
            failures += 1
            _tell_failure(error)
    if not durations:
        return failures
    device = resolve_device(options.device)
    dtype = resolve_precision(options.precision, device)
    language = None if options.language is None else spoken_language(options.language, options.language_token)
    ready = ready_to_decode(load_model(options.model, device, dtype))
    if language is None and ready.tokenizer.multilingual:
        language = own_language(ready.checkpoint.generation)
    token = options.language_token or language
    if token is not None or options.task != "transcribe":
        ready.tokenizer.prompt_tokens(token or "en", options.task)  # refuses what this model does not know
    long_form = LongForm(
        ready.whisper, ready.tokenizer, ready.rules,
        search=options.search, options=options.windows, language=language, token=token, task=options.task,
        frames=options.frames,
    )  # fmt: skip
    numbers = list(durations)
    hours = sum(durations.values()) / 3600
    console.print(f"{len(numbers)} recordings, {hours:.2f} hours, {options.frames.selection}, {precision_name(dtype)}")
    with progress_bar("transcribing, seconds", sum(int(seconds) for seconds in durations.values())) as advance:
        for place, found in long_form.transcribe([audios[number] for number in numbers], advance):
            number = numbers[place]
            if isinstance(found, AudioError):
                failures += 1
                _tell_failure(found)
            elif known is None:
                _show(found, audios[number], several=len(audios) > 1)
            else:
                known.add(names[number], audios[number])
                _write(found, audios[number], wanted[number], options)
    if output is not None:
        results.print(f"transcripts: {output}")
    if failures:
        console.print(f"{failures} of {len(audios)} recordings could not be transcribed, see above", style="red")
    return failures


def _missing(output: Path | None, name: str, options: TranscribeOptions) -> dict[str, Path]:
    """The files that a recording is still to be written to, by format."""
    if output is None:
        return {"": Path()}
    files = {kind: output / f"{name}.{kind}" for kind in options.formats}
    return {kind: path for kind, path in files.items() if options.overwrite or not path.exists()}


def _show(transcript: Transcript, audio: Path, *, several: bool) -> None:
    if several:
        results.print(f"{audio} ({transcript.language})")
    results.print(as_lines(transcript), end="\n" if several else "")


def _write(transcript: Transcript, audio: Path, files: dict[str, Path], options: TranscribeOptions) -> None:
    for kind, path in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "json":
            content = as_json(transcript, audio=audio, model=options.model, n_best=options.n_best)
        else:
            content = WRITERS[kind](transcript)
        write_text(path, content)


def _tell_failure(error: AudioError) -> None:
    console.print(f"not transcribed: {error}", style="red")
