"""Inspect every row before any compute is spent on it: whether it can be used, and how long it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from whispertune.data.audio.recording import TooLongError
from whispertune.data.audio.waveforms import (
    content_key,
    load_utterance,
    load_waveform,
    num_samples_between,
    num_samples_of,
    probe_audio,
)
from whispertune.data.index import Files, Headers
from whispertune.data.remote import as_path, is_remote
from whispertune.data.segments import Rows
from whispertune.data.utterances import Shared, Utterance
from whispertune.dataset.transcripts import TextSettings
from whispertune.errors import AudioError, RecipeError
from whispertune.features.log_mel import SAMPLE_RATE, WINDOW_SAMPLES

FileRange = tuple[str, tuple[int, int] | None]
"""A recording: a file, and the offset and number of bytes if it is only a part of it."""
Seconds = npt.NDArray[np.float64]
CHUNK_ROWS = 8192
"""Rows that are passed to the threads at once."""
MOMENT = 0.01
"""Seconds that are decoded to check whether a channel exists."""


@dataclass(slots=True)
class Inspection:
    """Result of inspecting n rows.

    num_samples: (n,) at 16 kHz. reasons: for each unusable row, why. keys: (n) content keys of the waveforms, if they
    were decoded.
    """

    num_samples: npt.NDArray[np.int64]
    reasons: dict[int, str] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Cached:
    """Cached results of an earlier inspection of n rows, if any; updated by a new one.

    valid: (n,) whether a row's text is known to be a valid target.
    """

    files: Files | None = None
    valid: npt.NDArray[np.bool_] | None = None


def decode_rows(
    utterances: Sequence[Utterance],
    text: TextSettings,
    workers: int,
    advance: Callable[[int], None],
    *,
    keep_empty: bool,
    share: range,
) -> Inspection:
    """Inspect every row of a share, decoding its audio."""

    def decode(utterance: Utterance) -> tuple[str | None, int, str]:
        try:
            reason = text.unusable(utterance, keep_empty=keep_empty)
            if reason is None:
                waveform = load_utterance(utterance, max_samples=WINDOW_SAMPLES)
                return None, len(waveform), content_key(waveform)
        except TooLongError as error:
            reason = _too_long(error.num_samples)
        except (AudioError, RecipeError) as error:
            reason = str(error)
        finally:
            advance(1)
        return reason, 0, ""

    inspection = Inspection(np.zeros(len(share), np.int64))
    with ThreadPoolExecutor(workers, "audio") as pool:
        for begin in range(0, len(share), CHUNK_ROWS):
            chunk = [utterances[index] for index in share[begin : begin + CHUNK_ROWS]]
            for number, (reason, samples, key) in enumerate(pool.map(decode, chunk), start=begin):
                inspection.num_samples[number] = samples
                inspection.keys.append(key)
                if reason is not None:
                    inspection.reasons[number] = reason
    return inspection


def read_headers(
    utterances: Rows,
    text: TextSettings,
    workers: int,
    advance: Callable[[int], None],
    *,
    keep_empty: bool,
    share: range,
    cached: Cached,
) -> Inspection:
    """Inspect every row of a share, reading only the headers of its audio and checking that its channel exists.

    Each file is opened once if its rows are consecutive. cached: for all rows; files that have not changed since are
    not opened again. If the share is all rows, the new results are stored there.
    """
    languages, kinds = plain_languages(utterances, text), utterances.kind_numbers
    channels_of_kinds = np.array([kind.channel or 0 for kind in utterances.kinds], np.int64)
    inspection = Inspection(np.zeros(len(share), np.int64))
    new: list[Files] = []
    valid = np.zeros(len(share), np.bool_)
    with ThreadPoolExecutor(workers, "headers") as pool:
        for begin in range(0, len(share), CHUNK_ROWS):
            chunk = share[begin : begin + CHUNK_ROWS]
            here, part = slice(chunk.start, chunk.stop, chunk.step), slice(begin, begin + len(chunk))
            paths: list[str] = []
            texts: list[str] = []
            if cached.files is None or cached.valid is None:
                _, paths, texts = utterances.strings(chunk)
            if cached.files is None:
                files, places = _files_of(chunk, list(zip(paths, utterances.withins(chunk), strict=True)))
            else:
                files = _part(cached.files, here)
                places = list(map(utterances.place, files.rows.tolist()))
            faults = _update_headers(places, files.headers, pool)
            channels = channels_of_kinds[kinds[here]]
            lacking = _update_channels(places, files, channels, pool)
            if cached.valid is None:
                codes = list(map(languages.__getitem__, kinds[here].tolist()))
                valid[part] = text.surely_usable_rows(texts, codes)
            else:
                valid[part] = cached.valid[here]
            headers = files.headers[files.of]
            plain = valid[part] & (channels < headers[:, 4])
            samples = np.where(plain, _plain_num_samples(headers, *utterances.spans(chunk)), 0)
            for at in np.flatnonzero(samples == 0).tolist():
                number = int(files.of[at])
                frames, rate, *_ = files.headers[number].tolist()
                fault = faults.get(number) or lacking.get((number, int(channels[at])))
                found = _checked_num_samples(utterances[chunk[at]], fault or (frames, rate), text, keep_empty)
                if isinstance(found, str):
                    inspection.reasons[begin + at] = found
                else:
                    samples[at] = found
            inspection.num_samples[part] = samples
            new.append(files)
            advance(len(chunk))
    if len(share) == len(utterances):
        cached.files, cached.valid = _joined(new), valid
    return inspection


def _files_of(rows: range, places: Sequence[FileRange]) -> tuple[Files, list[FileRange]]:
    """The files of rows at these places, with headers still unknown."""
    numbers = {place: number for number, place in enumerate(dict.fromkeys(places))}
    of = np.fromiter(map(numbers.__getitem__, places), np.int32, len(places))
    firsts = np.unique(of, return_index=True)[1]
    headers = np.zeros((len(numbers), 5), np.int64)
    return Files(of, rows.start + rows.step * firsts, headers), list(numbers)


def _part(files: Files, rows: slice) -> Files:
    """The files of a slice of the rows."""
    numbers, of = np.unique(files.of[rows], return_inverse=True)
    return Files(of.astype(np.int32), files.rows[numbers], files.headers[numbers])


def _joined(parts: Sequence[Files]) -> Files:
    """Concatenate parts; a file that is in two parts is listed twice."""
    sizes = [len(part.rows) for part in parts]
    of = np.concatenate([part.of for part in parts]) + np.repeat(
        np.cumsum([0, *sizes[:-1]]).astype(np.int32), [len(part.of) for part in parts]
    )
    return Files(of, np.concatenate([p.rows for p in parts]), np.concatenate([p.headers for p in parts]))


def _update_headers(places: Sequence[FileRange], headers: Headers, pool: ThreadPoolExecutor) -> dict[int, str]:
    """Update the headers (m, 5) of m files; returns the faults by file number."""
    stats = np.array([_size_and_time(path) for path, _ in places], np.int64)
    new: list[int] = np.flatnonzero((headers[:, 0] == 0) | (headers[:, 2:4] != stats).any(axis=1)).tolist()
    headers[new], headers[:, 2:4] = 0, stats
    faults = {}
    for number, length in zip(new, pool.map(_probe, [places[number] for number in new]), strict=True):
        if isinstance(length, str):
            faults[number] = length
        else:
            headers[number, :2], headers[number, 4] = length, 1
    return faults


def _update_channels(
    places: Sequence[FileRange], files: Files, channels: npt.NDArray[np.int64], pool: ThreadPoolExecutor
) -> dict[tuple[int, int], str]:
    """Update the known numbers of channels for the `channels` (n,) that rows use; returns faults by (file, channel)."""
    headers = files.headers[files.of]
    unknown = np.flatnonzero((headers[:, 0] > 0) & (channels >= headers[:, 4]))
    wanted = sorted(set(zip(files.of[unknown].tolist(), channels[unknown].tolist(), strict=True)))
    faults = {}
    looks = pool.map(_fault_of_channel, [places[number] for number, _ in wanted], [channel for _, channel in wanted])
    for (number, channel), fault in zip(wanted, looks, strict=True):
        if fault is None:
            files.headers[number, 4] = channel + 1  # `wanted` is sorted
        else:
            faults[number, channel] = fault
    return faults


def _size_and_time(path: str) -> tuple[int, int]:
    """Size in bytes and modification time (ns); zeros if there is no such file, and for URLs, which stay the same."""
    if is_remote(path):
        return 0, 0
    try:
        found = os.stat(path)  # noqa: PTH116 - called a million times
    except (OSError, ValueError):
        return 0, 0
    return found.st_size, found.st_mtime_ns


def _probe(place: FileRange) -> tuple[int, int] | str:
    try:
        return probe_audio(as_path(place[0]), within=place[1])
    except AudioError as error:
        return str(error)


def _fault_of_channel(place: FileRange, channel: int) -> str | None:
    try:
        load_waveform(as_path(place[0]), 0.0, MOMENT, channel=channel, within=place[1])
    except AudioError as error:
        return str(error)
    return None


def plain_languages(utterances: Rows, text: TextSettings) -> list[str | None]:
    """Code of the text's language for each kind of row; None if it has a prompt or the model lacks the language."""

    def code_of(kind: Shared) -> str | None:
        try:
            language = text.language_code_of(kind.language)
            text.require_prompt(language, kind.task or text.task)
        except RecipeError:
            return None
        return text.written_in(language, kind.task) if kind.prompt is None else None

    return list(map(code_of, utterances.kinds))


