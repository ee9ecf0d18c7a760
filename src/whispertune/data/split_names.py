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
