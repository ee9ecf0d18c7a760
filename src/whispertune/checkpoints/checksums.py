"""Checksums of a run's best/, so that changed or damaged model files are detected when they are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whispertune.errors import CheckpointError
from whispertune.system.files import sha256_of

CHECKSUMS = "checksums.json"
"""Name of the file that lists the sha256 of all others except README.md, which may be edited. Other programs ignore
it."""


def write_checksums(folder: Path, digests: Mapping[str, str], **about: str | int) -> None:
    """Write the sha256 of each file into the folder. about: run, step and name (as in metrics.jsonl) of the model."""
    text = json.dumps({**about, "sha256": dict(sorted(digests.items()))}, indent=2) + "\n"
    (folder / CHECKSUMS).write_text(text, encoding="utf-8", newline="\n")


def read_about(folder: Path) -> dict[str, Any]:
    """The `about` of `write_checksums`; empty if the file is missing or damaged."""
    try:
        found = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        return {"step": int(found["step"]), "model": str(found.get("model", "epoch")), "run": str(found["run"])}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def read_checksums(folder: Path) -> dict[str, str]:
    """File name -> sha256; empty if there are no checksums.

    Raises:
        CheckpointError: if the list is damaged.
    """
    path = folder / CHECKSUMS
    if not path.exists():
        return {}
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))["sha256"]
        plain = all(Path(name).name == name and isinstance(digest, str) for name, digest in listed.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        plain, listed = False, {}
    if not plain or not listed:
        raise CheckpointError(
            f"{path}: is damaged, so the model cannot be verified",
            remedy="copy the folder again, or remove this file to use the model unchecked",
        )
    return dict(listed)


def require_unchanged(folder: Path, known: Mapping[str, str] | None = None) -> None:
    """Compare the files of a folder with its checksums, if it has any.

    known: digests that are already computed.

    Raises:
        CheckpointError: with the first file that is missing or has changed.
    """
    for name, expected in read_checksums(folder).items():
        try:
            found = (known or {}).get(name) or sha256_of(folder / name)
        except OSError as error:
            raise CheckpointError(
                f"{folder / name}: cannot be read ({error.strerror}), so the model is incomplete",
                remedy="copy it again",
            ) from None
        if found != expected:
            raise CheckpointError(
                f"{folder / name}: has changed since it was written (its sha256 is not that in {CHECKSUMS})",
                remedy=f"copy it again, or remove {CHECKSUMS} if you changed it on purpose",
            )
