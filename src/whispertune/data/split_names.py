"""Which part of a corpus that comes in splits is meant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from whispertune.errors import ManifestError

NAMES = {
    "train": ("train", "training"),
    "valid": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""What others call the splits of a run; the first that is there counts."""


def require_no_split(corpus: Path, asked: str | None) -> None:
    """Refuse a split that is asked of a corpus without any: its rows would be read as if they were that split's.

    Raises:
        ManifestError: saying what to name instead.
    """
    if asked is not None:
        inside = corpus / asked
        remedy = f"name {inside}" if inside.is_dir() else "name the file or folder that holds this split alone"
        raise ManifestError(f"{corpus} [split={asked}]: there are no splits to choose from; {remedy} without [split=…]")


def choose_split(corpus: Path | str, wanted: str, there: Sequence[str]) -> str:
    """The split of `there` that is called `wanted`, or serves a run as such; the only one, if there is one.

    Raises:
        ManifestError: naming those that are there.
    """
    for name in (wanted, *NAMES.get(wanted, ())):
        if name in there:
            return name
    if len(there) == 1 and wanted == "data":
        return there[0]
    what = "which of its splits is meant is not said" if wanted == "data" else f"no split serves as {wanted!r}"
    raise ManifestError(
        f"{corpus}: {what}; it has {', '.join(sorted(there))}: name one as '{corpus} [split={sorted(there)[0]}]'"
    )
