"""The splits of sources: their names, and sources written out with the split that a field means."""

from __future__ import annotations

from pathlib import Path

from whispertune.data.readers import arrow_folder, audiofolder, common_voice, hub_data
from whispertune.data.readers.kaldi import is_kaldi
from whispertune.data.reading import Reading
from whispertune.data.rows import exists
from whispertune.data.sources import Source, parse_sources
from whispertune.data.split_names import NAMES, choose_split


def splits_of(source: Source) -> list[str]:
    """The names of a source's splits; empty if it has none or one is already chosen.

    Raises:
        ManifestError: if the corpus cannot be read.
    """
    if source.split is not None:
        return []
    if source.path.startswith(hub_data.PREFIX):
        return hub_data.splits_of(source.path)
    folder = Path(source.path)
    if not exists(source.path) or not folder.is_dir():
        return []
    if arrow_folder.is_arrow_folder(folder):
        return arrow_folder.splits_of(folder)
    if is_kaldi(folder):
        return []
    if common_voice.is_common_voice(folder):
        return common_voice.splits_of(folder)
    return audiofolder.splits_of(folder)


def every_split(described: str) -> list[tuple[str, str]]:
    """(part of a run, source) for the splits of a corpus that are its train, valid and test.

    If it has none of these, all its splits with "" as their part; empty if `described` is not one corpus with splits.

    Raises:
        ManifestError: as above.
    """
    sources = parse_sources(described)
    there = splits_of(sources[0]) if len(sources) == 1 else []
    parts = {part: next((name for name in names if name in there), None) for part, names in NAMES.items()}
    chosen = [(part, name) for part, name in parts.items() if name is not None]
    return [(part, spelled(sources[0], split=name)) for part, name in chosen or [("", name) for name in there]]


def as_data(described: str, part: str) -> str:
    """`described` with its splits as train, valid or test spelled out, for --data; training-only options are dropped.

    Raises:
        ManifestError: as above.
    """
    sources = parse_sources(described)
    there = [splits_of(source) for source in sources]
    return " + ".join(
        spelled(source, split=choose_split(source.path, part, names) if names else source.split)
        for source, names in zip(sources, there, strict=True)
    )


def spelled(source: Source, *, split: str | None) -> str:
    """The source with this split, as the user would write it, without its weight."""
    columns = None if source.columns is None else ";".join("=".join(pair) for pair in source.columns)
    options = {
        "split": split, "language": source.language, "first": source.first, "audio_root": source.audio_root,
        "columns": columns, "tier": source.tier, "speaker": source.speaker,
    }  # fmt: skip
    given = " ".join(f"{name}={value}" for name, value in options.items() if value is not None)
    return f"{source.path} [{given}]" if given else source.path


def as_flags(reading: Reading) -> list[str]:
    """Reading options as command-line flags."""
    columns = ",".join("=".join(pair) for pair in reading.columns)
    flags = {"--columns": columns, "--audio_root": reading.audio_root}
    return [part for name, value in flags.items() if value for part in (name, value)]
