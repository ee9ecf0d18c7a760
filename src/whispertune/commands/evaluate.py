"""whispertune evaluate: decode a manifest and score it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path

from whispertune.checkpoints.generation import own_language
from whispertune.commands.evaluate_options import EvaluateOptions
from whispertune.commands.evaluate_report import comparison_summary, error_summary, print_report
from whispertune.commands.launched import share_out
from whispertune.data.glossary import read_glossary
from whispertune.data.marked import read_marked
from whispertune.data.sources import read_rows
from whispertune.dataset.exclusions import excluded_summary
from whispertune.dataset.splits import Split, load_split, merged_rows, require_enough, require_usable
from whispertune.dataset.transcripts import TextSettings
from whispertune.decoding.loading import ReadyModel, load_model, ready_to_decode
from whispertune.decoding.transcriber import Transcriber
from whispertune.evaluation.decode import SharedStates, System
from whispertune.evaluation.error_rates import compare
from whispertune.evaluation.evaluate import Evaluation, evaluate_split, token_caps
from whispertune.evaluation.glossary import count_terms
from whispertune.evaluation.probes.hallucination import WINDOWS_A_KIND, measure_hallucination
from whispertune.evaluation.probes.long_form import long_form_of, long_recordings, measure_long_form
from whispertune.evaluation.probes.report import Probes, probe_tables
from whispertune.evaluation.probes.sounds import SOUND_KINDS
from whispertune.evaluation.probes.timestamps import measure_timestamps, windows_with_boundaries
from whispertune.run.flags import parse_fields
from whispertune.system.console import console, progress_bar, results
from whispertune.system.counts import counted
from whispertune.system.files import make_writable, no_empty_folders, write_jsonl, write_text
from whispertune.system.memory import keep_freed_memory
from whispertune.system.precision import resolve_device, resolve_precision
from whispertune.system.processes import ALONE, Pace, Processes


def main(arguments: Sequence[str]) -> int:
    """Run the command line `whispertune evaluate ARGUMENTS`."""
    options = parse_fields(EvaluateOptions, {}, arguments, command="evaluate")
    remedy = "start the same command again"
    with no_empty_folders(options.output):
        return share_out(lambda processes: _evaluate(options, processes), options.device, options.processes, remedy)


def _evaluate(options: EvaluateOptions, processes: Processes) -> int:
    output = None if options.output is None else Path(options.output)
    if output is not None:
        processes.from_main(lambda: make_writable(output))
    glossary = None if options.search.glossary is None else read_glossary(options.search.glossary)
    keep_freed_memory()
    baseline: Evaluation | None = None
    if options.baseline is not None:  # one that cannot be used fails before anything is decoded
        _language(load_model(options.baseline, processes.device or resolve_device(options.device)), options)
    found, probes, excluded, language = evaluate(options, output, processes)
    if options.baseline is not None:
        beside = replace(
            options, model=options.baseline, base=None, baseline=None, language=options.language or language,
            timestamps=False, long_form=False, hallucination=False,
        )  # fmt: skip
        console.print(f"baseline: {options.baseline}")
        baseline = evaluate(beside, None if output is None else output / "baseline", processes)[0]
    if not processes.is_main:
        return 0
    difference = None if baseline is None else compare(baseline.score, found.score)
    recalls = [
        count_terms(glossary, each.score, [clip["language"] for clip in each.clips])
        for each in (found, baseline)
        if glossary is not None and each is not None
    ]
    if output is not None:
        about = {"model": options.model, "frames": options.frames.selection, "excluded": excluded}
        content = {**about, **found.summary(), **error_summary(found, *recalls[:1]), **probes.summary()}
        if baseline is not None and difference is not None:
            content |= comparison_summary(baseline, difference, *recalls[1:])
        write_text(output / "summary.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    print_report(options.data, options.frames.selection, found, baseline, difference, recalls)
    for table in probe_tables(probes):
        results.print(table)
    if output is not None:
        results.print(f"every hypothesis: {output / 'hypotheses.jsonl'}")
    return 0


def evaluate(
    options: EvaluateOptions, output: Path | None = None, processes: Processes = ALONE
) -> tuple[Evaluation, Probes, int, str | None]:
    """Load, decode and score, and run the probes that were asked for; several processes share all of it.

    Returns the evaluation, the probes' results, the number of rows that were left out, and the language. Rows left out
    are written to `output` before anything is decoded, and hypotheses before any probe runs.

    Raises:
        UserError: whatever is wrong with options, model or data.
    """
    if output is not None:
        processes.from_main(lambda: make_writable(output))
    device = processes.device or resolve_device(options.device)
    precision = resolve_precision(options.precision, device)
    read = read_rows("data", options.data, options.reading.reading)
    ready = ready_to_decode(load_model(options.model, device, precision.dtype, base=options.base))
    if options.timestamps or options.long_form:
        ready.tokenizer.require_timestamps()
    language = _language(ready, options)
    text = TextSettings(ready.tokenizer, language, options.task, language_token=options.language_token)
    rows = merged_rows(read, text, options.reading)
    marked = read_marked(options.reading.exclude) if options.reading.exclude else None
    with progress_bar("checking", len(rows)) as advance:
        pace = Pace(advance, len(rows) // processes.world_size, len(rows))
        split = load_split("data", rows, text, options.reading, advance=pace, marked=marked, processes=processes)
    if processes.world_size > 1:
        processes.require_same("model or data", (ready.checkpoint.digest, split.fingerprint))
    if marked is not None and (line := marked.unmatched()) is not None:
        console.print(f"left out  {line}", style="yellow")
    for line in excluded_summary(split.excluded):
        console.print(f"left out  {line}", style="yellow")
    if output is not None and processes.is_main:
        write_jsonl(output / "excluded.jsonl", [asdict(exclusion) for exclusion in split.excluded])
    if split.excluded:
        where = "--output DIR lists them" if output is None else f"listed in {output / 'excluded.jsonl'}"
        console.print(f"{len(split.excluded):,} of {counted(split.num_rows, 'row')} left out; {where}")
    require_usable([split], options.reading, flag="--max_excluded")
    transcriber = Transcriber(ready, options.search, options.frames, workers=options.reading.workers)
    states = transcriber.states(lambda index: transcriber.features(*split.waveform(index)))
    system = System(options.model, ready, [options.search])
    console.print(f"{counted(len(split.windows), 'utterance')}, {options.frames.selection}, {precision.name}")
    with progress_bar("decoding", len(split.windows)) as advance:
        (found,) = evaluate_split(
            split, [SharedStates(states, [system])], frames=options.frames,
            max_tokens=token_caps(split, None, ready.tokenizer.max_tokens), cut_loops=False, advance=advance,
            processes=processes, whole_chunks=True,
        )  # fmt: skip
    unreadable = split.unreadable.learn(chain.from_iterable(processes.all_gather(split.unreadable.take())))
    for exclusion in unreadable:
        console.print(f"left out  {exclusion.file}, row {exclusion.row}: {exclusion.reason}", style="yellow")
    if output is not None and unreadable and processes.is_main:
        write_jsonl(output / "excluded.jsonl", map(asdict, [*split.excluded, *unreadable]))
    require_enough(split, options.reading, flag="--max_excluded")
    if output is not None and processes.is_main:
        write_jsonl(output / "hypotheses.jsonl", found.rows())
    there = split.part(found.windows) if unreadable else split
    probes = _probe(options, transcriber, there, text, found, processes)
    return found, probes, len(split.excluded) + len(unreadable), language


def _language(ready: ReadyModel, options: EvaluateOptions) -> str | None:
    """The language asked for, or the model's own. Raises RecipeError for one that the model does not know."""
    if options.language is not None:
        language = ready.tokenizer.spoken_language(options.language, options.language_token)
        ready.tokenizer.prompt_tokens(options.language_token or language, options.task)
        return language
    return own_language(ready.checkpoint.generation) if ready.tokenizer.multilingual else None


def _probe(
    options: EvaluateOptions, transcriber: Transcriber, split: Split, text: TextSettings, found: Evaluation,
    processes: Processes,
) -> Probes:  # fmt: skip
    probes = Probes()
    if options.timestamps:
        windows = windows_with_boundaries(split, text, options.seed)
        with progress_bar("timestamps", len(windows)) as advance:
            probes.timestamps = measure_timestamps(transcriber, windows, text, advance, processes)
    if options.long_form:
        recordings = long_recordings(split, options.seed)
        with progress_bar("long form, seconds", sum(int(r.seconds) for r in recordings)) as advance:
            probes.long_form = measure_long_form(recordings, long_form_of(transcriber, text), advance, processes)
    if options.hallucination:
        first = split.windows[0]
        with progress_bar("silence and noise", len(SOUND_KINDS) * WINDOWS_A_KIND) as advance:
            probes.hallucination = measure_hallucination(
                transcriber, text.prompt(replace(first, utterances=(replace(first.utterances[0], prompt=None),))),
                split.text_languages[0], seed=options.seed, advance=advance, processes=processes,
            )  # fmt: skip
        probes.stuck = len(found.repeating), found.capped
        probes.outputs = len(found.hypotheses)
    return probes
