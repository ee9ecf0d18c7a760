"""Recordings that may be the same, found by their first moments, so that the rest need not be decoded."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from whispertune.data.audio import SAMPLE_RATE, Waveform, content_key, load_utterance, load_waveform
from whispertune.data.utterances import Utterance
from whispertune.errors import AudioError

DECODED_SECONDS = 0.5
COMPARED_SAMPLES = SAMPLE_RATE // 4
"""Half of what is decoded: resampled, the last moments of a span are not those of the whole."""
TOLERANCE = 0.01
"""Of full scale: far above what rounding changes."""

Sized = tuple[int, Utterance]
"""Samples at 16 kHz, and what they are of."""


def likely_keys(rows: Sequence[Sized], others: Sequence[Sized], workers: int) -> dict[str, Utterance]:
    """Content keys of those rows that are as long as one of the others and begin like it: no other can be equal."""
    with ThreadPoolExecutor(workers, "audio") as pool:
        openings: dict[int, list[Waveform]] = {}
        for (length, _), heard in zip(others, pool.map(_opening, [u for _, u in others]), strict=True):
            openings.setdefault(length, []).append(heard)
        found = zip(rows, pool.map(_opening, [u for _, u in rows]), strict=True)
        likely = [u for (length, u), heard in found if any(_agree(heard, other) for other in openings.get(length, ()))]
        keys = list(pool.map(_key, likely))
    return {key: utterance for key, utterance in zip(keys, likely, strict=True) if key}


def _opening(utterance: Utterance) -> Waveform:
    """The first moments; nothing where they can't be had."""
    end = utterance.start + DECODED_SECONDS
    if utterance.end is not None:
        end = min(end, utterance.end)
    try:
        heard = load_waveform(utterance.audio, utterance.start, end, channel=utterance.channel, within=utterance.within)
    except AudioError:  # a recording shorter than that, perhaps
        return np.zeros(0, np.float32)
    return heard[:COMPARED_SAMPLES]


def _agree(ours: Waveform, theirs: Waveform) -> bool:
    """Whether two waveforms agree as far as both go."""
    size = min(len(ours), len(theirs))
    return bool(np.abs(ours[:size] - theirs[:size]).max(initial=0.0) < TOLERANCE)


def _key(utterance: Utterance) -> str:
    try:
        return content_key(load_utterance(utterance))
    except AudioError:  # its headers were fine; training will name it
        return ""
