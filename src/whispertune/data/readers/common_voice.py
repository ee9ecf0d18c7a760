"""A Common Voice release: a folder per language, with a TSV per split and the recordings in clips/."""

from __future__ import annotations

from pathlib import Path

from whispertune.data.readers.manifest import add_manifest
from whispertune.data.reading import AS_USUAL, Reading, choose_columns
from whispertune.data.split_names import choose_split
from whispertune.data.utterances import Utterances

MOST_HEADER_BYTES = 1 << 16
SPLITS = ("train", "dev", "test", "validated", "invalidated", "other")


def is_common_voice(folder: Path) -> bool:
    """Whether the folder is that of a language: it holds clips/ and the TSV of a split."""
    return (folder / "clips").is_dir() and any((folder / f"{split}.tsv").is_file() for split in SPLITS)


def languages_in(folder: Path) -> list[Path]:
    """The language folders of a whole release, sorted; empty if it is not a release."""
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and is_common_voice(path)]


def add_common_voice(folder: Path, split: str, utterances: Utterances, reading: Reading = AS_USUAL) -> None:
    """Add a split: train.tsv for train, dev.tsv for valid, test.tsv for test, or any other TSV by its own name.

    Raises:
        ManifestError: if there is no such TSV, or a row of it is invalid.
    """
    add_manifest(folder / f"{choose_split(folder, split, splits_of(folder))}.tsv", utterances, reading)


def splits_of(folder: Path) -> list[str]:
    """The splits of a release: its TSVs that list recordings with their sentences.

    That leaves out clip_durations.tsv, reported.tsv, validated_sentences.tsv and the like.
    """
    return [path.stem for path in sorted(folder.glob("*.tsv")) if path.stem in SPLITS or _is_split(path)]


def _is_split(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            names = file.readline(MOST_HEADER_BYTES).decode("utf-8", "replace").strip().split("\t")
    except OSError:
        return False
    columns = choose_columns(tuple(names))
    return columns.audio is not None and columns.text is not None
