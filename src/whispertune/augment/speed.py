"""Speed perturbation: a clip played faster or slower, tempo and pitch together (Ko et al. 2015)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import soxr

from whispertune.augment.bounds import require_between
from whispertune.data.audio.waveforms import SAMPLE_RATE
from whispertune.errors import RecipeError


@dataclass(frozen=True, kw_only=True)
class SpeedOptions:
    """How often and how much the speed is changed."""

    probability: float = 0.0
    """Share of utterances whose speed is drawn anew, 0 to 1."""
    factors: tuple[float, ...] = (0.95, 1.0, 1.05)
    """Speeds to draw from, each as likely; 1.05 plays 5 % faster."""

    def __post_init__(self) -> None:
        require_between("speed.probability", self.probability, 0, 1)
        if not self.factors:
            raise RecipeError("augment.speed.factors is empty; give at least one speed, such as 1.05")
        for factor in self.factors:
            require_between("speed.factors", factor, 0.5, 2)


def num_samples_at(num_samples: int, factor: float) -> int:
    """Samples of a clip of `num_samples` once it is played `factor` times faster."""
    return round(num_samples / factor)


def change_speed(waveform: npt.NDArray[np.float32], factor: float) -> npt.NDArray[np.float32]:
    """Play `waveform` (num_samples,) `factor` times faster: round(num_samples / factor) samples, float32.

    Pitch rises by the factor as well. Factor 1 returns the waveform itself.
    """
    if factor == 1:
        return waveform
    num_samples = num_samples_at(waveform.size, factor)
    # To take the clip for one recorded at a higher rate is to play it faster.
    resampled = soxr.resample(waveform, SAMPLE_RATE * factor, SAMPLE_RATE)[:num_samples]
    # soxr rounds the number of samples in its own way and may be one short.
    return np.pad(resampled, (0, num_samples - resampled.size)).astype(np.float32, copy=False)


def draw_speed(options: SpeedOptions, generator: np.random.Generator) -> float:
    """Draw a speed: one of the factors with the options' probability, else 1."""
    # Both are always drawn, so that the probability does not shift later draws.
    chosen, index = generator.random(), generator.integers(len(options.factors))
    return options.factors[index] if chosen < options.probability else 1.0
