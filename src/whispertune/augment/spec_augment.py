"""SpecAugment: stretches of time and bands of frequency of a log-mel spectrogram are masked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from whispertune.augment.bounds import require_between


@dataclass(frozen=True, kw_only=True)
class SpecAugmentOptions:
    """How often the log-mel is masked, and how much of it.

    The defaults follow the "Switchboard mild" policy of Park et al. 2019 (2 + 2 masks, 15 bins) without
    its time warping (no major factor, they found) and with shorter time masks.
    """

    probability: float = 0.0
    """Share of utterances whose log-mel is masked, 0 to 1."""
    time_masks: int = 2
    """Number of masks in time."""
    max_time_share: float = 0.05
    """Longest time mask, as a share of the utterance, 0 to 1."""
    frequency_masks: int = 2
    """Number of masks in frequency."""
    max_frequency_bins: int = 15
    """Widest frequency mask, in mel bins (of 80 or 128)."""

    def __post_init__(self) -> None:
        require_between("spec_augment.probability", self.probability, 0, 1)
        require_between("spec_augment.time_masks", self.time_masks, 0, 100)
        require_between("spec_augment.max_time_share", self.max_time_share, 0, 1)
        require_between("spec_augment.frequency_masks", self.frequency_masks, 0, 100)
        require_between("spec_augment.max_frequency_bins", self.max_frequency_bins, 0, 128)


def _draw_mask(max_width: int, size: int, generator: np.random.Generator) -> slice:
    """Width uniform in 0..max_width, then place uniform in 0..size - width (Park et al. 2019, section 2)."""
    width = int(generator.integers(0, min(max_width, size) + 1))
    start = int(generator.integers(0, size - width + 1))
    return slice(start, start + width)


def spec_augment(
    log_mel: npt.NDArray[np.float32], options: SpecAugmentOptions, generator: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Mask `log_mel` (n_mels, num_frames) with the options' probability; returns a copy of the same shape.

    Masks hold the mean of the log-mel. Give the frames of the speech alone: silence behind it would draw
    that mean, and the masks, to itself.
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
