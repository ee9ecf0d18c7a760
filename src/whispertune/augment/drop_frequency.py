"""Frequency drop: a few narrow bands of the spectrum are removed from a clip."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from whispertune.augment.options import DropFrequencyOptions
from whispertune.data.audio.waveforms import SAMPLE_RATE

EDGE_HZ = 50.0  # width of the raised-cosine edge on either side of a dropped band; keeps its ringing short
PADDING = SAMPLE_RATE // 10  # samples of silence after the clip, so that ringing does not wrap around
FFT_BLOCK = 4000  # the FFT size is a multiple of this, so that its factors are small and it is fast


def draw_bands(options: DropFrequencyOptions, generator: np.random.Generator) -> list[float]:
    """Draw the lower limits, in Hz, of 1 to `max_bands` bands to drop (they may overlap)."""
    num_bands = int(generator.integers(1, options.max_bands + 1))
    last = options.highest_hz - options.width_hz
    return [float(generator.uniform(options.lowest_hz, last)) for _ in range(num_bands)]


def remove_bands(waveform: npt.NDArray[np.float32], bands: list[float], width_hz: float) -> npt.NDArray[np.float32]:
    """Remove from `waveform` (num_samples,) the bands [low, low + width_hz] Hz, for each low in `bands`.

    Zero-phase: the spectrum is multiplied by a real mask, 0 inside a band and rising to 1 over EDGE_HZ
    outside it. Returns a new float32 array of the same shape.
    """
    size = -(-(waveform.size + PADDING) // FFT_BLOCK) * FFT_BLOCK
    frequencies = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    mask = np.ones_like(frequencies)
    for low in bands:
        distance = np.maximum(low - frequencies, frequencies - (low + width_hz))  # Hz outside of the band
        mask *= 0.5 - 0.5 * np.cos(np.pi * np.clip(distance / EDGE_HZ, 0, 1))
    filtered = np.fft.irfft(np.fft.rfft(waveform, size) * mask, size)[: waveform.size]
    return filtered.astype(np.float32)


def drop_frequency(
    waveform: npt.NDArray[np.float32], options: DropFrequencyOptions, generator: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Drop random bands from `waveform` (num_samples,) float32 with the options' probability.

    Returns a new array of the same shape, or the waveform itself if nothing is dropped.
    """
    if generator.random() >= options.probability:
        return waveform
    return remove_bands(waveform, draw_bands(options, generator), options.width_hz)
