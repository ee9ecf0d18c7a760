"""Choose a split of a corpus that has several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from whispertune.errors import ManifestError

NAMES = {
    "train": ("train", "training"),
    "valid": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Common names of a run's splits; the first that the corpus has is used."""


def require_no_split(corpus: Path, asked: str | None) -> None:
    """Refuse `[split=…]` for a corpus without splits, where all rows would be read as if they were that split's.

    Raises:
        ManifestError: with what to give instead.
    """
    if asked is not None:
        inside = corpus / asked
        remedy = f"give {inside}" if inside.is_dir() else "give the file or folder that holds this split alone"
        raise ManifestError(f"{corpus} [split={asked}]: there are no splits to choose from; {remedy} without [split=…]")


def choose_split(corpus: Path | str, wanted: str, there: Sequence[str]) -> str:
    """The split of `there` with the name `wanted` or a synonym; for "data", also the only one.

    Raises:
        ManifestError: with the splits that exist.
    """
    for name in (wanted, *NAMES.get(wanted, ())):
        if name in there:
            return name
    if len(there) == 1 and wanted == "data":
        return there[0]
    what = "it has several splits" if wanted == "data" else f"it has no {wanted!r} split"
    raise ManifestError(
        f"{corpus}: {what}; it has {', '.join(sorted(there))}: choose one as in '{corpus} [split={sorted(there)[0]}]'"
    )
