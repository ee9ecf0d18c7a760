"""whispertune transcribe: recordings of any length to text, subtitles or JSON."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whispertune.checkpoints.generation import TRAINED_TIMESTAMPS, own_language
from whispertune.commands.launched import share_out
from whispertune.commands.transcribe_options import TranscribeOptions
from whispertune.data.audio.waveforms import num_channels, probe_audio
from whispertune.data.audio_files import TranscriptIndex, find_audio, output_names
from whispertune.data.glossary import read_glossary
from whispertune.decoding.annotation_files import written_as
from whispertune.decoding.channels import channel_names, on_one_time_line
from whispertune.decoding.loading import ReadyModel, load_to_decode
from whispertune.decoding.long_form import LongForm, Transcript, batches_of
from whispertune.decoding.options import ENDINGS
from whispertune.decoding.transcript_files import as_json, as_lines
from whispertune.errors import AudioError, RecipeError, StorageError, is_disk_failure
from whispertune.run.flags import parse_fields, split_arguments
from whispertune.system.console import console, printable, progress_bar, results
from whispertune.system.counts import counted
from whispertune.system.files import make_writable, no_empty_folders, write_text
from whispertune.system.memory import keep_freed_memory
from whispertune.system.precision import resolve_device, resolve_precision
from whispertune.system.processes import ALONE, Pace, Processes, balance
from whispertune.text.languages import language_name

LEAST_SECONDS = 30.0
"""Cost of a recording in seconds, at least: a whole window is decoded."""


def main(arguments: Sequence[str]) -> int:
    """Run the command line `whispertune transcribe ARGUMENTS`; 2 if any recording could not be transcribed."""
    given, flags = split_arguments(arguments)
    options = parse_fields(TranscribeOptions, {}, flags, command="transcribe")
    if options.formats != ["txt"] and options.output is None:
        problem = f"is {options.format}, but without --output the text is printed; name a folder: --output transcripts"
        raise RecipeError(problem, field="format")
    output = None if options.output is None else Path(options.output)

    def work(processes: Processes) -> int:
        if processes.world_size > 1 and output is None:
            raise RecipeError("is missing; several processes write their transcripts into a folder", field="output")
        keep_freed_memory()
        audios = processes.from_main(lambda: find_audio(given))
        return 2 if transcribe(audios, options, output, processes) else 0

    remedy = "what is written is kept; give the same command again for the others"
    with no_empty_folders(output):
        return share_out(work, options.device, options.processes, remedy)


@dataclass(slots=True)
class _Job:
    """A recording that is still to be transcribed.

    files: to be written, by format. parts: its channels done so far. problem: why it could not be transcribed.
    """

    audio: Path
    name: str
    files: dict[str, Path]
    seconds: float = 0.0
    channels: tuple[int | None, ...] = (None,)
    names: Sequence[str] = ()
    parts: dict[int | None, Transcript] = field(default_factory=dict)
    problem: str | None = None

    @property
    def failed(self) -> bool:
        return self.problem is not None

    def transcript(self) -> Transcript | None:
        """The whole transcript, once every channel is done."""
        if self.failed or len(self.parts) < len(self.channels):
            return None
        if len(self.channels) == 1:
            return self.parts[self.channels[0]]
        return on_one_time_line(self.names, [self.parts[channel] for channel in self.channels])


def transcribe(
    audios: Sequence[Path], options: TranscribeOptions, output: Path | None, processes: Processes = ALONE
) -> int:
    """Transcribe, and print or write; returns how many recordings could not be. Several processes share them.

    Raises:
        UserError: whatever is wrong with options, model or output folder.
        StorageError: if the disk is full or gone, so that the other recordings would fail, too.
    """
    jobs = processes.from_main(lambda: _jobs(audios, options, output))
    wanted = [job for job in jobs if job.files and not job.failed]
    if output is not None and (done := sum(not job.files and not job.failed for job in jobs)):
        console.print(f"{done} of {len(jobs)} are there already and kept; --overwrite true transcribes them again")
    if wanted:
        _decode(wanted, options, output, processes)
    failures = sum(job.failed for job in jobs)
    if failures:
        of = counted(len(jobs), "recording")
        console.print(f"{failures} of {of} could not be transcribed, see above", style="red")
    return failures


def _jobs(audios: Sequence[Path], options: TranscribeOptions, output: Path | None) -> list[_Job]:
    if output is not None:
        make_writable(output)
    known = None if output is None else TranscriptIndex(output)
    jobs = [_Job(audio, name, {}) for name, audio in zip(output_names(audios), audios, strict=True)]
    for job in jobs:
        _prepare(job, options, output, known)
    return jobs


def _prepare(job: _Job, options: TranscribeOptions, output: Path | None, known: TranscriptIndex | None) -> None:
    """Find out what is still to be written for a recording, how long it is, and its channels.

    Raises:
        RecipeError: if there is a transcript of another recording under its name.
    """
    try:
        job.files = _missing(output, job.name, options)
        if known is not None and not options.overwrite and len(job.files) < len(options.formats):
            other = known.other_than(job.name, job.audio)
            if other is not None:
                raise RecipeError(
                    f"{output}/{job.name}: a transcript of {other} is there already, not of {job.audio}; "
                    "name another --output, or --overwrite true"
                )
        if job.files:
            num_frames, rate = probe_audio(job.audio)
            job.seconds = num_frames / rate
            if options.channels == "separate" and (count := num_channels(job.audio)) > 1:
                job.names, job.channels = channel_names(count, options.names), tuple(range(count))
                if len(job.names) < count:
                    _fail(job, f"{job.audio}: has {count} channels; give that many names in channel_names")
    except AudioError as error:
        _fail(job, str(error))
    except OSError as error:
        _fail_to_write(job, error)


def _decode(jobs: Sequence[_Job], options: TranscribeOptions, output: Path | None, processes: Processes) -> None:
    """Transcribe and write; each process its share of the batches."""
    if options.search.glossary is not None:
        read_glossary(options.search.glossary)
    device = processes.device or resolve_device(options.device)
    ready = load_to_decode(options.model, device, options.precision, base=options.base)
    long_form, origin = long_form_of(ready, options)
    console.print(f"language  {origin}")
    if set(options.formats) - {"txt", "json"} and ready.checkpoint.generation.get(TRAINED_TIMESTAMPS) is False:
        console.print(
            "times     this model was trained on clips without timestamps: subtitles may be off by seconds, or all on "
            "whole ones; train with --windows.stitched_share 0.15, or on recordings with the times of their segments",
            style="yellow",
        )
    if output is None and not results.encoding.startswith("utf"):
        console.print(
            f"standard output is {results.encoding}: characters that it lacks are written as \\x… and \\u…; "
            "PYTHONUTF8=1 in the environment makes it UTF-8, and --output writes files in UTF-8",
            style="yellow",
        )
    precision = resolve_precision(options.precision, device)
    items = [(job, channel) for job in jobs for channel in job.channels]
    audios, seconds = [job.audio for job, _ in items], [job.seconds for job, _ in items]
    batches = batches_of(audios, seconds, options.windows.batch_size)
    costs = [sum(max(LEAST_SECONDS, seconds[place]) for place in batch) for batch in batches]
    shares = balance(costs, processes.world_size)
    own = [batches[number] for number in sorted(shares[processes.rank])]
    hours = sum(job.seconds for job in jobs) / 3600
    console.print(f"{counted(len(jobs), 'recording')}, {hours:.2f} hours, {options.frames.selection}, {precision.name}")
    if len(batches) < processes.world_size:
        console.print(
            f"only {len(batches)} of the {processes.world_size} processes will have work: they share batches of "
            f"{counted(options.windows.batch_size, 'recording')}; a smaller --batch_size makes more of them",
            style="yellow",
        )
    known = None if output is None else TranscriptIndex(output)
    total = sum(map(int, seconds))
    with progress_bar("transcribing, seconds", total) as advance:

        def work() -> tuple[dict[str, str], dict[str, Any]]:
            """What went wrong, by the recording's name, and the entries of those that are done."""
            pace = Pace(advance, sum(int(seconds[place]) for batch in own for place in batch), total)
            channels = [channel for _, channel in items]
            for place, found in long_form.transcribe(audios, pace, channels=channels, batches=own):
                job, channel = items[place]
                if isinstance(found, AudioError):
                    if not job.failed:  # once, even if another channel fails as well
                        _fail(job, str(found))
                    continue
                job.parts[channel] = found
                _finish(job, options, known, several=len(jobs) > 1)
            problems = {job.name: job.problem for job in jobs if job.problem is not None}
            return problems, {} if known is None else known.added

        done = processes.share(work)
    for problems, _ in done:
        for job in jobs:
            if not job.failed and job.name in problems:  # in another process, which prints nothing
                _fail(job, problems[job.name])
    if known is not None and processes.is_main:
        known.settle([added for _, added in done])
    if output is not None:
        results.print(f"transcripts: {output}")


