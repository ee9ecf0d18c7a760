"""whispertune init: what lies in a folder, and what to do with it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from whispertune.check.figures import as_duration, as_rate
from whispertune.check.findings import guessed_role
from whispertune.commands.init_options import InitOptions
from whispertune.data.readers.arrow_folder import is_arrow_folder
from whispertune.data.readers.audiofolder import is_audiofolder
from whispertune.data.readers.common_voice import is_common_voice, languages_in
from whispertune.data.readers.kaldi import is_kaldi
from whispertune.data.readers.librispeech import transcripts_in
from whispertune.data.reading import Reading
from whispertune.data.splits_of_sources import as_data, as_flags, every_split
from whispertune.data.survey import Headers, Survey, Table, matching_folders, read_some_headers, survey, tier_choice
from whispertune.errors import ManifestError, RecipeError, one_line
from whispertune.run.flags import parse_fields, split_arguments
from whispertune.run.next_step import training_command
from whispertune.run.undivided import splitting_command
from whispertune.system.console import results
from whispertune.system.counts import counted
from whispertune.text.languages import LANGUAGES, language_name, spoken_language

MODEL = "openai/whisper-base"
MOST_SHOWN = 8
"""Most tables, tiers and the like that are named."""


@dataclass(slots=True)
class Corpus:
    """What a folder could be. what: in words; sources: of train, valid and test, or of "" where they are not divided.

    reading: how it is read. names_language: whether its rows do. few: whether it has fewer than three recordings.
    """

    what: str
    sources: dict[str, list[str]]
    reading: Reading = field(default_factory=Reading)
    names_language: bool = False
    few: bool = False


def main(arguments: Sequence[str]) -> int:
    """Run the command line `whispertune init ARGUMENTS`."""
    given, flags = split_arguments(arguments)
    options = parse_fields(InitOptions, {}, flags, command="init")
    if len(given) != 1:
        raise RecipeError("name one folder: whispertune init FOLDER")
    folder = Path(given[0])
    if folder.is_file():
        raise ManifestError(f"{folder}: is a file; name the folder that it lies in")
    if not folder.is_dir():
        raise ManifestError(f"{folder}: no such folder; check the path")
    if options.language is not None:
        spoken_language(options.language, options.language_token)  # raises if this is no language
    found = survey(folder)
    headers = read_some_headers(found.recordings)
    tiers, choice = tier_choice(found.transcripts or found.apart)
    for line in described(found, headers, tiers):
        results.print(one_line(line))
    corpus = recognised(found, choice)
    if corpus is None and not found.recordings:
        raise ManifestError(
            f"{folder}: neither recordings nor a corpus in it; give a folder with wav, flac, mp3, … files, with a CSV, "
            "TSV or JSONL of their texts, or with subtitles, TextGrid or eaf files beside them"
        )
    language = options.language
    if language is None and not (corpus and corpus.names_language):
        language = guessed_language(found)
        if language is not None:
            results.print(f"language    {language_name(language)}, guessed from names; if it is another: --language L")
    named = [] if language is None else ["--language", language]
    if options.language_token is not None:
        named += ["--language_token", options.language_token]
    for line in next_steps(found, corpus, named):
        results.print(one_line(line))
    return 0


def described(found: Survey, headers: Headers, tiers: dict[str, int]) -> Iterator[str]:
    """What lies in the folder, a line for each kind."""
    cut = f" (the first {found.num_files - 1:,} are looked at)" if found.is_cut else ""
    yield f"{found.folder}: {counted(found.num_files, 'file')}{cut}"
    if found.recordings:
        endings = ", ".join(dict.fromkeys(path.suffix.lower().lstrip(".") for path in found.recordings))
        all_read = headers.num_read == len(found.recordings)
        seconds = headers.seconds * (1 if all_read else len(found.recordings) / max(1, headers.num_read))
        rates = ", ".join(as_rate(rate) for rate, _ in headers.rates.most_common(4))
        channels = ", ".join(
            {1: "mono", 2: "stereo"}.get(n, f"{n} channels") for n, _ in headers.channels.most_common(3)
        )
        yield (
            f"recordings  {len(found.recordings):,} ({endings}), {'' if all_read else 'about '}{as_duration(seconds)}, "
            f"the longest {as_duration(headers.longest)}; {rates}; {channels}"
        )
        if headers.faults:
            yield f"            {len(headers.faults)} of those looked at cannot be read: {headers.faults[0]}"
    for table in found.tables[:MOST_SHOWN]:
        name = table.path.relative_to(found.folder)
        rows = table.fault or f"{counted(table.num_rows, 'row')}: {', '.join(table.columns[:MOST_SHOWN])}"
        where = f"; its recordings lie in {table.audio_root}" if table.audio_root else ""
        yield f"table       {name}, {rows}{'; its recordings are missing' if table.is_missing else where}"
    if len(found.tables) > MOST_SHOWN:
        yield f"            and {counted(len(found.tables) - MOST_SHOWN, 'more table')}"
    if found.transcripts:
        kinds = ", ".join(f"{count:,} {ending.lstrip('.')}" for ending, count in found.timed.most_common())
        rest = f"; {counted(found.untranscribed, 'recording')} without" if found.untranscribed else ""
        yield f"transcripts {kinds}{rest}"
    elif found.apart:
        kinds = ", ".join(dict.fromkeys(path.suffix for path in found.apart))
        yield f"transcripts {len(found.apart):,} ({kinds}), none beside a recording of its name"
    if tiers:
        shown = ", ".join(f"{name} (in {count})" for name, count in list(tiers.items())[:MOST_SHOWN])
        yield f"tiers       {shown}{f' and {len(tiers) - MOST_SHOWN} more' if len(tiers) > MOST_SHOWN else ''}"


def recognised(found: Survey, tiers: str | None) -> Corpus | None:
    """What the folder could be; None if nothing that could be trained on is in it."""
    folder, path = found.folder, str(found.folder)
    few = len(found.recordings) < 3
    for test, what in (
        (is_arrow_folder, "a data set saved by `datasets`"),
        (is_kaldi, "a Kaldi data folder"),
        (is_common_voice, "a language of Common Voice"),
        (is_audiofolder, "an audiofolder of Hugging Face"),
    ):
        if test(folder):
            split = {part: [source] for part, source in every_split(path) if part}
            language = _language_in(folder) if test is is_common_voice else False
            return Corpus(what, split if {"train", "valid"} <= split.keys() else {"": [path]}, names_language=language)
    if next(folder.glob("*.tar"), None):
        return Corpus("WebDataset shards", {"": [path]})
    if next(transcripts_in(folder), None):
        return Corpus("a part of LibriSpeech, or a corpus in its format", {"": [path]})
    if languages := languages_in(folder):
        return Corpus("a release of Common Voice; this is about its first language",
                      {part: [source] for part, source in every_split(str(languages[0]))})  # fmt: skip
    usable = [table for table in found.tables if not table.fault and not table.is_missing]
    if usable:
        return _of_tables(usable, few)
    if not found.transcripts and (folders := matching_folders(found)) is not None:
        texts, sounds = map(str, folders)
        source = f"{texts} [tier={tiers}]" if tiers else texts
        return Corpus(
            "recordings, and transcripts in another folder", {"": [source]}, Reading(audio_root=sounds), few=few
        )
    if found.transcripts:
        # With a folder of recordings named, those without a transcript are no error.
        reading = Reading(audio_root=path if found.untranscribed else None)
        what = "recordings with transcripts beside them"
        if found.untranscribed:
            what = (
                "recordings, some of them with a transcript beside them; the model that is trained on these can "
                "transcribe the others"
            )
        return Corpus(
            what, {"": [f"{path} [tier={tiers}]" if tiers else path]}, reading, few=len(found.transcripts) < 3
        )
    return None


def _language_in(folder: Path) -> bool:
    """Whether the rows of a Common Voice folder name their language."""
    with next(folder.glob("*.tsv")).open("rb") as file:
        return b"\tlocale" in file.readline(1 << 16)


def _of_tables(tables: list[Table], few: bool) -> Corpus:
    """The first folder of tables with train and valid or, if there is none, what is not named after valid."""
    by_folder: dict[Path, dict[str, list[Table]]] = {}
    for table in tables:
        by_folder.setdefault(table.path.parent, {}).setdefault(guessed_role(table.path), []).append(table)
    divided = next(((folder, roles) for folder, roles in by_folder.items() if {"train", "valid"} <= roles.keys()), None)
    chosen: dict[str, list[Table]]
    if divided is not None:
        where, roles = divided
        what = "manifests that are divided already"
        if len(by_folder) > 1:
            what += f" (this is about {where} only; for the others, name their folders)"
        chosen = {role: roles[role][:1] for role in ("train", "valid", "test") if role in roles}
    else:
        chosen = {"": [table for table in tables if not guessed_role(table.path)] or tables}
        what = "a manifest that is not divided yet" if len(chosen[""]) == 1 else "manifests that are not divided yet"
    used = [table for those in chosen.values() for table in those]
    roots = {str(table.audio_root) for table in used if table.audio_root}
    reading = Reading(audio_root=roots.pop() if len(roots) == 1 else None)
    sources = {role: [str(table.path) for table in those] for role, those in chosen.items()}
    return Corpus(what, sources, reading, all(table.languages for table in used), few)


def guessed_language(found: Survey) -> str | None:
    """The only language that names of transcripts, or the folder's and the tables' own, mention."""
    if len(found.languages) == 1:
        try:
            return spoken_language(next(iter(found.languages)))
        except RecipeError:
            return None
    names = " ".join((found.folder.absolute().name, *(table.path.name for table in found.tables)))
    words = set(re.split(r"[\W\d_]+", names.lower()))
    codes = [code for code, name in LANGUAGES.items() if name.lower() in words]
    return codes[0] if len(codes) == 1 else None


def next_steps(found: Survey, corpus: Corpus | None, language: list[str]) -> Iterator[str]:
    """What the folder could be, and the next two commands."""
    if corpus is None:
        yield "This could be: recordings without any transcript. Transcribe them, correct that, and train on it."
        out = f"{found.folder.absolute().name}-transcripts"
        flags = ["--format", "textgrid,srt", *language, "--output", out]
        yield _next("transcribe", "--model", MODEL, str(found.folder), *flags)
        yield f"then correct {out}/*.TextGrid in Praat, or the .srt in any editor, and remove the other kind"
        page = shlex.join(["whispertune", "correct", "--model", MODEL, str(found.folder), *language])
        yield f"or do both on a page, the least certain first: {page}"
        yield _next("check", out, "--audio_root", str(found.folder), *language)
        return
    yield f"This could be: {corpus.what}."
    reading = as_flags(corpus.reading)
    files = [file for files in corpus.sources.values() for file in files]
    if "" in corpus.sources:
        yield _next("check", *files, *language, *reading)
        wishes = ["--by", "text"] if corpus.few else []
        yield f"next:  {splitting_command(files, language, corpus.reading, wishes)}"
        return
    named = [part for role, sources in corpus.sources.items() for part in (f"--{role}", as_data(sources[0], role))]
    yield _next("check", *named, *language, *reading)
    if not language and not corpus.names_language:
        yield f"to train, say which language is spoken: whispertune init {shlex.quote(str(found.folder))} --language L"
        return
    yield f"next:  {training_command(corpus.sources, MODEL, language, corpus.reading)}"


def _next(*words: str) -> str:
    return f"next:  {shlex.join(['whispertune', *words])}"
