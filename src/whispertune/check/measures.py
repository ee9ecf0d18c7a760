"""Measures of a clip's waveform: level, speech, pitch, spectrum, fingerprint."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from whispertune.data.audio.waveforms import SAMPLE_RATE, Waveform

FRAME, HOP, FFT_SIZE = 400, 160, 512
"""25 ms every 10 ms, zero-padded."""
PITCH_FRAME, PITCH_HOP, PITCH_FFT = 1024, 320, 2048
"""64 ms every 20 ms: at least two periods of the lowest pitch."""
PITCH_HZ = (40.0, 800.0)
"""Wider than the range of voices, so that a clip played at half or double speed still has a pitch."""
VOICED = 0.5
"""Normalised autocorrelation of a voiced frame (Boersma 1993 takes 0.45)."""
BANDS = 20
"""Bands of equal width up to 8 kHz, with 12 spectral lines each, so that noise looks alike in all frames."""
SPECTRUM_HZ = (80.0, 7600.0)
STEPS_PER_OCTAVE = 12
FINGERPRINT_BANDS, FINGERPRINT_TIMES = 17, 16
"""16 x 16 bits: whether the energy difference between neighbouring bands increases over time."""
QUIETEST_DB = -100.0

Array = npt.NDArray[np.float32]


@dataclass(slots=True)
class Measures:
    """Measures of one clip. Levels are in dB of full scale.

    speech: seconds from the first to the last frame within 30 dB of the loud ones. shape_spread: how much the
    spectrum's shape changes over time, dB (noise and hum: little; speech: much), whatever its colour and loudness.
    clipped: share of the samples within 1 % of the peak. pitch: median, Hz, or 0 if nothing is voiced. spectrum:
    mean level, dB, on a logarithmic frequency axis. fingerprint: 32 bytes that survive re-encoding.
    """

    seconds: float
    peak: float
    clipped: float
    speech: float
    shape_spread: float
    pitch: float
    spectrum: Array
    fingerprint: bytes


def measure(waveform: Waveform) -> Measures:
    """Measures of a waveform (num_samples,) at 16 kHz."""
    magnitude = np.abs(waveform)
    peak = float(magnitude.max())
    clipped = float((magnitude >= 0.99 * peak).mean()) if peak > 0 else 0.0
    padded = np.pad(waveform, (0, max(0, FRAME - len(waveform))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::HOP]
    power = np.abs(np.fft.rfft(frames * _hann(FRAME), FFT_SIZE).astype(np.complex64)) ** 2
    levels = decibels(np.square(frames).mean(axis=1))
    loud = float(np.percentile(levels, 95))
    audible = np.flatnonzero(levels > max(loud - 30.0, QUIETEST_DB))
    speech = (audible[-1] - audible[0] + 1) * HOP / SAMPLE_RATE if len(audible) else 0.0
    pitch = _pitch(padded)
    active = power[audible] if len(audible) else power
    return Measures(
        seconds=len(waveform) / SAMPLE_RATE,
        peak=float(decibels(np.float32(peak * peak))),
        clipped=clipped,
        speech=float(speech),
        shape_spread=_shape_spread(power, levels, loud),
        pitch=pitch,
        spectrum=_log_spectrum(active.mean(axis=0)),
        fingerprint=_fingerprint(power),
    )


def decibels(power: npt.ArrayLike) -> Array:
    """Power relative to full scale, in dB, at least -100."""
    values: Array = (10 * np.log10(np.maximum(power, 1e-10))).astype(np.float32)
    return values


@cache
def _hann(size: int) -> Array:
    return np.hanning(size).astype(np.float32)


def _shape_spread(power: Array, levels: Array, loud: float) -> float:
    """RMS deviation (dB) of the bands from the sum of their frame and band means."""
    width = (FFT_SIZE // 2) // BANDS
    bands = power[:, 1 : 1 + BANDS * width].reshape(len(power), BANDS, width).mean(axis=2)
    bands = bands[levels > loud - 40.0]
    if len(bands) < 2:
        return 0.0
    # Anything 60 dB below the loudest band is rounding of the file format.
    shape = decibels(np.maximum(bands, bands.max() * 1e-6))
    shape = shape - shape.mean(axis=1, keepdims=True)
    shape = shape - shape.mean(axis=0)
    return float(np.sqrt(np.mean(np.square(shape))))


def _pitch(waveform: Waveform) -> float:
    """Median pitch (Hz) of the voiced frames; 0 if there are none.

    Autocorrelation of the windowed frame over that of the window (Boersma 1993), first strong peak.
    """
    if len(waveform) < PITCH_FRAME:
        waveform = np.pad(waveform, (0, PITCH_FRAME - len(waveform)))
    frames = np.lib.stride_tricks.sliding_window_view(waveform, PITCH_FRAME)[::PITCH_HOP]
    energy: Array = np.square(frames).mean(axis=1)
    frames = frames[energy > 0.01 * energy.max()] if energy.max() > 0 else frames[:0]
    if not len(frames):
        return 0.0
    shortest, longest = int(SAMPLE_RATE / PITCH_HZ[1]), int(SAMPLE_RATE / PITCH_HZ[0])
    correlation: Array = _autocorrelation((frames - frames.mean(axis=1, keepdims=True)) * _hann(PITCH_FRAME))
    window = _autocorrelation(_hann(PITCH_FRAME)[None])[0]
    correlation = np.asarray(correlation[:, : longest + 2] / np.maximum(correlation[:, :1], 1e-12), np.float32)
    correlation /= window[: longest + 2] / window[0]
    inner = correlation[:, shortest : longest + 1]
    peaks = (inner >= correlation[:, shortest - 1 : longest]) & (inner > correlation[:, shortest + 1 : longest + 2])
    heights = np.where(peaks, inner, -1.0)
    best = heights.max(axis=1)
    # Peaks at multiples of the period are as high, so take the first that is nearly the highest.
    first = np.argmax(heights >= 0.9 * best[:, None], axis=1)
    voiced = best > VOICED
    if not voiced.any():
        return 0.0
    return float(SAMPLE_RATE / np.median(first[voiced] + shortest))


def _autocorrelation(frames: Array) -> Array:
    spectrum = np.fft.rfft(frames, PITCH_FFT)
    values: Array = np.fft.irfft(np.abs(spectrum) ** 2)[:, : PITCH_FRAME // 2].astype(np.float32)
    return values


@cache
def log_frequencies() -> Array:
    """(F,) Hz of the logarithmic axis, 12 steps per octave."""
    count = int(np.log2(SPECTRUM_HZ[1] / SPECTRUM_HZ[0]) * STEPS_PER_OCTAVE) + 1
    values: Array = (SPECTRUM_HZ[0] * 2 ** (np.arange(count) / STEPS_PER_OCTAVE)).astype(np.float32)
    return values


def _log_spectrum(power: Array) -> Array:
    frequencies = np.arange(len(power)) * SAMPLE_RATE / FFT_SIZE
    floor = max(float(power.max()) * 1e-8, 1e-10)
    return np.interp(log_frequencies(), frequencies, decibels(np.maximum(power, floor))).astype(np.float32)


@cache
def _fingerprint_edges() -> npt.NDArray[np.int64]:
    """Spectral lines that bound the fingerprint's bands: 200 to 3500 Hz, which all codecs preserve, in equal ratios."""
    hertz = np.geomspace(200.0, 3500.0, FINGERPRINT_BANDS + 1)
    return np.unique(np.rint(hertz * FFT_SIZE / SAMPLE_RATE).astype(np.int64))


def _fingerprint(power: Array) -> bytes:
    """256 bits after Haitsma and Kalker 2002, over 16 equal parts of the clip instead of fixed time steps."""
    edges = _fingerprint_edges()
    bands = np.add.reduceat(power, edges, axis=1)[:, :-1]
    bounds = np.linspace(0, len(bands), FINGERPRINT_TIMES + 2).astype(int)
    parts = np.stack([bands[a : max(b, a + 1)].mean(axis=0) for a, b in pairwise(bounds)])
    logs = decibels(parts)
    rising = np.diff(logs, axis=1)
    return np.packbits(np.diff(rising, axis=0) > 0).tobytes()
