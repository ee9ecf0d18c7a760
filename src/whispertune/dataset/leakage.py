"""Detect the same audio in two splits, which makes scores meaningless."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from whispertune.data.utterances import Utterance
from whispertune.dataset.fingerprints import NUM_SUMS, Fingerprints, content_keys, fingerprints, likely_pairs
from whispertune.dataset.splits import Split
from whispertune.errors import DataError
from whispertune.system.console import progress_bar
from whispertune.system.counts import counted
from whispertune.system.lazy import Lazy
from whispertune.system.processes import ALONE, Pace, Processes

Key = TypeVar("Key")
Span = tuple[str, tuple[int, int] | None, int | None, float, int]
"""File (links resolved), byte range, channel, start (seconds), samples at 16 kHz."""


def require_no_leaks(
    splits: Sequence[Split],
    workers: int,
    *,
    contents: bool = True,
    processes: Processes = ALONE,
    stop: Callable[[], None] = lambda: None,
) -> str:
    """Make sure that no two splits share audio; returns a description of what was compared.

    File and span of all rows are compared, and their content: for splits that were decoded, by hashes of the waveforms;
    for others, by fingerprints of rows with the same number of samples as a row of the other split, and by hashes of
    those whose fingerprints match. contents: whether fingerprints are compared. stop: called regularly; may raise. Each
    of several processes decodes its share.

    Raises:
        DataError: with the first such pair of rows; in all processes.
    """
    pairs = list(combinations(splits, 2))
    for one, other in pairs:
        same: list[tuple[Utterance, Utterance]] = []
        if processes.is_main:
            same = _in_both(_by_span(one, other), _by_span(other, one))
        _require_none(one, other, processes.from_main(partial(list, same)))
    by_hash = [(one, other) for one, other in pairs if one.decoded and other.decoded]
    for one, other in by_hash:
        _require_none(one, other, _in_both(one.audio_keys, other.audio_keys))
    by_fingerprint = [pair for pair in pairs if pair not in by_hash] if contents else []
    opened, decoded = _compare_fingerprints(by_fingerprint, workers, processes, stop)
    compared = ["file and span of all rows"]
    if by_hash:
        compared.append("content of all rows" if len(by_hash) == len(pairs) else f"content of {_named(by_hash)}")
    if by_fingerprint:
        compared.append(
            f"the start of {counted(opened, 'row')} with a length that occurs in another split, content of the "
            f"{decoded:,} that match"
        )
    if not contents and len(by_hash) < len(pairs):
        compared.append("content when the run started")
    return f"no audio in two of {', '.join(split.name for split in splits)}; compared: {'; '.join(compared)}"


def _named(pairs: Sequence[tuple[Split, Split]]) -> str:
    return ", ".join(f"{one.name} and {other.name}" for one, other in pairs)


def _require_none(one: Split, other: Split, same: Sequence[tuple[Utterance, Utterance]]) -> None:
    if same:
        ours, theirs = same[0]
        raise DataError(
            f"{theirs.source}, row {theirs.row}, field 'audio': the same audio as row {ours.row} of {ours.source} "
            f"({counted(len(same), 'such row')} in {other.name}), which makes scores meaningless; remove them from "
            f"{one.name} or {other.name}"
        )


def _in_both(ours: Mapping[Key, Utterance], theirs: Mapping[Key, Utterance]) -> list[tuple[Utterance, Utterance]]:
    return [(ours[key], row) for key, row in theirs.items() if key in ours]


def _compare_fingerprints(
    pairs: Sequence[tuple[Split, Split]], workers: int, processes: Processes, stop: Callable[[], None]
) -> tuple[int, int]:
    """Compare the content of rows that may be equal; returns how many rows were decoded in part and in full."""
    found: dict[str, tuple[npt.NDArray[np.int64], Fingerprints]] = {}
    for split in {split.name: split for pair in pairs for split in pair}.values():
        others = [one if split is other else other for one, other in pairs if split in (one, other)]
        rows = _as_long(split, others)
        sums = np.empty((len(rows), NUM_SUMS))
        for rank, part in enumerate(processes.share(partial(_fingerprints_of, split, rows, workers, processes, stop))):
            sums[rank :: processes.world_size] = part
        found[split.name] = rows, sums
    num_decoded = 0
    for one, other in pairs:
        ours, theirs = (np.asarray(split.num_samples)[found[split.name][0]] for split in (one, other))
        places = likely_pairs(ours, found[one.name][1], theirs, found[other.name][1])
        likely = [
            [split.windows[index].utterances[0] for index in found[split.name][0][place].tolist()]
            for split, place in zip((one, other), places, strict=True)
        ]
        num_decoded += sum(map(len, likely))
        keyed = processes.share(partial(_keyed, likely, workers, processes, stop))[0]
        _require_none(one, other, _in_both(*keyed) if keyed else [])
    return sum(len(rows) for rows, _ in found.values()), num_decoded


def _fingerprints_of(
    split: Split, rows: npt.NDArray[np.int64], workers: int, processes: Processes, stop: Callable[[], None]
) -> Fingerprints:
    """Fingerprints of this process's share of the rows."""
    mine: list[int] = rows[processes.rank :: processes.world_size].tolist()
    sized = Lazy(len(mine), lambda i: (split.num_samples[mine[i]], split.windows[mine[i]].utterances[0]))
    with progress_bar(f"comparing {split.name}", len(rows)) as bar:
        pace = Pace(bar, len(mine), len(rows))

        def advance(amount: int) -> None:
            pace(amount)
            stop()

        return fingerprints(sized, workers, advance)


def _keyed(
    likely: Sequence[Sequence[Utterance]], workers: int, processes: Processes, stop: Callable[[], None]
) -> list[dict[str, Utterance]]:
    """For each list of rows, the first row by content key; only in the main process."""
    found: list[dict[str, Utterance]] = []
    for rows in likely if processes.is_main else ():
        first: dict[str, Utterance] = {}
        for key, row in zip(content_keys(rows, workers, stop), rows, strict=True):
            if key:
                first.setdefault(key, row)
        found.append(first)
    return found


def _by_span(split: Split, other: Split) -> dict[Span, Utterance]:
    """Utterances of a split with the length of one of the other's, by their spans."""
    folders: dict[str, str] = {}
    found: dict[Span, Utterance] = {}
    for index in _as_long(split, [other]).tolist():
        row = split.windows[index].utterances[0]
        folder, name = os.path.split(row.audio)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        path = f"{folders[folder]}/{name}"
        if os.path.islink(path):  # noqa: PTH114 - called a million times
            path = os.path.realpath(path)
        found.setdefault((path, row.within, row.channel, row.start, split.num_samples[index]), row)
    return found


def _as_long(split: Split, others: Sequence[Split]) -> npt.NDArray[np.int64]:
    """Indices of a split's utterances with the length of one of the others'; only these can be the same."""
    lengths = [np.asarray(other.num_samples[: other.num_utterances]) for other in others]
    ours = np.asarray(split.num_samples[: split.num_utterances])
    return np.flatnonzero(np.isin(ours, np.concatenate([*lengths, np.zeros(0, np.int64)])))