def _finish(job: _Job, options: TranscribeOptions, known: TranscriptIndex | None, *, several: bool) -> None:
    """Print or write a transcript, if all its channels are done. several: whether it is not the only recording."""
    transcript = job.transcript()
    if transcript is None:
        return
    if len(job.parts) > 1 and len({part.text for part in job.parts.values()}) == 1 and transcript.segments:
        console.print(f"{job.audio}: its channels hold the same; --channels mix takes less time")
    if known is None:
        _show(transcript, job.audio, several=several)
    else:
        try:
            known.add(job.name, job.audio)
            _write(transcript, job, options)
        except OSError as error:
            _fail_to_write(job, error)
    job.parts.clear()


def long_form_of(ready: ReadyModel, options: TranscribeOptions) -> tuple[LongForm, str]:
    """What transcribes, and the language with its origin, for people.

    Raises:
        RecipeError: for a language or task that the model does not know.
    """
    language, origin = None, "detected in each recording"
    if options.language is not None:
        language, origin = ready.tokenizer.spoken_language(options.language, options.language_token), "as asked for"
    elif ready.tokenizer.multilingual:
        if (language := own_language(ready.checkpoint.generation)) is not None:
            origin = "what the model was trained on"
    else:
        origin = "English, the only language of this model"
    token = options.language_token or language
    if token is not None or options.task != "transcribe":
        ready.tokenizer.prompt_tokens(token or "en", options.task)  # refuses what this model does not know
    if language is not None:
        borrowed = ready.tokenizer.token_language(token or language)
        under = f" under the token of {language_name(borrowed)}" if borrowed != language else ""
        origin = f"{language} ({language_name(language)}){under}, {origin}"
    made = LongForm(
        ready, search=options.search, options=options.windows, language=language, token=token, task=options.task,
        frames=options.frames,
    )  # fmt: skip
    return made, origin


