"""whispertune correct: a page to correct transcripts on."""

from __future__ import annotations

import hashlib
import json
import secrets
import shlex
import webbrowser
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whispertune.check.cleaned import require_expressible
from whispertune.check.written import require_replaceable
from whispertune.commands.correct_options import CorrectOptions
from whispertune.correct.journal import Correction, begin, is_begun, leave, lock
from whispertune.correct.ranking import by_confidence, ordered
from whispertune.correct.saving import COMMAND, LEFT_OUT, MANIFEST, Saver, Snapshots
from whispertune.correct.segments import Segment
from whispertune.correct.server import application, listening_socket, require_server, serve
from whispertune.correct.sources import further_of, read_segments, rows_of_json, transcripts_at
from whispertune.data.audio_files import AUDIO_SUFFIXES, find_audio, output_names
from whispertune.data.marked import read_marked
from whispertune.data.reading import AS_USUAL
from whispertune.data.remote import files_below
from whispertune.data.sources import read_rows
from whispertune.data.utterances import Utterance, Utterances
from whispertune.decoding.options import ENDINGS, FORMATS
from whispertune.errors import ManifestError, RecipeError
from whispertune.run.flags import parse_fields, split_arguments
from whispertune.run.next_step import training_command
from whispertune.run.undivided import splitting_command
from whispertune.system.console import console, printable, progress_bar, results
from whispertune.system.counts import counted
from whispertune.system.files import make_writable, no_empty_folders
from whispertune.text.languages import spoken_language

HYPOTHESES = "hypotheses"
"""Folder in DIR for what a model transcribes."""
USUAL_MODEL = "openai/whisper-base"


def main(arguments: Sequence[str]) -> int:
    """Run the command line `whispertune correct ARGUMENTS`."""
    given, flags = split_arguments(arguments)
    options = parse_fields(CorrectOptions, {}, flags, command="correct")
    require_server()
    folder = Path(options.output)
    if not given and not is_begun(folder):
        raise RecipeError("nothing to correct: name a manifest, transcripts or recordings; see correct --help")
    correction = Correction(folder, _begun(given, options, folder))
    try:
        _require_same(given, options, correction)
        return _serve(correction, options)
    finally:
        correction.close()


def _begun(given: Sequence[str], options: CorrectOptions, folder: Path) -> int:
    """The lock of a folder in which a correction has begun, now or earlier."""
    with no_empty_folders(folder):
        make_writable(folder)
        held = lock(folder)
        if not is_begun(folder):
            try:
                _begin(given, options, folder)
            except BaseException:
                leave(folder, held)
                raise
    return held


def _begin(given: Sequence[str], options: CorrectOptions, folder: Path) -> None:
    """Read what is to be corrected, put it in order, and write what the correction starts from."""
    if options.language is not None and options.model is None:  # a model may have languages of its own
        spoken_language(options.language, options.language_token)
    require_replaceable("--output", folder, [MANIFEST, LEFT_OUT], [Path(path) for path in given], COMMAND)
    found = _read(given, options, folder)
    with progress_bar("recordings", len(found.rows)) as advance:
        recordings, segments = read_segments(found.rows, found.extras, found.further, advance)
    _require_distinct(segments)
    suspicions = by_confidence(segments)
    if options.model is not None and not found.by_model:
        segments, suspicions = _asked(found.rows, segments, options)
    faults = sum(recording.fault is not None for recording in recordings)
    if faults:
        first = next(recording.fault for recording in recordings if recording.fault is not None)
        console.print(
            printable(f"{counted(faults, 'recording')} cannot be played; such segments come last: {first}"),
            style="yellow",
        )
    begin(
        folder,
        recordings,
        ordered(segments, suspicions),
        {
            "sources": list(given),
            "model": options.model,
            "language": options.language,
            "language_token": options.language_token,
            "by_model": found.by_model or found.scored,
            "formats": found.formats,
        },
    )


@dataclass(slots=True)
class _Found:
    """What is to be corrected. by_model: whether `model` has transcribed it now; scored: a model did so earlier."""

    rows: list[Utterance] = field(default_factory=list)
    extras: list[Mapping[str, Any]] = field(default_factory=list)
    further: list[Mapping[str, Any]] = field(default_factory=list)
    formats: list[str] = field(default_factory=list)
    by_model: bool = False
    scored: bool = False


