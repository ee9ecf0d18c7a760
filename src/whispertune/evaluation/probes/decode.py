"""Waveforms of up to 30 s decoded with a ready model, window by window, with timestamps or without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from whispertune.decoding.loading import ReadyModel
from whispertune.decoding.options import SearchOptions
from whispertune.decoding.rules import Hypothesis
from whispertune.decoding.search import decode_windows
from whispertune.decoding.timestamps import TimestampRules
from whispertune.features.options import FrameOptions
from whispertune.states.computed import ComputedStates, window_features
from whispertune.text.targets import MAX_TOKENS

WINDOWS_AT_ONCE = 8
"""Windows whose states are held at once."""


@dataclass(frozen=True, slots=True)
class Probed:
    """A model, and how it is to be decoded. workers: threads that prepare features."""

    ready: ReadyModel
    search: SearchOptions
    frames: FrameOptions
    workers: int


def decode_waveforms(
    probed: Probed,
    waveform: Callable[[int], np.ndarray],
    prompts: Sequence[Sequence[int]],
    *,
    timestamps: bool,
    advance: Callable[[int], None],
) -> list[Hypothesis]:
    """One hypothesis for each prompt, bounded by Whisper's 448 tokens alone: no loop is cut, nothing is tried again.

    waveform(i): (num_samples,) at 16 kHz of window i. timestamps: what the prompts ask for. advance: called with the
    number of windows done.
    """
    ready = probed.ready
    states = ComputedStates(
        ready.whisper.encoder,
        lambda index, _: [window_features(waveform(index), ready.n_mels, probed.frames)],
        workers=probed.workers,
    )
    batches = [
        range(first, min(first + WINDOWS_AT_ONCE, len(prompts))) for first in range(0, len(prompts), WINDOWS_AT_ONCE)
    ]
    states.prepare(batches)
    rules = TimestampRules(ready.tokenizer) if timestamps else None
    found: list[Hypothesis] = []
    for batch in batches:
        found += decode_windows(
            ready.whisper.decoder,
            states.fetch(batch),
            [prompts[index] for index in batch],
            ready.rules,
            ready.tokenizer.eot,
            [min(MAX_TOKENS, ready.tokenizer.max_tokens) - len(prompts[index]) for index in batch],
            probed.search,
            timestamps=rules,
        )
        advance(len(batch))
    return found
