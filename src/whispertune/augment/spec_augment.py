"""SpecAugment: mask random time spans and frequency bands of a log-mel spectrogram."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from whispertune.augment.options import SpecAugmentOptions


def _draw_mask(max_width: int, size: int, generator: np.random.Generator) -> slice:
    """Width uniform in 0..max_width, then place uniform in 0..size - width (Park et al. 2019, section 2)."""
    width = int(generator.integers(0, min(max_width, size) + 1))
    start = int(generator.integers(0, size - width + 1))
    return slice(start, start + width)


def spec_augment(
    log_mel: npt.NDArray[np.float32], options: SpecAugmentOptions, generator: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Mask `log_mel` (n_mels, num_frames) with the options' probability; returns a copy of the same shape.

    Masks are filled with the mean of the log-mel. Pass only the frames of the speech: silence after it would shift
    the mean and attract masks.
    """
    masked = log_mel.copy()
    if generator.random() >= options.probability or log_mel.size == 0:
        return masked
    n_mels, num_frames = log_mel.shape
    mean = log_mel.mean(dtype=np.float64)
    for _ in range(options.time_masks):
        masked[:, _draw_mask(int(options.max_time_share * num_frames), num_frames, generator)] = mean
    for _ in range(options.frequency_masks):
        masked[_draw_mask(options.max_frequency_bins, n_mels, generator), :] = mean
    return masked
