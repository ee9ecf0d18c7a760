"""whispertune check: look the data over before spending compute."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from whispertune.check.audio import AudioFacts, check_audio
from whispertune.check.borrowing import clips_to_measure, measure_tokens
from whispertune.check.cleaned import EXCLUDED, cleaned_names, require_expressible, write_cleaned
from whispertune.check.figures import data_figures
from whispertune.check.findings import ERRORS, MEANINGS, UNUSABLE, Finding, Role, Source, guessed_role
from whispertune.check.misfits import misfits
from whispertune.check.model_based import Opinion, ask_model, judge
from whispertune.check.results import CheckResults, summary, write_findings
from whispertune.check.sets import repeated_ids, same_audio, same_text, shared_speakers, special_tokens
from whispertune.check.terminal import print_report
from whispertune.check.text import check_texts
from whispertune.check.written import require_replaceable, writing
from whispertune.checkpoints.packaged import packaged_tokenizer
from whispertune.commands.check_options import CheckOptions
from whispertune.commands.launched import share_out
from whispertune.data.marked import MarkedRows, read_marked
from whispertune.data.reading import AS_USUAL
from whispertune.data.sources import read_rows
from whispertune.data.splits_of_sources import as_data, every_split
from whispertune.data.utterances import Utterance, Utterances
from whispertune.dataset.transcripts import TextSettings
from whispertune.dataset.windows import single_windows
from whispertune.decoding.loading import ReadyModel, load_to_decode
from whispertune.errors import ManifestError, RecipeError, one_line
from whispertune.report.check_page import page
from whispertune.run.flags import parse_fields, split_arguments
from whispertune.run.next_step import training_command
from whispertune.run.undivided import splitting_command
from whispertune.system.console import console, progress_bar, results
from whispertune.system.files import make_writable, no_empty_folders
from whispertune.system.precision import resolve_device
from whispertune.system.processes import ALONE, Processes
from whispertune.text.languages import LANGUAGES, is_registered, spoken_language
from whispertune.text.targets import MAX_TOKENS
from whispertune.text.tokenizer import Tokenizer

SPLITS: tuple[Role, ...] = ("train", "valid", "test")


def main(arguments: Sequence[str]) -> int:
    """Run the command line `whispertune check ARGUMENTS`."""
    files, flags = read_arguments(arguments)
    options = parse_fields(CheckOptions, {}, flags, command="check")
    if options.language is not None and options.model is None:  # a model may have languages of its own
        spoken_language(options.language, options.language_token)  # raises if this is no language
    remedy = "start the same command again"
    with no_empty_folders(options.output, options.fix):
        return share_out(lambda processes: _check(files, options, processes), options.device, options.processes, remedy)


def _check(files: Sequence[str], options: CheckOptions, processes: Processes) -> int:
    output, fix = (None if path is None else Path(path) for path in (options.output, options.fix))
    sources = open_sources(files, options)
    if processes.world_size > 1:
        processes.require_same("data", [source.rows.fingerprint for source in sources])
    processes.from_main(lambda: _require_writable(sources, options, output, fix))
    tokenizer, report = check(sources, options, processes)
    if not processes.is_main:
        return 2 if report.num_errors else 0
    figures = data_figures(report, options.reading.workers)
    if output is not None:
        write_findings(report, output)
        figures |= summary(report, tokenizer)
        with writing(output / "summary.json") as file:
            file.write(json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
        with writing(output / "check.html") as file:
            file.write(page(report, figures))
    print_report(report, figures, output)
    cleaned = [] if fix is None else write_cleaned(report, fix)
    for path in cleaned:
        results.print(one_line(f"cleaned: {path}"))
    if fix is not None:
        results.print(one_line(f"left out, with reasons: {fix / EXCLUDED}"))
    if report.borrowing is not None:
        options = replace(options, language_token=report.borrowing.best)
    results.print(next_step(sources, cleaned, report, options))
    return 2 if report.num_errors else 0


def _require_writable(sources: Sequence[Source], options: CheckOptions, output: Path | None, fix: Path | None) -> None:
    """Refuse folders that cannot be written, or that hold what is not ours, before anything is computed."""
    inputs = {Path(kind.source) for source in sources for kind in source.rows.kinds if kind.source}
    inputs |= {source.path for source in sources}
    if output is not None:
        names = ["check.jsonl", "summary.json", "check.html", *(["ranking.jsonl"] if options.model else [])]
        require_replaceable("--output", output, names, inputs)
    if fix is not None:
        require_replaceable("--fix", fix, [*cleaned_names(sources), EXCLUDED], inputs)
    for flag, folder in (("--output", output), ("--fix", fix)):
        if folder is not None:
            make_writable(folder, flag)


def next_step(sources: Sequence[Source], cleaned: Sequence[Path], report: CheckResults, options: CheckOptions) -> str:
    """The command that trains on the checked or cleaned rows or, if there is none yet, what is missing for it."""
    if report.num_errors and not cleaned:
        rest = report.num_rows > len(report.rows_with_errors())
        return "to train, correct these rows" + (", or write manifests without them: --fix DIR" if rest else "")
    given: dict[str, list[str]] = {}
    for number, source in enumerate(sources):
        path = str(cleaned[number]) if cleaned else as_data(str(source.path), source.role or "data")
        given.setdefault(source.role, []).append(path)
    language = []
    if options.language is not None:
        language = ["--language", options.language]
    elif not all(kind.language for source in sources for kind in source.rows.kinds):
        return "to train, say which language is spoken: the same with --language L"
    if options.language_token is not None:
        language += ["--language_token", options.language_token]
    reading = AS_USUAL if cleaned else options.reading.reading
    command = training_command(given, options.model or "openai/whisper-base", language, reading)
    if command is None and len(sources) > 1:
        what = "say which is which: --train F --valid F"
        return f"to train, {what}; valid chooses the checkpoint, and none of it may be in train"
    if command is None:
        by = ["--by", "text"] if _num_recordings(sources[0].rows, 3) < 3 else []
        command = splitting_command([path for paths in given.values() for path in paths], [*by, *language], reading)
    return f"next:  {command}"


def _num_recordings(rows: Utterances, most: int) -> int:
    """How many recordings there are, counted up to `most`."""
    found: set[str] = set()
    for index in range(len(rows)):
        found.add(rows.place(index)[0])
        if len(found) >= most:
            break
    return len(found)


def read_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Files, and flags with their values; `--no-audio` needs none."""
    whole = []
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):  # shorter if there are none
        bare = argument in ("--no-audio", "--no_audio") and following.lower() not in ("true", "false")
        whole.append(f"{argument}=true" if bare else argument)
    return split_arguments(whole)


