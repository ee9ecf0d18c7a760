"""Data that is not divided yet: the command that divides it, and the refusal to train and validate on the same file."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence

from whispertune.data.readers.hub_data import PREFIX
from whispertune.data.reading import Reading
from whispertune.data.remote import is_remote
from whispertune.data.rows import exists
from whispertune.data.sources import Source, parse_sources
from whispertune.data.splits_of_sources import as_flags, spelled, splits_of
from whispertune.errors import DataError

SHARE = re.compile(r"[0-9]*\.?[0-9]+ ?(%|h|min)?")


def splitting_command(
    files: Sequence[str], language: Sequence[str], reading: Reading, wishes: Sequence[str] = ()
) -> str:
    """The command that divides a corpus, quoted for a shell. language, wishes: flags."""
    return shlex.join(
        ["whispertune", "split", *files, *wishes, *language, *as_flags(reading), "--output", "splits"]
    )  # fmt: skip


def require_divided(train: str, valid: str, test: str | None, language: Sequence[str], reading: Reading) -> None:
    """Refuse a share in place of a file (`--valid 0.1`), and the same file as two of train, valid and test.

    Raises:
        DataError: with the command that divides the data.
    """
    sides = {"train": train, "valid": valid, **({} if test is None else {"test": test})}
    shares = {name: given for name, given in sides.items() if SHARE.fullmatch(given) and not exists(given)}
    if shares and "train" not in shares:
        wishes = [part for name, given in shares.items() for part in (f"--{name}", given)]
        wishes += [] if "test" in sides else ["--test", "0"]
        name, given = next(iter(shares.items()))
        command = splitting_command([train], language, reading, wishes)
        raise DataError(f"--{name} {given}: takes a file or folder; to hold out a part of train, first: {command}")
    seen: dict[tuple[str, str | None], str] = {}
    for name, given in sides.items():
        for source in parse_sources(given):
            other = seen.setdefault(_key(source), name)
            if other != name and not (source.split is None and _has_splits(source)):
                command = splitting_command([spelled(source, split=source.split)], language, reading)
                raise DataError(
                    f"--{other} and --{name} are both {source.path}, so that {name} would measure what was learnt by "
                    f"heart; first divide it: {command}"
                )


def _key(source: Source) -> tuple[str, str | None]:
    elsewhere = source.path.startswith(PREFIX) or is_remote(source.path)
    return source.path if elsewhere else os.path.realpath(source.path), source.split


def _has_splits(source: Source) -> bool:
    """Whether --train and --valid mean different rows of a corpus."""
    return source.path.startswith(PREFIX) or bool(splits_of(source))
