"""Chunk drop: a few short stretches of a clip are silenced."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from whispertune.augment.bounds import require_between
from whispertune.data.audio.waveforms import SAMPLE_RATE
from whispertune.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class DropChunkOptions:
    """How often chunks are dropped, how many and how long."""

    probability: float = 0.0
    """Share of utterances that lose chunks, 0 to 1."""
    max_chunks: int = 3
    """An utterance loses 1 to this many chunks."""
    min_duration: float = 0.05
    """Shortest chunk, in seconds (less where max_share demands it)."""
    max_duration: float = 0.125
    """Longest chunk, in seconds."""
    max_share: float = 0.1
    """All chunks together never exceed this share of the utterance, 0 to 1."""

    def __post_init__(self) -> None:
        require_between("drop_chunk.probability", self.probability, 0, 1)
        require_between("drop_chunk.max_chunks", self.max_chunks, 1, 100)
        require_between("drop_chunk.min_duration", self.min_duration, 0, 30)
        require_between("drop_chunk.max_duration", self.max_duration, 0, 30)
        require_between("drop_chunk.max_share", self.max_share, 0, 1)
        if self.min_duration > self.max_duration:
            raise RecipeError(
                f"augment.drop_chunk.min_duration is {self.min_duration:g}; "
                f"it must not exceed max_duration ({self.max_duration:g})"
            )


def draw_chunks(num_samples: int, options: DropChunkOptions, generator: np.random.Generator) -> list[tuple[int, int]]:
    """Draw the 1 to `max_chunks` chunks (first sample, sample after the last) to silence; may overlap."""
    chunks = []
    budget = int(options.max_share * num_samples)
    for _ in range(generator.integers(1, options.max_chunks + 1)):
        duration = generator.uniform(options.min_duration, options.max_duration)
        chunk_samples = min(round(duration * SAMPLE_RATE), budget)
        budget -= chunk_samples
        # A fraction of the clip, so that a change of its speed moves the chunk along.
        start = int(generator.random() * (num_samples - chunk_samples + 1))
        chunks.append((start, start + chunk_samples))
    return chunks


def drop_chunk(
    waveform: npt.NDArray[np.float32], options: DropChunkOptions, generator: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Set random chunks of `waveform` (num_samples,) float32 to 0 with the options' probability.

    Returns a new array of the same shape, or the waveform itself where nothing is dropped.
    """
    if generator.random() >= options.probability:
        return waveform
    dropped = waveform.copy()
    for start, end in draw_chunks(waveform.size, options, generator):
        dropped[start:end] = 0
    return dropped