def open_sources(files: Sequence[str], options: CheckOptions) -> list[Source]:
    """All manifests with their rows.

    Raises:
        RecipeError: if none is given, or one can't be fixed and should be.
        ManifestError: if one can't be used.
    """
    named = [(role, path) for role in SPLITS if (path := getattr(options, role)) is not None]
    given: list[tuple[Role, str]] = [*named]
    for file in files:
        splits = [(role, path) for name, path in every_split(file) for role in (*SPLITS, "") if role == name]
        given += splits or [(guessed_role(Path(file)), file)]
    if not given:
        raise RecipeError("nothing to check: name a manifest; see whispertune check --help")
    sources: list[Source] = []
    first = 0
    for role, path in given:
        faults: list[ManifestError] = []
        rows = read_rows(role or "data", path, options.reading.reading, faults=faults)
        sources.append(Source(Path(path), role, rows, first, faults))
        if options.fix is not None:
            require_expressible(path, rows)
        first += len(rows)
    return sources


def check(
    sources: Sequence[Source], options: CheckOptions, processes: Processes = ALONE
) -> tuple[Tokenizer | None, CheckResults]:
    """All findings: of texts first, then of audio, between splits, and by a model.

    Several processes share the audio and what the model computes; all get every finding.
    """
    ready = None
    if options.model is not None:
        device = processes.device or resolve_device(options.device)
        ready = load_to_decode(options.model, device, options.precision)
    tokenizer = ready.tokenizer if ready else _usual_tokenizer()
    borrowing = ready is not None and _lacks_token(ready, options)
    if borrowing:
        options = replace(options, language_token="en")  # until the best one is known
    if tokenizer is None:
        console.print("tokens not counted: no --model, and the demo extra with Whisper's tokenizer is not installed")
    num_rows = sum(len(source.rows) for source in sources)
    several = len({source.role for source in sources} - {""}) > 1
    with progress_bar("texts", num_rows) as advance:
        findings, texts = check_texts(
            [source.rows for source in sources], _language(options, ready), _token_counter(tokenizer, options),
            max_tokens=tokenizer.max_tokens if tokenizer else MAX_TOKENS, sketches=several, advance=advance,
        )  # fmt: skip
    findings += special_tokens(sources, tokenizer)
    audio: AudioFacts | None = None
    if not options.no_audio:
        with progress_bar("audio", num_rows) as advance:
            rows = [row for source in sources for row in source.rows]
            found, audio = check_audio(rows, workers=options.reading.workers, advance=advance, processes=processes)
        findings += found
        findings += misfits(sources, texts, audio, _without(ERRORS, findings, num_rows) & audio.readable)
    findings += repeated_ids(sources)
    if options.reading.exclude is not None:
        findings += _marked(sources, read_marked(options.reading.exclude))
    findings += same_audio(sources, texts, audio)
    findings += same_text(sources, texts)
    findings += shared_speakers(sources, texts)
    report = CheckResults(sources, findings, texts, audio)
    if ready is not None and audio is not None:
        usable = _usable(report, audio)
        text = TextSettings(ready.tokenizer, options.language, "transcribe", language_token=options.language_token)
        spoken = (
            [n for n in usable if text.language_of(report.utterance(n)) == text.language_code_of(None)]
            if borrowing
            else []
        )
        if spoken:
            chosen = [report.utterance(number) for number in clips_to_measure(audio.seconds, spoken)]
            with progress_bar("language tokens", len(chosen)) as advance:
                measured = partial(
                    measure_tokens, ready, chosen, text, workers=options.reading.workers, advance=advance
                )
                report.borrowing = processes.from_main(measured)
            options = replace(options, language_token=report.borrowing.best)
        report.opinions = _opinions(report, ready, options, usable, processes)
        for number, opinion in report.opinions.items():
            judged = judge(opinion, report.utterance(number).text)
            if judged is not None:
                findings.append(Finding(number, *judged))
    order = {kind: place for place, kind in enumerate(MEANINGS)}
    findings.sort(key=lambda finding: (finding.kind not in ERRORS, finding.row, order[finding.kind]))
    return tokenizer, report


