"""Read the utterances of a field such as --train: one corpus or several, each in any supported format.

    read_utterances("train", "cv-corpus/it + calls.csv [language=it weight=2]")

Several are joined by ` + ` (with spaces). `[key=value …]` after one sets its language, its weight in training, its
split, the number of its first rows to use (Hub only), or how it is read (`audio_root`, `columns`, `tier`, `speaker`).
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from whispertune.data.index import index_rows, indexed_rows, rows_key
from whispertune.data.readers.arrow_folder import add_arrow_folder, is_arrow_folder
from whispertune.data.readers.audiofolder import add_audiofolder, is_audiofolder
from whispertune.data.readers.common_voice import add_common_voice, is_common_voice, languages_in
from whispertune.data.readers.hub_data import PREFIX, add_hub_data
from whispertune.data.readers.kaldi import add_kaldi, is_kaldi
from whispertune.data.readers.lhotse_cuts import CUTS, add_cuts
from whispertune.data.readers.librispeech import add_librispeech, transcripts_in
from whispertune.data.readers.manifest import JSON_LINES, add_manifest, ending_of, is_manifest, require_unique_ids
from whispertune.data.readers.tables import DELIMITERS
from whispertune.data.readers.tar_shards import add_shard, expand_shards
from whispertune.data.readers.transcript_folder import (
    TIMED,
    add_transcript,
    add_transcript_folder,
    holds_transcripts,
    is_transcript,
    recordings_in,
)
from whispertune.data.reading import AS_USUAL, Named, Reading, parse_columns
from whispertune.data.remote import as_path, content_sha256, is_remote
from whispertune.data.rows import exists
from whispertune.data.split_names import require_no_split
from whispertune.data.text_files import require_readable
from whispertune.data.utterances import Utterances
from whispertune.errors import DataError, ManifestError

OPTIONS = re.compile(r"(.*\S)\s*\[([^\[\]]*=[^\[\]]*)\]\s*")

MOST_LINE_BYTES = 1 << 20
KEYS = ("split", "language", "weight", "first", "audio_root", "columns", "tier", "speaker")
WITH_SPACES = ("audio_root", "tier", "speaker")
"""Options whose values may hold spaces."""


@dataclass(frozen=True, slots=True)
class Source:
    """One corpus: its location and options."""

    path: str
    split: str | None = None
    language: str | None = None
    weight: float = 1.0
    first: int | None = None
    audio_root: str | None = None
    columns: Named | None = None
    tier: str | None = None
    speaker: str | None = None

    def reading(self, usual: Reading) -> Reading:
        """Its own reading options, else the usual ones."""
        columns = usual.columns if self.columns is None else self.columns
        return Reading(columns, self.audio_root or usual.audio_root, self.tier, self.speaker)


def parse_sources(described: str) -> list[Source]:
    """Parse the sources of a field such as --train.

    Raises:
        ManifestError: for an empty source, or an option that is unknown or has a bad value.
    """
    if exists(described):
        return [Source(described)]
    return [_parse_source(part.strip(), described) for part in described.split(" + ")]


def _parse_source(part: str, described: str) -> Source:
    if not part:
        raise ManifestError(f"{described!r}: a source is empty; join sources as 'A + B'")
    match = OPTIONS.fullmatch(part)
    if match is None:
        return Source(part)
    options = re.split(r"[\s,]+(?=\w+=)", match[2].strip())
    path, given = match[1], dict(option.partition("=")[::2] for option in options)
    for name, value in list(given.items()):
        if name not in WITH_SPACES and (further := re.split(r"[\s,]+", value.strip(" ,"))[1:]):
            raise ManifestError(f"{part}: unknown option {further[0]!r}; choose from {', '.join(KEYS)}")
        given[name] = value = value.strip(" ,")
        if name not in KEYS:
            raise ManifestError(f"{part}: unknown option {name!r}; choose from {', '.join(KEYS)}")
        if not value:
            raise ManifestError(f"{part}: {name} has no value; write it as {name}=…")
    weight, first = given.get("weight", "1"), given.get("first")
    if not re.fullmatch(r"[0-9]*\.?[0-9]+", weight) or not 0 < float(weight) <= 1e6:
        raise ManifestError(f"{part}: weight is {weight}; it must be a number above 0, such as 2 or 0.5")
    if first is not None and (not re.fullmatch("[0-9]{1,9}", first) or int(first) < 1):
        raise ManifestError(f"{part}: first is {first}; it must be a number of rows")
    if first is not None and not path.startswith(PREFIX):
        raise ManifestError(f"{part}: first is for {PREFIX} data sets; cut other manifests yourself")
    return Source(
        path,
        given.get("split"),
        given.get("language"),
        float(weight),
        None if first is None else int(first),
        given.get("audio_root"),
        parse_columns(given["columns"]) if "columns" in given else None,
        given.get("tier"),
        given.get("speaker"),
    )


def read_utterances(
    name: str, described: str, reading: Reading = AS_USUAL, *, faults: list[ManifestError] | None = None
) -> Utterances:
    """The utterances of a run's split (train, valid or test; data: of the only split).

    With several sources, ids are prefixed with the source's name. Audio files are not opened.

    faults: if given, faulty rows are skipped and their faults appended here instead of raised, and ids may repeat.

    Raises:
        ManifestError: in one line that names file, row, field and remedy.
    """
    sources = parse_sources(described)
    files = _indexed_files(sources)
    key = None
    if files:
        key = rows_key(f"{described}\0{reading}", files)
    utterances = None if key is None else indexed_rows(key)
    if utterances is None:
        utterances = _read_sources(name, sources, reading, faults)
        clean = faults is None or (not faults and utterances.repeated_id() is None)
        # Whether the files were left alone while they were read.
        unchanged = key is not None and key == rows_key(f"{described}\0{reading}", files)
        if key is not None and clean and unchanged and not utterances.follows_from_files:
            index_rows(key, utterances, few_too=utterances.inside_archives)
    utterances.readings = {source.path: source.reading(reading) for source in sources}
    utterances.fingerprint = _fingerprint(sources, utterances)
    return utterances


def _indexed_files(sources: list[Source]) -> list[Path]:
    """The manifests or remote shards, whose rows are worth an index; none if there is anything else among them."""
    files: list[Path] = []
    for source in sources:
        path = as_path(source.path)
        if source.split is not None:  # a manifest is then refused, cached or not
            return []
        if is_remote(source.path) and path.suffix == ".tar":
            files += expand_shards(source.path)
        elif _is_file(path) and is_manifest(path) and not holds_cuts(path):
            files.append(path)
        else:
            return []
    return files


def reading_of(utterances: Utterances, manifest: Path) -> Reading:
    """The reading options of a manifest that these utterances come from."""
    inside = (str(path) for path in (manifest, *manifest.parents))
    return next((utterances.readings[path] for path in inside if path in utterances.readings), AS_USUAL)


def read_rows(
    name: str, manifest: Path | str, reading: Reading = AS_USUAL, *, faults: list[ManifestError] | None = None
) -> Utterances:
    """As `read_utterances`, but an error if there are no utterances.

    faults: as in `read_utterances`.

    Raises:
        ManifestError: if a corpus can't be used.
        DataError: if it has no rows.
    """
    utterances = read_utterances(name, str(manifest), reading, faults=faults)
    if not utterances and not faults:
        found = "no rows under the header" if is_manifest(as_path(manifest)) else "no utterances in it"
        raise DataError(f"{manifest}: {found}; at least one utterance is needed")
    return utterances


def _read_sources(name: str, sources: list[Source], reading: Reading, faults: list[ManifestError] | None) -> Utterances:
    utterances = Utterances(faults=faults)
    taken: set[str] = set()
    for number, source in enumerate(sources):
        label = Path(source.path).name if source.split is None else f"{Path(source.path).name}-{source.split}"
        label = f"{label}-{number + 1}" if label in taken else label
        taken.add(label)
        prefix = f"{label}/" if len(sources) > 1 else ""
        utterances.begin_source(prefix=prefix, language=source.language, weight=source.weight)
        _add_source(source, name, utterances, source.reading(reading))
    if faults is None:
        require_unique_ids(utterances)
    return utterances


def require_sources(field: str, described: str) -> None:
    """Check that a field's files exist, before anything expensive.

    Raises:
        ManifestError: naming the field and the file.
    """
    for source in parse_sources(described):
        if source.weight != 1 and field != "train":
            raise ManifestError(f"--{field} {described}: a weight only applies to --train; remove it")
        if source.path.startswith(PREFIX):
            continue
        paths = expand_shards(source.path)
        for path in paths[:1] if is_remote(source.path) else paths:  # a request each; the others as they are read
            if not exists(str(path)):
                raise ManifestError(f"--{field} {path}: no such file; check the path")


def _add_source(source: Source, name: str, utterances: Utterances, reading: Reading) -> None:
    asked = source.split
    if source.path.startswith(PREFIX):
        add_hub_data(source.path, name, utterances, reading, asked=asked, first=source.first)
        return
    paths = expand_shards(source.path)
    for path in paths:
        if not is_remote(source.path) and not exists(str(path)):
            require_readable(path)  # says why not
        is_shard = len(paths) > 1 or path.name.lower().endswith((".tar", ".tar.gz", ".tgz"))
        if not is_shard and path.is_dir():
            _add_folder(path, name, asked, utterances, reading)
            continue
        require_no_split(path, asked)
        if not is_transcript(path):
            reading.require_no_tiers(path)
        if is_shard:
            add_shard(path, utterances, reading)
        elif holds_cuts(path):
            add_cuts(path, utterances, reading)
        elif is_transcript(path):
            add_transcript(path, utterances, reading)
        elif not is_manifest(path):
            endings = ", ".join((*DELIMITERS, *JSON_LINES))
            raise ManifestError(
                f"{path}: unknown ending {path.suffix.lower()!r}; a manifest is one of {endings}, a transcript with "
                f"times one of {', '.join(TIMED)} or Audacity's labels (.txt), shards are .tar"
            )
        else:
            add_manifest(path, utterances, reading)


def _add_folder(path: Path, name: str, asked: str | None, utterances: Utterances, reading: Reading) -> None:
    if not holds_transcripts(path):
        reading.require_no_tiers(path)
    if is_remote(str(path)):
        problem = "is a remote folder; give the manifest in it, or its shards, as {000..010}.tar"
        raise ManifestError(f"{path}: {problem}")
    if is_arrow_folder(path):
        add_arrow_folder(path, name, utterances, reading, asked=asked)
    elif is_kaldi(path):
        require_no_split(path, asked)
        add_kaldi(path, utterances, reading)
    elif is_common_voice(path):
        add_common_voice(path, asked or name, utterances, reading)
    elif is_audiofolder(path):
        add_audiofolder(path, name, utterances, reading, asked=asked)
    elif shards := sorted(path.glob("*.tar")):
        require_no_split(path, asked)
        for shard in shards:
            add_shard(shard, utterances, reading)
    elif next(transcripts_in(path), None) is not None:
        add_librispeech(path, utterances, reading, asked=asked)
    elif languages := languages_in(path):
        named = str(languages[0]) + (f" (one of {len(languages)})" if languages[1:] else "")
        raise ManifestError(f"{path}: is a whole Common Voice release; give the folder of one language: {named}")
    elif next(recordings_in(path), None) is not None or (reading.audio_root and holds_transcripts(path)):
        require_no_split(path, asked)
        add_transcript_folder(path, utterances, reading)
    else:
        raise ManifestError(
            f"{path}: is a folder without a corpus of a supported format (Common Voice's *.tsv with clips/, "
            "*.trans.txt, metadata.csv, a saved data set, wav.scp, *.tar, recordings beside .txt, .srt, .vtt, "
            ".TextGrid or .eaf); "
            "give a manifest file"
        )


def holds_cuts(path: Path) -> bool:
    """Whether the first line of a JSONL file is a lhotse cut."""
    if ending_of(path) not in JSON_LINES or not _is_file(path):
        return False
    try:
        with path.open("rb") as raw, gzip.open(raw) if path.suffix.lower() == ".gz" else raw as file:
            record = json.loads(file.readline(MOST_LINE_BYTES))
    except (OSError, EOFError, ValueError, RecursionError, zlib.error):  # the manifest's reader will report it
        return False
    return isinstance(record, dict) and ("supervisions" in record or record.get("type") in CUTS)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # the name is too long; its reader will report it
        return False


def _fingerprint(sources: list[Source], utterances: Utterances) -> str:
    """sha256 of the manifest or, for several files, of everything that was read."""
    path = as_path(sources[0].path)
    if len(sources) == 1 and _is_file(path) and is_manifest(path):
        return content_sha256(path)
    return utterances.digest()
