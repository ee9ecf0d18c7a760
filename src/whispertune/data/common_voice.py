"""A Common Voice release: a folder a language, with a TSV a split and the recordings in clips/."""

from __future__ import annotations

from pathlib import Path

from whispertune.data.manifest import add_manifest
from whispertune.data.split_names import choose_split
from whispertune.data.utterances import Utterances

SPLITS = ("train", "dev", "test", "validated", "invalidated", "other")


def is_common_voice(folder: Path) -> bool:
    """Whether the folder holds a release: clips/ and the TSV of a split."""
    return (folder / "clips").is_dir() and any((folder / f"{split}.tsv").is_file() for split in SPLITS)


def add_common_voice(folder: Path, split: str, utterances: Utterances) -> None:
    """Add one split: train is train.tsv, valid dev.tsv, test test.tsv; any other TSV by its own name.

    Raises:
        ManifestError: if there is no such TSV, or a row of it is at fault.
    """
    there = [path.stem for path in sorted(folder.glob("*.tsv"))]
    add_manifest(folder / f"{choose_split(folder, split, there)}.tsv", utterances)
