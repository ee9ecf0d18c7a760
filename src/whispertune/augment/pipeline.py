"""Augmentation of one utterance: the random generator of its draws and the steps on its waveform."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from whispertune.augment.drop_chunk import drop_chunk
from whispertune.augment.drop_frequency import drop_frequency
from whispertune.augment.noise import NoiseSource, add_noise
from whispertune.augment.options import (
    AugmentOptions,
    SpecAugmentOptions,
)
from whispertune.augment.spec_augment import spec_augment
from whispertune.augment.speed import change_speed, draw_speed, num_samples_at


def _generator(seed: int) -> np.random.Generator:
    # PCG64 by name: default_rng may take another bit generator in a later NumPy.
    return np.random.Generator(np.random.PCG64(seed))


def generator_for(seed: int, view: int, utterance_id: str) -> np.random.Generator:
    """The random generator for one view of one utterance; `view` is an epoch or a stored view's number.

    The same in every process and on every machine: seeded by SHA-256, as Python salts hash().
    """
    # An id made from a path may hold lone surrogates (file names that are not UTF-8).
    key = f"{seed}\n{view}\n{utterance_id}".encode("utf-8", "surrogatepass")
    return _generator(int.from_bytes(hashlib.sha256(key).digest(), "little"))


def spec_mask(
    options: SpecAugmentOptions, num_frames: int, *, seed: int, view: int, utterance_id: str
) -> Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]:
    """SpecAugment, in place, of the speech: the first `num_frames` frames of a log-mel (n_mels, M)."""
    generator = generator_for(seed, view, f"{utterance_id}/spec")

    def mask(log_mel: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        log_mel[:, :num_frames] = spec_augment(log_mel[:, :num_frames], options, generator)
        return log_mel

    return mask


def _one_for_each_step(generator: np.random.Generator) -> list[np.random.Generator]:
    # One generator per step, so that enabling one does not change the draws of the others.
    return [_generator(int(seed)) for seed in generator.integers(2**63, size=4)]


class WaveformAugmenter:
    """Speed, noise, frequency drop and chunk drop, in this order, each with its probability.

    Raises RecipeError at construction if noise is on and its folder has no recordings.
    """

    def __init__(self, options: AugmentOptions) -> None:
        self.options = options
        wanted = options.noise.folder if options.noise.probability > 0 else None
        self.noise = NoiseSource(wanted) if wanted else None

    def __call__(
        self, waveform: npt.NDArray[np.float32], generator: np.random.Generator, *, max_samples: int
    ) -> npt.NDArray[np.float32]:
        """Augment `waveform` (num_samples,) float32 mono 16 kHz; returns (at most max_samples,) float32.

        A drawn speed that would exceed `max_samples` is not applied. The input is not modified; it is returned itself
        if no step applies. The number of draws from `generator` is always the same. Raises ValueError if the input
        exceeds `max_samples` (speech is never cut here), AudioError if a noise recording cannot be read.
        """
        if waveform.size > max_samples:
            raise ValueError(f"waveform has {waveform.size} samples, more than max_samples = {max_samples}")
        speed, noise, frequency, chunk = _one_for_each_step(generator)
        waveform = change_speed(waveform, self._factor(waveform.size, speed, max_samples))
        waveform = self._add_noise(waveform, noise)
        waveform = drop_frequency(waveform, self.options.drop_frequency, frequency)
        return drop_chunk(waveform, self.options.drop_chunk, chunk)

    def num_samples(self, num_samples: int, generator: np.random.Generator, *, max_samples: int) -> int:
        """The length of a waveform of `num_samples` after augmentation."""
        speed, *_ = _one_for_each_step(generator)
        return num_samples_at(num_samples, self._factor(num_samples, speed, max_samples))

    def _factor(self, num_samples: int, generator: np.random.Generator, max_samples: int) -> float:
        factor = draw_speed(self.options.speed, generator)
        return factor if num_samples_at(num_samples, factor) <= max_samples else 1.0

    def _add_noise(self, waveform: npt.NDArray[np.float32], generator: np.random.Generator) -> npt.NDArray[np.float32]:
        options = self.options.noise
        if self.noise is None or generator.random() >= options.probability:
            return waveform
        snr_db = generator.uniform(options.min_snr, options.max_snr)
        return add_noise(waveform, self.noise.draw(waveform.size, generator), snr_db)
