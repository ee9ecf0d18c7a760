"""What lies in a folder: recordings, transcripts, tables. Only headers and first rows are read, and some of many."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath

from whispertune.data.audio.waveforms import num_channels, probe_audio
from whispertune.data.audio_files import AUDIO_SUFFIXES
from whispertune.data.readers.eaf import media_names, read_eaf
from whispertune.data.readers.manifest import is_manifest, manifest_rows
from whispertune.data.readers.textgrid import read_textgrid
from whispertune.data.readers.tiers import Tier
from whispertune.data.readers.transcript_folder import LABELS, LANGUAGE, TIERS, TIMED
from whispertune.data.rows import Row
from whispertune.data.text_files import read_bytes
from whispertune.errors import AudioError, ManifestError

MOST_FILES = 200_000
"""Files listed; of a larger folder the first that are found."""
MOST_HEADERS = 200
MOST_TABLES = 40
MOST_ANNOTATIONS = 40
FIRST_ROWS = 20
USUAL_TIERS = (
    "utt",
    "utterance",
    "utterances",
    "sentence",
    "sentences",
    "transcript",
    "transcription",
    "text",
    "ort",
    "phrase",
)
"""Names that tiers with whole utterances often have."""


@dataclass(slots=True)
class Table:
    """A CSV, TSV or JSONL. columns: of its first row; num_rows: lines; fault: why it is no manifest, if it is none.

    audio_root: the folder that its audio paths are relative to, if it is not the table's own. is_missing: whether its
    first recordings cannot be found at all. languages: those that its first rows name.
    """

    path: Path
    columns: list[str] = field(default_factory=list)
    num_rows: int = 0
    fault: str = ""
    audio_root: Path | None = None
    is_missing: bool = False
    languages: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Survey:
    """What lies in a folder. Paths are below it.

    transcripts: those with times and plain texts that have the name of a recording beside them; timed: how many of each
    ending. apart: those with times in another folder than a recording. untranscribed: number of recordings without any.
    languages: in names of transcripts, as in talk.it.srt.
    """

    folder: Path
    num_files: int = 0
    is_cut: bool = False
    recordings: list[Path] = field(default_factory=list)
    transcripts: list[Path] = field(default_factory=list)
    timed: Counter[str] = field(default_factory=Counter)
    apart: list[Path] = field(default_factory=list)
    untranscribed: int = 0
    languages: set[str] = field(default_factory=set)
    tables: list[Table] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Headers:
    """Headers of recordings. num_read: how many were read; seconds: of these; faults: of those that cannot be read."""

    num_read: int = 0
    seconds: float = 0.0
    rates: Counter[int] = field(default_factory=Counter)
    channels: Counter[int] = field(default_factory=Counter)
    longest: float = 0.0
    faults: list[str] = field(default_factory=list)


def survey(folder: Path) -> Survey:
    """List a folder and look at its tables."""
    found = Survey(folder)
    tables: list[Path] = []
    texts: list[Path] = []
    for path in islice(_files(folder), MOST_FILES + 1):
        found.num_files += 1
        ending = path.suffix.lower()
        if ending in AUDIO_SUFFIXES:
            found.recordings.append(path)
        elif ending in (*TIMED, ".txt"):
            texts.append(path)
        elif is_manifest(path) and ending != ".json":
            tables.append(path)
        else:
            found.others[ending] += 1
    found.is_cut = found.num_files > MOST_FILES
    _match(found, texts)
    tables.sort(key=lambda path: (len(path.parts), path))
    found.tables = [_table(path, found.recordings) for path in tables[:MOST_TABLES]]
    return found


def read_some_headers(recordings: Sequence[Path]) -> Headers:
    """The headers of at most 200 recordings, evenly chosen."""
    headers = Headers()
    number = min(len(recordings), MOST_HEADERS)
    for place in range(number):
        path = recordings[place * len(recordings) // number]
        try:
            num_frames, rate = probe_audio(path)
            headers.channels[num_channels(path)] += 1
        except AudioError as error:
            headers.faults.append(str(error))
            continue
        headers.num_read += 1
        headers.rates[rate] += 1
        headers.seconds += num_frames / rate
        headers.longest = max(headers.longest, num_frames / rate)
    return headers


def matching_folders(found: Survey) -> tuple[Path, Path] | None:
    """The folder of transcripts and that of recordings, where both are alike: texts/day 1/a.srt, sound/day 1/a.wav."""
    if not found.apart or not found.recordings:
        return None
    folders = [Path(os.path.commonpath([path.parent for path in paths])) for paths in (found.apart, found.recordings)]
    texts, sounds = (
        {path.relative_to(folder).with_suffix("") for path in paths}
        for folder, paths in zip(folders, (found.apart, found.recordings), strict=True)
    )
    return (folders[0], folders[1]) if texts & sounds else None


def tier_choice(transcripts: Sequence[Path]) -> tuple[Counter[str], str | None]:
    """How many of these annotations have each tier with text; and what to choose, if some have several.

    A guess: tiers with a usual name, then those with the longest texts; `*@utt` where speakers have tiers of their own.
    """
    counts: Counter[str] = Counter()
    needed: list[list[str]] = []
    several = False
    for path in [path for path in transcripts if path.suffix.lower() in TIERS][:MOST_ANNOTATIONS]:
        try:
            read = read_eaf if path.suffix.lower() == ".eaf" else read_textgrid
            tiers = [tier for tier in read(str(path), read_bytes(path)) if any(s.text.strip() for s in tier.spans)]
        except ManifestError:  # `check` will report it
            continue
        counts.update(tier.name for tier in tiers)
        several |= len(tiers) > 1
        if tiers:
            needed.append([_pattern(tier.name, tiers) for tier in sorted(tiers, key=_rank)])
    chosen: list[str] = []
    for names in needed:
        if not any(name in chosen for name in names):
            chosen.append(names[0])
    return counts, ";".join(chosen) if several else None


def _files(folder: Path) -> Iterator[Path]:
    """Files below a folder, without hidden ones."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(names) if not name.startswith("."))