def _read(given: Sequence[str], options: CorrectOptions, folder: Path) -> _Found:
    found, reading = _Found(), options.reading.reading
    jsons: list[Path] = []
    audios: list[str] = []
    others: list[str] = []
    for path in given:
        if there := transcripts_at(Path(path)):
            jsons += there
        elif _is_audio(Path(path)):
            audios.append(path)
        else:
            others.append(path)
    if audios:
        if options.model is None:
            raise RecipeError(
                f"{audios[0]}: is a recording without a transcript; name the model that transcribes it: --model M"
            )
        if len(audios) < len(given):
            raise RecipeError(f"{audios[0]}: is a recording, and other files are transcripts; correct them one by one")
        jsons, found.by_model = _transcribed(audios, options, folder / HYPOTHESES), True
    if jsons and options.reading.exclude is not None:
        raise RecipeError("is for manifests; mark segments as unusable on the page", field="exclude")
    found.scored = bool(jsons) and not found.by_model
    for row, segment in rows_of_json(jsons, options.language, reading.audio_root):
        found.rows.append(row)
        found.extras.append(segment)
        found.further.append({})
    if others:
        rows = read_rows("data", " + ".join(others), reading)
        require_expressible(others[0], rows, "--output")
        left_out = _left_out(rows, options)
        found.rows += [row for number, row in enumerate(rows) if number not in left_out]
        for number, (extra, further) in enumerate(further_of(rows)):
            if number in left_out:
                continue
            found.extras.append(extra)
            found.further.append(further)
        names = {kind.source.lower() for kind in rows.kinds}
        given_as = (kind for kind in FORMATS if kind not in ("txt", "tsv"))  # these are manifests, or whole recordings
        found.formats = [kind for kind in given_as if any(name.endswith(f".{ENDINGS[kind].lower()}") for name in names)]
    if jsons and "textgrid" not in found.formats:
        found.formats.append("textgrid")
    if not found.rows:
        raise RecipeError(f"{given[0]}: holds nothing to correct")
    return found


def _left_out(rows: Utterances, options: CorrectOptions) -> Container[int]:
    """The rows that `exclude` lists."""
    if options.reading.exclude is None:
        return ()
    marked = read_marked(options.reading.exclude)
    found = marked.reasons(rows)
    if (line := marked.unmatched()) is not None:
        console.print(line, style="yellow")
    return found


def _is_audio(path: Path) -> bool:
    """Whether this is a recording, or a folder with recordings and nothing else that could be read."""
    if not path.is_dir():
        return path.suffix.lower() in AUDIO_SUFFIXES
    endings = {entry.suffix.lower() for entry in files_below(path) if not entry.name.startswith(".")}
    return bool(endings) and endings <= set(AUDIO_SUFFIXES)


def _transcribed(audios: Sequence[str], options: CorrectOptions, folder: Path) -> list[Path]:
    """Transcripts of recordings by the model, which are kept, so that an interrupted command goes on.

    Those of each model, language and token are in a folder of their own in `folder`.
    """
    from whispertune.commands.transcribe import transcribe
    from whispertune.commands.transcribe_options import TranscribeOptions
    from whispertune.decoding.options import LongFormOptions

    asked_of = json.dumps([options.model, options.language, options.language_token])
    folder /= hashlib.sha256(asked_of.encode()).hexdigest()[:12]
    asked = TranscribeOptions(
        model=str(options.model),
        language=options.language,
        language_token=options.language_token,
        format="json",
        device=options.device,
        precision=options.precision,
        output=str(folder),
        windows=LongFormOptions(word_timestamps=True),
    )
    recordings = find_audio(audios)
    if failures := transcribe(recordings, asked, folder):
        of = counted(len(recordings), "recording")
        console.print(f"{failures} of {of} left out of the correction", style="yellow")
    return [path for name in output_names(recordings) if (path := folder / f"{name}.json").exists()]


def _require_distinct(segments: Sequence[Segment]) -> None:
    seen: set[str] = set()
    for segment in segments:
        if segment.id in seen:
            raise ManifestError(f"the id {segment.id!r} is repeated; correct these files one by one")
        seen.add(segment.id)