def _missing(output: Path | None, name: str, options: TranscribeOptions) -> dict[str, Path]:
    """The files that are still to be written for a recording, by format. Raises OSError if one is impossible."""
    if output is None:
        return {"": Path()}
    files = {kind: output / f"{name}.{ENDINGS[kind]}" for kind in options.formats}
    return {kind: path for kind, path in files.items() if not path.exists() or options.overwrite}


def _show(transcript: Transcript, audio: Path, *, several: bool) -> None:
    if several:
        results.print(printable(f"{audio} ({transcript.language})"))
    results.print(as_lines(transcript), end="\n" if several else "")


def _write(transcript: Transcript, job: _Job, options: TranscribeOptions) -> None:
    for kind, path in job.files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "json":
            content = as_json(transcript, audio=job.audio, model=options.model, n_best=options.n_best)
        else:
            content = written_as(kind, transcript, job.audio, path.parent, options.subtitles)
        write_text(path, content)


def _fail(job: _Job, problem: str) -> None:
    job.problem = problem
    console.print(f"not transcribed: {printable(problem)}", style="red")


def _fail_to_write(job: _Job, error: OSError) -> None:
    if is_disk_failure(error):
        raise StorageError(
            f"{job.audio}: its transcript cannot be written ({error.strerror}); free some disk space, then give the "
            "same command: what is written is kept"
        ) from None
    remedy = "give the recording a shorter name" if error.errno == errno.ENAMETOOLONG else "choose another --output"
    _fail(job, f"{job.audio}: its transcript cannot be written ({error.strerror or error}); {remedy}")