def _match(found: Survey, texts: Sequence[Path]) -> None:
    """Find out which recordings have a transcript of the same name."""
    stems = {str(path.with_suffix("")) for path in found.recordings}
    done: set[str] = set()
    for path in texts:
        ending = LABELS if path.name.lower().endswith(LABELS) else path.suffix.lower()
        stem = str(path)[: -len(ending)]
        base, dot, language = stem.rpartition(".")
        if stem not in stems and dot and base in stems and LANGUAGE.fullmatch(language):
            found.languages.add(language)
            stem = base
        if stem not in stems and ending == ".eaf" and len(done) < MOST_ANNOTATIONS:  # it may name its recording
            named = (str(path.with_name(name).with_suffix("")) for name in media_names(read_bytes(path)))
            stem = next((name for name in named if name in stems), stem)
        if stem in stems:
            done.add(stem)
            found.transcripts.append(path)
            found.timed[ending] += 1
        elif ending == ".txt":
            found.others[ending] += 1
        else:
            found.apart.append(path)
    found.untranscribed = sum(str(path.with_suffix("")) not in done for path in found.recordings)


def _table(path: Path, recordings: Sequence[Path]) -> Table:
    table = Table(path)
    try:
        rows = list(islice(manifest_rows(path, lambda _: None, lenient=True), FIRST_ROWS))
        table.columns = list(rows[0].record) if rows else []
        names = [name for row in rows if (name := row.string(row.columns.audio))] if rows else []
        if not names:
            table.fault = "no rows with audio"
            return table
        table.languages = {language for row in rows if (language := row.string(row.columns.language))}
        if not all(row.string(row.columns.language) for row in rows):
            table.languages = set()
        with path.open("rb") as file:
            table.num_rows = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
        table.num_rows -= path.suffix.lower() in (".csv", ".tsv")
        _find_audio(table, rows, names, recordings)
    except ManifestError as error:
        table.fault = error.problem
    except (OSError, EOFError) as error:
        table.fault = str(error)
    return table


def _find_audio(table: Table, rows: Sequence[Row], names: Sequence[str], recordings: Sequence[Path]) -> None:
    """Find out where the audio of the first rows lies."""
    name = names[0].replace("\\", "/")
    here = table.path.absolute().parent
    if any((base / name).exists() for base in (here, here / "clips")):
        return
    table.is_missing = True
    for path in recordings:
        whole = str(PurePosixPath(path.absolute()))
        if whole.endswith(f"/{name}"):
            table.audio_root, table.is_missing = Path(whole[: -len(name) - 1]), False
            return


def _rank(tier: Tier) -> tuple[bool, float]:
    texts = [span.text.strip() for span in tier.spans if span.text.strip()]
    words = tier.name.lower().replace("_", " ").replace("-", " ").replace("@", " ").split()
    return not any(word in USUAL_TIERS for word in words), -sum(map(len, texts)) / max(1, len(texts))


def _pattern(name: str, tiers: Sequence[Tier]) -> str:
    """`*@utt` for Anna@utt beside Bruno@utt, `utt@*` for the other way round; else the name itself."""
    first, at, last = name.partition("@")
    if at and sum(tier.name.endswith(at + last) for tier in tiers) > 1:
        return f"*{at}{last}"
    if at and sum(tier.name.startswith(first + at) for tier in tiers) > 1:
        return f"{first}{at}*"
    return name