def _asked(
    rows: Sequence[Utterance], segments: Sequence[Segment], options: CorrectOptions
) -> tuple[list[Segment], list[float | None]]:
    """The segments with what the model transcribes, and its suspicions."""
    from whispertune.correct.doubts import with_doubts  # here, as these import PyTorch
    from whispertune.dataset.transcripts import TextSettings
    from whispertune.decoding.loading import load_to_decode
    from whispertune.system.precision import resolve_device

    ready = load_to_decode(str(options.model), resolve_device(options.device), options.precision)
    text = TextSettings(ready.tokenizer, options.language, "transcribe", language_token=options.language_token)
    with progress_bar("asking the model", len(rows)) as advance:
        return with_doubts(ready, rows, segments, text, workers=options.reading.workers, advance=advance)


def _require_same(given: Sequence[str], options: CorrectOptions, correction: Correction) -> None:
    """Refuse to go on with a correction of something else.

    Raises:
        RecipeError: with what it is of.
    """
    known = correction.facts["sources"]
    if given and list(given) != known:
        raise RecipeError(
            f"{correction.folder} holds a correction of {', '.join(known)}; name another --output, or leave the files "
            "out to go on with that one"
        )
    if options.model is not None and options.model != correction.facts["model"]:
        before = correction.facts["model"] or "no model"
        raise RecipeError(f"is {options.model}, but the order was made with {before}; leave it out", field="model")


def _serve(correction: Correction, options: CorrectOptions) -> int:
    facts = correction.facts
    only_done = options.keep == "done" or (options.keep == "auto" and facts["by_model"])
    formats = facts["formats"] if options.formats is None else options.formats
    saver = Saver(correction, only_done=only_done, formats=formats)
    next_step = _next_step(correction, options)

    def save() -> Mapping[str, Any]:
        rows, seconds, transcripts = saver.everything()
        return {
            "rows": rows,
            "seconds": round(seconds, 1),
            "manifest": str(correction.folder / MANIFEST),
            "transcripts": len(transcripts),
            "command": next_step,
        }

    snapshots = Snapshots(saver.manifest)
    app = application(correction, save, snapshots.changed, lambda: snapshots.fault)
    listening = listening_socket(options.port)
    with suppress(KeyboardInterrupt):
        serve(app, secrets.token_urlsafe(24), listening, _announcer(correction, options))
    snapshots.close()
    saved = save()
    counts = correction.session.counts
    done = len(correction.session.segments) - counts["todo"]
    results.print(
        printable(
            f"{done} of {len(correction.session.segments)} looked at: {counts['done']} done, {counts['skip']} skipped, "
            f"{counts['unusable']} unusable"
        )
    )
    results.print(
        printable(
            f"manifest: {saved['manifest']}, {counted(saved['rows'], 'segment')}, {saved['seconds'] / 60:.1f} minutes"
        )
    )
    results.print(printable(f"to go on: {shlex.join(['whispertune', 'correct', '--output', str(correction.folder)])}"))
    if saved["rows"]:
        results.print(printable(f"next:  {next_step}"))
    return 0


def _announcer(correction: Correction, options: CorrectOptions) -> Callable[[str], None]:
    def announce(address: str) -> None:
        counts = correction.session.counts
        results.print(printable(f"{counted(len(correction.session.segments), 'segment')}, {counts['todo']:,} to do"))
        results.print(printable(f"page: {address}"))
        console.print("Ctrl+C ends it; nothing is lost")
        if options.open:
            webbrowser.open(address)

    return announce


def _next_step(correction: Correction, options: CorrectOptions) -> str:
    """The command that trains on the manifest or, without validation data, the one that divides it."""
    facts, manifest = correction.facts, str(correction.folder / MANIFEST)
    spoken = options.language or facts["language"]
    token = options.language_token or facts["language_token"]
    language = [] if spoken is None else ["--language", spoken]
    language += [] if token is None else ["--language_token", token]
    if options.valid is not None:
        sources = {"train": [manifest], "valid": [options.valid]}
        command = training_command(sources, facts["model"] or USUAL_MODEL, language, AS_USUAL)
        assert command is not None
        return command
    return splitting_command([manifest], language, AS_USUAL)