def _marked(sources: Sequence[Source], marked: MarkedRows) -> list[Finding]:
    """The rows that the user marked; says which of the marks match none."""
    found = [
        Finding(source.first + row, "marked", reason)
        for source in sources
        for row, reason in marked.reasons(source.rows).items()
    ]
    if (line := marked.unmatched()) is not None:
        console.print(line, style="yellow")
    return found


def _lacks_token(ready: ReadyModel, options: CheckOptions) -> bool:
    """Whether the model has no token for the language, and none is borrowed yet.

    Raises:
        RecipeError: if this is no language.
    """
    tokenizer, language = ready.tokenizer, options.language
    if language is None:
        return False
    try:
        tokenizer.spoken_language(language, options.language_token)
    except RecipeError:
        if options.language_token is None and tokenizer.languages and is_registered(language):
            return True
        raise
    return False


def _usable(report: CheckResults, audio: AudioFacts) -> list[int]:
    """Rows that a model can read. Also those with other errors: where a text is too long for its audio, the user wants
    to see the model's output."""
    return np.flatnonzero(_without(UNUSABLE, report.findings, report.num_rows) & audio.readable).tolist()


def _opinions(
    report: CheckResults, ready: ReadyModel, options: CheckOptions, valid: Sequence[int], processes: Processes
) -> dict[int, Opinion]:
    assert report.audio is not None
    audio = report.audio
    text = TextSettings(ready.tokenizer, options.language, "transcribe", language_token=options.language_token)
    rows = [report.utterance(number) for number in valid]
    targets = [text.target(window) for window in single_windows(rows)]
    with progress_bar("asking the model", len(rows)) as advance:
        opinions = ask_model(
            ready, rows, targets, [text.language_of(row) for row in rows], audio.seconds[valid].tolist(),
            workers=options.reading.workers, advance=advance, processes=processes,
        )  # fmt: skip
    return dict(zip(valid, opinions, strict=True))


def _usual_tokenizer() -> Tokenizer | None:
    content = packaged_tokenizer()
    return None if content is None else Tokenizer.from_json(content)


def _language(options: CheckOptions, ready: ReadyModel | None) -> Callable[[str | None], str | None]:
    spoken_by = ready.tokenizer.spoken_language if ready else spoken_language

    def code(named: str | None) -> str | None:
        given = named or options.language
        if given is None:
            return None
        spoken = spoken_by(given, options.language_token)
        return spoken if spoken in LANGUAGES else None  # None: its script is that of most of its letters

    return code


def _token_counter(tokenizer: Tokenizer | None, options: CheckOptions) -> Callable[[Utterance], int] | None:
    if tokenizer is None:
        return None
    settings = TextSettings(tokenizer, options.language or "en", "transcribe", language_token=options.language_token)

    def count(row: Utterance) -> int:
        try:
            return len(settings.target(single_windows([row])[0]).input_ids)
        except RecipeError:  # reported as unknown_language
            return 0

    return count


def _without(kinds: Container[str], findings: Sequence[Finding], num_rows: int) -> np.ndarray:
    """(num_rows,) of bool: rows that have no finding of these kinds."""
    valid = np.ones(num_rows, bool)
    valid[[finding.row for finding in findings if finding.kind in kinds]] = False
    return valid
