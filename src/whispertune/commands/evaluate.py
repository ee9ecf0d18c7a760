"""whispertune evaluate: decode a manifest and score it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from whispertune.checkpoints.generation import own_language
from whispertune.commands.evaluate_report import compared, comparison_summary, error_summary, print_report
from whispertune.data.sources import read_rows
from whispertune.dataset.exclusions import excluded_summary
from whispertune.dataset.splits import DataOptions, Split, load_split, merged_rows, require_enough, require_usable
from whispertune.dataset.transcripts import TextSettings
from whispertune.decoding.loading import ReadyModel, load_model, ready_to_decode
from whispertune.decoding.search import SearchOptions
from whispertune.errors import RecipeError
from whispertune.evaluation.evaluate import Evaluation, System, evaluate_split, token_caps
from whispertune.evaluation.probes.decode import Probed
from whispertune.evaluation.probes.hallucination import WINDOWS_A_KIND, count_stuck, measure_hallucination
from whispertune.evaluation.probes.long_form import long_form_of, long_recordings, measure_long_form
from whispertune.evaluation.probes.report import Probes, probe_tables
from whispertune.evaluation.probes.sounds import SOUND_KINDS
from whispertune.evaluation.probes.timestamps import measure_timestamps, windows_with_boundaries
from whispertune.features.frames import DENSE, FrameOptions
from whispertune.run.flags import help_text, parse_fields
from whispertune.states.computed import ComputedStates, WindowFeatures, window_features
from whispertune.system.console import console, progress_bar, results
from whispertune.system.files import make_writable, write_jsonl, write_text
from whispertune.system.memory import keep_freed_memory
from whispertune.system.precision import Precision, precision_name, resolve_device, resolve_precision
from whispertune.system.processes import were_launched

USAGE = "whispertune evaluate --model M --data F --language L [--beam-size N] [--output DIR] [--field value …]"

DESCRIPTION = """Decode a manifest with a model and score it against its transcripts.

Decoding is dense (plain Whisper) and bounded by Whisper's own 448 tokens only, as the model will be deployed.
WER and CER lead normalised; raw ones (with case and punctuation) stand below, each with a 95 % bootstrap interval.
What kinds of errors there are, outputs that repeat themselves and the worst clips are named. --baseline M has another
model decoded in the same way, and says whether the difference is more than chance.

