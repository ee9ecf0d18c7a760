"""One look at every row before any compute is spent on it: can it be used, and how long is it?"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from whispertune.data.audio import content_key, load_utterance, num_samples_between, num_samples_of, probe_audio
from whispertune.data.index import Headers
from whispertune.data.segments import Rows
from whispertune.data.utterances import Shared, Utterance
from whispertune.errors import AudioError, RecipeError
from whispertune.features import SAMPLE_RATE, WINDOW_SAMPLES
from whispertune.transcripts import TextSettings

Place = tuple[str, tuple[int, int] | None]
"""A recording: a file, and the bytes of it if it is not the whole."""
Seconds = npt.NDArray[np.float64]
CHUNK_ROWS = 8192
"""Rows that are handed to the threads at once."""


class Finding(NamedTuple):
    """reason: why a row can't be used, or None. num_samples: at 16 kHz. key: of its waveform; "" if not decoded."""

    reason: str | None
    num_samples: int = 0
    key: str = ""


def hear_rows(
    utterances: Sequence[Utterance],
    text: TextSettings,
    workers: int,
    advance: Callable[[int], None],
    *,
    keep_empty: bool,
    share: range,
) -> Iterator[Finding]:
    """Look at every row of a share, and decode its audio."""

    def hear(utterance: Utterance) -> Finding:
        try:
            reason = text.unusable(utterance, keep_empty=keep_empty)
            if reason is None:
                waveform = load_utterance(utterance)
                reason = _too_long(len(waveform))
                if reason is None:
                    return Finding(None, len(waveform), content_key(waveform))
        except (AudioError, RecipeError) as error:
            reason = str(error)
        finally:
            advance(1)
        return Finding(reason)

    with ThreadPoolExecutor(workers, "audio") as pool:
        for begin in range(0, len(share), CHUNK_ROWS):
            yield from pool.map(hear, [utterances[index] for index in share[begin : begin + CHUNK_ROWS]])


def skim_rows(
    utterances: Rows,
    text: TextSettings,
    workers: int,
    advance: Callable[[int], None],
    *,
    keep_empty: bool,
    share: range,
    headers: Headers,
) -> Iterator[Finding]:
    """Look at every row of a share, but only at the headers of its audio: each file's once, while its rows follow each
    other.

    headers: of all rows, what an earlier look found (or zeros): files that have not changed since are not opened. What
    this look finds is put there.
    """
    languages = [_plain_language(kind, text) for kind in utterances.kinds]
    kinds = utterances.kind_numbers
    with ThreadPoolExecutor(workers, "headers") as pool:
        for begin in range(0, len(share), CHUNK_ROWS):
            chunk = share[begin : begin + CHUNK_ROWS]
            here = slice(chunk.start, chunk.stop, chunk.step)
            _, paths, texts = utterances.strings(chunk)
            places = list(zip(paths, map(utterances.within, chunk), strict=True))
            numbers = {place: number for number, place in enumerate(dict.fromkeys(places))}
            file_of = np.fromiter(map(numbers.__getitem__, places), np.int64, len(places))
            faults = _look_at_headers(list(numbers), file_of, headers[here], pool)
            samples = _plain_num_samples(headers[here], *utterances.spans(chunk))
            for place, (row, kind, found, words) in enumerate(
                zip(chunk, kinds[here].tolist(), samples.tolist(), texts, strict=True)
            ):
                language = languages[kind]
                if found and language is not None and text.surely_usable(words, language):
                    yield Finding(None, found)
                else:
                    frames, rate, *_ = headers[row].tolist()
                    yield _skim(utterances[row], faults.get(int(file_of[place]), (frames, rate)), text, keep_empty)
            advance(len(chunk))


def _look_at_headers(
    files: Sequence[Place], file_of: npt.NDArray[np.int64], headers: Headers, pool: ThreadPoolExecutor
) -> dict[int, str]:
    """Fill in the headers (n,) of rows, the file of each being `file_of` (n,); what is wrong with which file."""
    found = headers[np.unique(file_of, return_index=True)[1]]
    stats = np.array([_size_and_time(path) for path, _ in files], np.int64)
    changed = (found[:, 0] == 0) | (found[:, 2:] != stats).any(axis=1)
    new: list[int] = np.flatnonzero(changed).tolist()
    found[new], found[:, 2:] = 0, stats
    faults = {}
    for number, length in zip(new, pool.map(_probe, [files[number] for number in new]), strict=True):
        if isinstance(length, str):
            faults[number] = length
        else:
            found[number, :2] = length
    headers[:] = found[file_of]
    return faults


def _size_and_time(path: str) -> tuple[int, int]:
    """Bytes, and when they were last changed (ns); zeros where there is no such file."""
    try:
        found = os.stat(path)  # noqa: PTH116 - a million times
    except (OSError, ValueError):
        return 0, 0
    return found.st_size, found.st_mtime_ns


def _probe(place: Place) -> tuple[int, int] | str:
    try:
        return probe_audio(Path(place[0]), within=place[1])
    except AudioError as error:
        return str(error)


def _plain_language(kind: Shared, text: TextSettings) -> str | None:
    """The language code of rows that have nothing but their text for the decoder, if it is one that the model has."""
    try:
        language = text.language_code_of(kind.language)
        text.require_prompt(language, kind.task or text.task)
    except RecipeError:
        return None
    return language if kind.prompt is None else None


def _plain_num_samples(headers: Headers, starts: Seconds, ends: Seconds) -> npt.NDArray[np.int64]:
    """(n,) samples at 16 kHz of spans that lie within their files and fit in a window, as `num_samples_between` counts
    them; 0 for all others."""
    frames, rate = headers[:, 0], np.maximum(headers[:, 1], 1)
    first = np.rint(starts * rate).astype(np.int64)
    last = np.where(ends < 0, frames, np.rint(ends * rate).astype(np.int64))
    samples = num_samples_of(last - first, rate)
    return np.where((first < last) & (last <= frames) & (samples <= WINDOW_SAMPLES), samples, 0)


def _skim(row: Utterance, length: tuple[int, int] | str, text: TextSettings, keep_empty: bool) -> Finding:
    try:
        reason = text.unusable(row, keep_empty=keep_empty)
        if reason is None and isinstance(length, str):
            reason = length
        if reason is None and not isinstance(length, str):
            samples = num_samples_between(row.audio, length, row.start, row.end, within=row.within)
            reason = _too_long(samples)
            if reason is None:
                return Finding(None, samples)
    except (AudioError, RecipeError) as error:
        reason = str(error)
    return Finding(reason)


def _too_long(num_samples: int) -> str | None:
    if num_samples <= WINDOW_SAMPLES:
        return None
    seconds = num_samples / SAMPLE_RATE
    return f"audio lasts {seconds:.1f} s; a window holds 30 s (cut it, with start and end columns)"