def _plain_num_samples(headers: Headers, starts: Seconds, ends: Seconds) -> npt.NDArray[np.int64]:
    """(n,) samples at 16 kHz (as `num_samples_between`) of spans within their files that fit in a window; else 0."""
    frames, rate = headers[:, 0], np.maximum(headers[:, 1], 1)
    first = np.rint(starts * rate).astype(np.int64)
    last = np.where(ends < 0, frames, np.rint(ends * rate).astype(np.int64))
    samples = num_samples_of(last - first, rate)
    return np.where((first < last) & (last <= frames) & (samples <= WINDOW_SAMPLES), samples, 0)


def _checked_num_samples(
    row: Utterance, length: tuple[int, int] | str, text: TextSettings, keep_empty: bool
) -> int | str:
    """Samples at 16 kHz of a row, or why it can't be used. length: of its file, or the file's fault."""
    try:
        reason = text.unusable(row, keep_empty=keep_empty)
        if reason is not None or isinstance(length, str):
            return reason or str(length)
        samples = num_samples_between(row.audio, length, row.start, row.end, within=row.within)
        return _too_long(samples) or samples
    except (AudioError, RecipeError) as error:
        return str(error)


def _too_long(num_samples: int) -> str | None:
    if num_samples <= WINDOW_SAMPLES:
        return None
    seconds = num_samples / SAMPLE_RATE
    return f"audio lasts {seconds:.1f} s; a window holds 30 s (cut it, with start and end columns)"
