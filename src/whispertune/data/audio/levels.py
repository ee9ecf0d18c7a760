"""Detect samples at integer scale, and channels that cancel when they are mixed."""

from __future__ import annotations

import shlex

import numpy as np
import numpy.typing as npt

from whispertune.data.audio.recording import Recording, fail

HIGHEST_PEAK = 10.0
"""20 dB above full scale. Overshoot of codecs and resampling stays below 2; floats at the scale of 8-bit integers
peak at up to 128."""
INTEGER_SCALES = (1 << 7, 1 << 15, 1 << 23, 1 << 31)
CANCELLED = 1e-3
"""Power of the mix over the mean power of the channels: -30 dB. Uncorrelated channels mix to -3 dB."""
AUDIBLE = 1e-6
"""Mean power of -60 dB; whether quieter channels cancel does not matter."""

Samples = npt.NDArray[np.float32]


def require_usual_levels(recording: Recording, samples: Samples) -> None:
    """Raise AudioError if samples (of any shape) peak far above full scale (1), which Whisper cannot transcribe.

    NaN and infinite samples are checked elsewhere.
    """
    peak = max(float(samples.max(initial=0.0)), -float(samples.min(initial=0.0)))
    if not HIGHEST_PEAK < peak < np.inf:
        return
    scale = next((scale for scale in INTEGER_SCALES if peak <= 1.01 * scale), INTEGER_SCALES[-1])
    fail(
        recording,
        f"its samples peak {20 * np.log10(peak):.0f} dB above full scale: they are floats at the scale of integers",
        f"divide them by {scale}, e.g. {_ffmpeg(recording, f'volume=1/{scale}')}",
    )


def mixed(recording: Recording, block: Samples) -> Samples:
    """The mean (num_samples,) of channels (num_samples, num_channels).

    Raises AudioError if they are audible and their mean is not, as one of them is in opposite phase.
    """
    with np.errstate(over="ignore"):  # the mix is checked for infinities later
        mean: Samples = block.mean(axis=1, dtype=np.float32)
    before, after = _power(block), _power(mean)
    if AUDIBLE < before < np.inf and after < CANCELLED * before:
        fail(
            recording,
            f"its {block.shape[1]} channels are in opposite phase: mixed to one they are silence",
            f"name one in a channel column, or {_ffmpeg(recording, 'pan=mono|c0=c0')}",
        )
    return mean


def _ffmpeg(recording: Recording, audio_filter: str) -> str:
    return shlex.join(["ffmpeg", "-i", str(recording.audio), "-af", audio_filter, "out.wav"])


def _power(samples: Samples) -> float:
    return float(np.vdot(samples, samples)) / max(samples.size, 1)