Short clips do not show everything: --timestamps true stitches them into windows with known boundaries, --long_form
true into recordings of minutes, and --hallucination true has silence and noise decoded, in which nothing is said."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """One evaluation."""

    model: str
    """Model: a folder, an OpenAI .pt (with a tokenizer.json beside it, or openai-whisper installed), a Hub id, a run
    (its best/), or packaged:whisper-base."""

    baseline: str | None = None
    """Another model to decode in the same way, usually the one before fine-tuning. The difference is told with its
    interval (paired bootstrap)."""

    data: str
    """What to decode: a manifest (CSV, TSV or JSONL) or any corpus that `train` takes."""

    language: str | None = None
    """Language spoken, where a row names none."""

    language_token: str | None = None
    """A language of Whisper's whose token stands for `language`, which Whisper does not know."""

    task: Literal["transcribe", "translate"] = "transcribe"
    """What to write down, where a row names none."""

    beam_size: int = 8
    """Hypotheses kept side by side; 1 is greedy search."""

    length_penalty: float = 1.0
    """Exponent of the length that a hypothesis's log-probability is divided by."""

    frames: FrameOptions = field(default_factory=lambda: DENSE)

    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    precision: Precision = "auto"
    """Of matrix products. auto: bf16 where the hardware multiplies it fast, else fp16 on a GPU, fp32 on a CPU."""

    max_excluded: float = 0.05
    """Share of rows that may be unusable."""

    workers: int = 2
    """Threads that decode audio."""

    empty_text: Literal["exclude", "keep"] = "exclude"
    """Rows without any text: `keep` scores what is written down where nothing is said."""

    merge_segments: float = 0.0
    """Join neighbouring segments of a recording up to so many seconds; 0 leaves them as they are."""

    columns: str | None = None
    """What the columns of a manifest are called, where that is unusual: text=transkript,audio=datei."""

    audio_root: str | None = None
    """The folder that recordings lie in, where that is not the one of the manifest or the subtitles."""

    timestamps: bool = False
    """Decode the clips once more, stitched and with timestamps: how many outputs have valid ones (monotonic, paired,
    inside the audio), and how far they are from the clips' boundaries."""

    long_form: bool = False
    """Transcribe long recordings too, as `whispertune transcribe` does: the data's own where its rows are segments of
    them, else its clips, joined with silences of 0.5 to 4 s into recordings of up to 10 minutes."""

    hallucination: bool = False
    """Decode generated silence and noise, 60 s of each of 5 kinds: words written down there, loops, outputs that ran
    into 448 tokens; loops among the data's own outputs too."""

    seed: int = 0
    """Of what these stitch and generate."""

    output: str | None = None
    """Folder for hypotheses.jsonl, summary.json, and excluded.jsonl: every row that was left out, and why."""

    def __post_init__(self) -> None:
        if self.language_token is not None and self.language is None:
            raise RecipeError("language_token is given without language: name the language that borrows it")
        if self.seed < 0:
            raise RecipeError(f"seed is {self.seed}; it must be at least 0")
        try:
            self.search, self.reading  # noqa: B018 - built to have their ranges checked
        except RecipeError as error:  # here they are no sections
            raise RecipeError(str(error).removeprefix("search.").removeprefix("data.")) from None

    @property
    def search(self) -> SearchOptions:
        return SearchOptions(beam_size=self.beam_size, length_penalty=self.length_penalty)

    @property
    def reading(self) -> DataOptions:
        return DataOptions(
            max_excluded=self.max_excluded,
            workers=self.workers,
            empty_text=self.empty_text,
            merge_segments=self.merge_segments,
            columns=self.columns,
            audio_root=self.audio_root,
        )


