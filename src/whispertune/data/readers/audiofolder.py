"""Hugging Face's audiofolder: metadata.csv or metadata.jsonl beside the recordings, in one folder or one per split."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from whispertune.data.readers.manifest import add_manifest, manifest_rows
from whispertune.data.reading import AS_USUAL, Reading
from whispertune.data.split_names import NAMES, choose_split, require_no_split
from whispertune.data.utterances import Utterances
from whispertune.errors import ManifestError

METADATA = ("metadata.csv", "metadata.jsonl")
SPLITS = tuple(name for names in NAMES.values() for name in names)


def is_audiofolder(folder: Path) -> bool:
    """Whether the folder, its data/ or a folder of either that is named like a split holds metadata."""
    return any(_metadata(place) for place in _places(folder))


def add_audiofolder(
    folder: Path, name: str, utterances: Utterances, reading: Reading = AS_USUAL, *, asked: str | None = None
) -> None:
    """Add the split `asked`, by default the `name` split, or everything if there are no splits.

    If there are folders named like splits, a row belongs to the one that holds its recording.

    Raises:
        ManifestError: if the split is missing, or a row is invalid.
    """
    root, splits, in_each = _layout(folder)
    if not splits:
        require_no_split(folder, asked)
        add_manifest(_only(root), utterances, reading)
    elif in_each:
        add_manifest(_only(root / choose_split(folder, asked or name, splits)), utterances, reading)
    else:
        _add_part(_only(root), choose_split(folder, asked or name, splits), utterances, reading)


def splits_of(folder: Path) -> list[str]:
    """The splits of an audiofolder; empty if it has none or the folder is not an audiofolder."""
    return _layout(folder)[1]


def _layout(folder: Path) -> tuple[Path, list[str], bool]:
    """The folder with the metadata or the splits' folders, these splits, and whether each has metadata of its own."""
    for root in (folder, folder / "data"):
        split_folders = [split for split in SPLITS if (root / split).is_dir()]
        with_metadata = [split for split in split_folders if _metadata(root / split)]
        if with_metadata:
            return root, with_metadata, True
        if _metadata(root):
            return root, split_folders, False
    return folder, [], False


def _add_part(path: Path, split: str, utterances: Utterances, reading: Reading) -> None:
    """Add the rows whose recordings lie below the split's folder."""
    found = False
    base = reading.base(path.absolute().parent)
    for row in manifest_rows(path, utterances.report, reading):
        name = row.columns.audio
        if str(row.record.get(name or "", "")).strip().removeprefix("./").startswith(f"{split}/"):
            row.add_to(utterances, base)
            found = True
    if not found:
        raise ManifestError(
            f"{path}, row 2, field 'file_name': no row's file lies in the folder {split}/; write names such as "
            f"{split}/0001.wav, or move {path.name} elsewhere"
        )


def _places(folder: Path) -> Iterator[Path]:
    for root in (folder, folder / "data"):
        yield root
        yield from (root / name for name in SPLITS)


def _metadata(folder: Path) -> list[Path]:
    return [folder / name for name in METADATA if (folder / name).is_file()]


def _only(folder: Path) -> Path:
    found = _metadata(folder)
    if len(found) > 1:
        raise ManifestError(f"{folder}: holds both {METADATA[0]} and {METADATA[1]}; remove one, or give the other")
    return found[0]
