"""What rows have in common: recordings, speakers, texts; and in which order they are drawn."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from whispertune.data.audio.waveforms import probe_audio
from whispertune.data.remote import as_path
from whispertune.data.utterances import Shared, Utterances
from whispertune.errors import AudioError
from whispertune.split.texts import Numbers, similar_texts

CHUNK_ROWS = 50_000
MOST_FILES = 20_000
"""Most recordings that are compared with each other, to find copies of a file under another name."""
PART = 1 << 16
"""Bytes at the beginning, in the middle and at the end of files of the same size that are compared."""
SHORT = 20
"""Spoken characters; shorter texts (yes, good morning) are what many people say, not what a model learns by heart."""
Key = TypeVar("Key")
Seconds = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Facts:
    """Facts about n rows: those of the corpus, then those of the manifests of an earlier split.

    recordings, speakers, texts: (n,) numbers, equal for rows of the same recording (symbolic links resolved; of up to
    20,000 also copies of its file), the same speaker, (nearly) the same text; -1: none. channels: (n,), -1: all.
    starts, ends: (n,) seconds; an end of -1 is the end of the file. letters: (n,) spoken characters. strata: (n,) index
    into `names`, the (language, source) of a row. draws: (n,) hash of seed and id.
    """

    recordings: Numbers
    speakers: Numbers
    texts: Numbers
    channels: Numbers
    starts: Seconds
    ends: Seconds
    letters: Numbers
    strata: Numbers
    draws: npt.NDArray[np.uint64]
    names: list[tuple[str, str]]


def facts_of(
    sources: Sequence[Utterances],
    source_name: Callable[[Shared], str],
    seed: int,
    *,
    compare_texts: bool = True,
    advance: Callable[[int], None] = lambda _: None,
) -> Facts:
    """The facts. source_name: of the source that a row comes from."""
    num_rows = sum(map(len, sources))
    speakers, strata, recordings = _Numbering[str | None](), _Numbering[tuple[str, str]](), _Numbering[str]()
    found: dict[str, list[Numbers]] = {"speakers": [], "strata": [], "channels": [], "recordings": []}
    draws = np.zeros(num_rows, np.uint64)
    salt = seed.to_bytes(16, "little")
    done = 0
    folders: dict[str, str] = {}
    for rows in sources:
        kinds = rows.kind_numbers
        found["speakers"].append(speakers.of(kind.speaker for kind in rows.kinds)[kinds])
        found["strata"].append(strata.of((kind.language or "", source_name(kind)) for kind in rows.kinds)[kinds])
        channels = np.array([-1 if kind.channel is None else kind.channel for kind in rows.kinds], np.int64)
        found["channels"].append(channels[kinds])
        for begin in range(0, len(rows), CHUNK_ROWS):
            part = range(begin, min(begin + CHUNK_ROWS, len(rows)))
            ids, paths, _ = rows.strings(part)
            found["recordings"].append(recordings.of(_real(path, folders) for path in paths))
            for row, id_ in enumerate(ids, start=done):
                digest = blake2b(id_.encode("utf-8", "surrogateescape"), digest_size=8, salt=salt)
                draws[row] = int.from_bytes(digest.digest(), "little")
            done += len(part)
            advance(len(part))
    texts, letters = similar_texts(sources) if compare_texts else (np.full(num_rows, -1), np.zeros(num_rows, np.int64))
    joined = {name: np.concatenate(parts) for name, parts in found.items()}
    joined["recordings"] = _originals(list(recordings.numbers))[joined["recordings"]]
    joined["speakers"] = np.where(joined["speakers"] == speakers.numbers.get(None), -1, joined["speakers"])
    ordered = sorted(strata.numbers)
    ranks = np.argsort(np.argsort([ordered.index(name) for name in strata.numbers]))
    starts, ends = (
        np.concatenate(columns) for columns in zip(*(rows.spans(range(len(rows))) for rows in sources), strict=True)
    )
    return Facts(
        joined["recordings"], joined["speakers"], texts, joined["channels"], starts, ends, letters,
        ranks[joined["strata"]], draws, ordered,
    )  # fmt: skip


def overlapping(facts: Facts) -> Numbers:
    """(n,) a number for each row, equal for rows whose spans of a recording overlap, also by way of others."""
    order = np.lexsort((facts.starts, facts.recordings))
    numbers = np.zeros(len(order), np.int64)
    number, last, latest = -1, -1, 0.0
    ends = np.where(facts.ends < 0, np.inf, facts.ends)
    columns = (column[order].tolist() for column in (facts.recordings, facts.starts, ends))
    for row, recording, start, end in zip(order.tolist(), *columns, strict=True):
        if recording != last or start >= latest:
            number, last, latest = number + 1, recording, end
        latest = max(latest, end)
        numbers[row] = number
    return numbers


def same_spans(facts: Facts) -> Numbers:
    """(n,) a number for each row, equal for the same channel and times of one recording."""
    times = (np.ascontiguousarray(times).view(np.int64) for times in (facts.starts, facts.ends))
    keys = np.stack([facts.recordings, facts.channels, *times], axis=1)
    return np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)


def durations(rows: Utterances, workers: int, *, most_files: int | None) -> Seconds:
    """(n,) seconds of each row; NaN if its end is that of a file whose header cannot be read.

    most_files: no header is read if more would have to be.
    """
    starts, ends = rows.spans(range(len(rows)))
    seconds = np.where(ends < 0, np.nan, ends - starts)
    whole = np.flatnonzero(ends < 0).tolist()
    places = {row: rows.place(row) for row in whole} if most_files is None or len(whole) <= most_files else {}

    def length(place: tuple[str, tuple[int, int] | None]) -> float:
        try:
            num_frames, rate = probe_audio(as_path(place[0]), within=place[1])
        except AudioError:
            return np.nan
        return num_frames / rate

    with ThreadPoolExecutor(workers, "headers") as pool:
        distinct = list(dict.fromkeys(places.values()))
        lengths = dict(zip(distinct, pool.map(length, distinct), strict=True))
    for row, place in places.items():
        seconds[row] = lengths[place] - starts[row]
    return seconds


def _originals(paths: Sequence[str]) -> Numbers:
    """(m,) for each file the number of the first with the same content, where there are few enough to compare."""
    numbers = np.arange(len(paths), dtype=np.int64)
    if len(paths) > MOST_FILES:
        return numbers
    by_size: dict[int, list[int]] = {}
    for number, path in enumerate(paths):
        with suppress(OSError, ValueError):
            by_size.setdefault(os.stat(path).st_size, []).append(number)  # noqa: PTH116 - called often
    first: dict[tuple[int, bytes], int] = {}
    for size, alike in by_size.items():
        for number in alike if len(alike) > 1 else ():
            with suppress(OSError), open(paths[number], "rb") as file:  # noqa: PTH123
                digest = blake2b()
                for place in (0, size // 2, max(0, size - PART)):
                    file.seek(place)
                    digest.update(file.read(PART))
                numbers[number] = first.setdefault((size, digest.digest()), number)
    return numbers


class _Numbering(Generic[Key]):
    """Numbers of recurring values."""

    def __init__(self) -> None:
        self.numbers: dict[Key, int] = {}

    def of(self, values: Iterable[Key]) -> Numbers:
        numbers = self.numbers
        return np.fromiter((numbers.setdefault(value, len(numbers)) for value in values), np.int64)


def _real(path: str, folders: dict[str, str]) -> str:
    """The path without symbolic links. folders: those seen already."""
    folder, _, name = path.rpartition("/")
    if folder not in folders:
        folders[folder] = os.path.realpath(folder or "/")
    path = f"{folders[folder]}/{name}"
    return os.path.realpath(path) if os.path.islink(path) else path  # noqa: PTH114 - called a million times