def main(arguments: Sequence[str]) -> int:
    """Run the command line `whispertune evaluate ARGUMENTS`."""
    if any(flag in ("-h", "--help") for flag in arguments):
        results.print(help_text(EvaluateOptions, USAGE, DESCRIPTION))
        return 0
    options = parse_fields(EvaluateOptions, {}, arguments, command="evaluate")
    if were_launched():
        raise RecipeError("evaluate runs in one process; start it without torchrun or accelerate launch")
    output = None if options.output is None else Path(options.output)
    if output is not None:
        make_writable(output)
    keep_freed_memory()
    baseline: Evaluation | None = None
    if options.baseline is not None:  # that it can be loaded and knows the language is seen before anything is decoded
        _language(load_model(options.baseline, resolve_device(options.device)), options)
    found, probes, excluded, language = evaluate(options, output)
    if options.baseline is not None:
        beside = replace(
            options, model=options.baseline, baseline=None, language=options.language or language,
            timestamps=False, long_form=False, hallucination=False,
        )  # fmt: skip
        console.print(f"baseline: {options.baseline}")
        baseline = evaluate(beside, None if output is None else output / "baseline")[0]
    if output is not None:
        about = {"model": options.model, "frames": options.frames.selection, "excluded": excluded}
        content = {**about, **found.summary(), **error_summary(found), **probes.summary()}
        if baseline is not None:
            content |= comparison_summary(baseline, compared(found, baseline))
        write_text(output / "summary.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    print_report(options.data, options.frames.selection, found, baseline)
    for table in probe_tables(probes):
        results.print(table)
    if output is not None:
        results.print(f"every hypothesis: {output / 'hypotheses.jsonl'}")
    return 0


def evaluate(options: EvaluateOptions, output: Path | None = None) -> tuple[Evaluation, Probes, int, str | None]:
    """Load, decode, score, and probe as far as that is asked for; how many rows were left out; the language taken.

    These are listed in `output` before anything is decoded; hypotheses are there before anything is probed.

    Raises:
        UserError: whatever is wrong with options, model or data.
    """
    if output is not None:
        make_writable(output)
    device = resolve_device(options.device)
    dtype = resolve_precision(options.precision, device)
    read = read_rows("data", options.data, options.reading.reading)
    ready = ready_to_decode(load_model(options.model, device, dtype))
    if options.timestamps or options.long_form:
        ready.tokenizer.require_timestamps()
    language = _language(ready, options)
    text = TextSettings(ready.tokenizer, language, options.task, language_token=options.language_token)
    rows = merged_rows(read, text, options.reading)
    with progress_bar("checking", len(rows)) as advance:
        split = load_split("data", rows, text, options.reading, advance=advance)
    for line in excluded_summary(split.excluded):
        console.print(f"left out  {line}", style="yellow")
    if output is not None:
        write_jsonl(output / "excluded.jsonl", [asdict(exclusion) for exclusion in split.excluded])
    if split.excluded:
        where = "--output DIR lists them" if output is None else f"listed in {output / 'excluded.jsonl'}"
        console.print(f"{len(split.excluded)} of {split.num_rows} rows left out; {where}")
    require_usable([split], options.reading, flag="--max_excluded")
    whisper = ready.whisper
    states = ComputedStates(
        whisper.encoder,
        lambda i, _: [_features(split, i, ready.n_mels, options.frames)],
        workers=options.workers,
    )
    system = System(options.model, whisper.decoder, states.fetch, options.search)
    console.print(f"{len(split.windows)} utterances, {options.frames.selection}, {precision_name(dtype)}")
    with progress_bar("decoding", len(split.windows)) as advance:
        (found,) = evaluate_split(
            split, [system], ready.tokenizer, ready.rules, pad_id=ready.checkpoint.pad_token_id,
            frames=options.frames, max_tokens=token_caps(split, None, ready.tokenizer.max_tokens),
            cut_loops=False, advance=advance,
        )  # fmt: skip
    unreadable = split.unreadable.learn(split.unreadable.take())
    for exclusion in unreadable:
        console.print(f"left out  {exclusion.file}, row {exclusion.row}: {exclusion.reason}", style="yellow")
    if output is not None and unreadable:
        write_jsonl(output / "excluded.jsonl", map(asdict, [*split.excluded, *unreadable]))
    require_enough(split, options.reading, flag="--max_excluded")
    if output is not None:
        write_jsonl(output / "hypotheses.jsonl", found.rows())
    there = split.part(found.windows) if unreadable else split
    return found, _probe(options, ready, there, text, found), len(split.excluded) + len(unreadable), language


def _language(ready: ReadyModel, options: EvaluateOptions) -> str | None:
    """The language asked for, or the model's own; what this model does not know is refused."""
    if options.language is not None:
        language = ready.tokenizer.spoken_language(options.language, options.language_token)
        ready.tokenizer.prompt_tokens(options.language_token or language, options.task)
        return language
    return own_language(ready.checkpoint.generation) if ready.tokenizer.multilingual else None


def _features(split: Split, index: int, n_mels: int, frames: FrameOptions) -> WindowFeatures:
    waveform, readable = split.waveform(index)
    return window_features(waveform, n_mels, frames, readable=readable)


def _probe(options: EvaluateOptions, ready: ReadyModel, split: Split, text: TextSettings, found: Evaluation) -> Probes:
    probed = Probed(ready, options.search, options.frames, options.workers)
    probes = Probes()
    if options.timestamps:
        windows = windows_with_boundaries(split, text, options.seed)
        with progress_bar("timestamps", len(windows)) as advance:
            probes.timestamps = measure_timestamps(probed, windows, text, advance)
    if options.long_form:
        recordings = long_recordings(split, options.seed)
        with progress_bar("long form, seconds", sum(int(r.seconds) for r in recordings)) as advance:
            probes.long_form = measure_long_form(recordings, long_form_of(probed, text), advance)
    if options.hallucination:
        first = split.windows[0]
        with progress_bar("silence and noise", len(SOUND_KINDS) * WINDOWS_A_KIND) as advance:
            probes.hallucination = measure_hallucination(
                probed, text.prompt(replace(first, utterances=(replace(first.utterances[0], prompt=None),))),
                split.text_languages[0], seed=options.seed, advance=advance,
            )  # fmt: skip
        probes.stuck = count_stuck(found.hypotheses)
        probes.outputs = len(found.hypotheses)
    return probes
