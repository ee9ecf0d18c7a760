"""Speed perturbation: a clip played faster or slower, tempo and pitch together (Ko et al. 2015)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import soxr

from whispertune.augment.options import SpeedOptions
from whispertune.data.audio.waveforms import SAMPLE_RATE


def num_samples_at(num_samples: int, factor: float) -> int:
    """Samples of a clip of `num_samples` played `factor` times faster."""
    return round(num_samples / factor)


def change_speed(waveform: npt.NDArray[np.float32], factor: float) -> npt.NDArray[np.float32]:
    """Play `waveform` (num_samples,) `factor` times faster: round(num_samples / factor) samples, float32.

    Pitch rises by the factor as well. Factor 1 returns the waveform itself.
    """
    if factor == 1:
        return waveform
    num_samples = num_samples_at(waveform.size, factor)
    # Treating the clip as recorded at a higher rate plays it faster.
    resampled = soxr.resample(waveform, SAMPLE_RATE * factor, SAMPLE_RATE)[:num_samples]
    # soxr rounds the number of samples differently and may be one short.
    return np.pad(resampled, (0, num_samples - resampled.size)).astype(np.float32, copy=False)


def draw_speed(options: SpeedOptions, generator: np.random.Generator) -> float:
    """Draw a speed: one of the factors with the options' probability, else 1."""
    # Both are always drawn, so that the probability does not shift later draws.
    chosen, index = generator.random(), generator.integers(len(options.factors))
    return options.factors[index] if chosen < options.probability else 1.0
