"""One look at every row before any compute is spent on it: can it be used, and how long is it?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from whispertune.data.audio import content_key, load_utterance, num_samples_between, probe_audio
from whispertune.data.segments import Rows
from whispertune.data.utterances import Brief, Utterance
from whispertune.errors import AudioError, RecipeError
from whispertune.features import SAMPLE_RATE, WINDOW_SAMPLES
from whispertune.transcripts import TextSettings

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
) -> Iterator[Finding]:
    """Look at every row of a share, but only at the headers of its audio: each file's once, while its rows follow each
    other."""
    lengths: dict[tuple[str, tuple[int, int] | None], tuple[int, int] | str] = {}
    with ThreadPoolExecutor(workers, "headers") as pool:
        for begin in range(0, len(share), CHUNK_ROWS):
            chunk = share[begin : begin + CHUNK_ROWS]
            rows = [utterances.brief(index) for index in chunk]
            places = [(row.audio, row.within) for row in rows]
            known = {place: lengths[place] for place in places if place in lengths}
            new = [place for place in dict.fromkeys(places) if place not in known]
            lengths = known | dict(zip(new, pool.map(_probe, new), strict=True))
            for row, place in zip(rows, places, strict=True):
                yield _skim(row, lengths[place], text, keep_empty)
            advance(len(chunk))


def _probe(place: tuple[str, tuple[int, int] | None]) -> tuple[int, int] | str:
    try:
        return probe_audio(Path(place[0]), within=place[1])
    except AudioError as error:
        return str(error)


def _skim(row: Brief, length: tuple[int, int] | str, text: TextSettings, keep_empty: bool) -> Finding:
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
