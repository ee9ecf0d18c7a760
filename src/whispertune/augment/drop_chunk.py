"""Chunk drop: a few short stretches of a clip are silenced."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from whispertune.augment.options import DropChunkOptions
from whispertune.data.audio.waveforms import SAMPLE_RATE


def draw_chunks(num_samples: int, options: DropChunkOptions, generator: np.random.Generator) -> list[tuple[int, int]]:
    """Draw the 1 to `max_chunks` chunks (first sample, sample after the last) to silence; may overlap."""
    chunks = []
    budget = int(options.max_share * num_samples)
    for _ in range(generator.integers(1, options.max_chunks + 1)):
        duration = generator.uniform(options.min_duration, options.max_duration)
        chunk_samples = min(round(duration * SAMPLE_RATE), budget)
        budget -= chunk_samples
        # Drawn as a fraction of the clip, so that the chunk moves with a change of speed.
        start = int(generator.random() * (num_samples - chunk_samples + 1))
        chunks.append((start, start + chunk_samples))
    return chunks


def drop_chunk(
    waveform: npt.NDArray[np.float32], options: DropChunkOptions, generator: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Set random chunks of `waveform` (num_samples,) float32 to 0 with the options' probability.

    Returns a new array of the same shape, or the waveform itself if nothing is dropped.
    """
    if generator.random() >= options.probability:
        return waveform
    dropped = waveform.copy()
    for start, end in draw_chunks(waveform.size, options, generator):
        dropped[start:end] = 0
    return dropped
