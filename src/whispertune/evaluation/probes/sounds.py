"""Sounds without speech, generated from a seed: silence, and the noises of a recording room."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from whispertune.features.log_mel import SAMPLE_RATE

SoundKind = Literal["digital silence", "white noise", "pink noise", "hum", "clicks"]
SOUND_KINDS: tuple[SoundKind, ...] = get_args(SoundKind)

NOISE_LEVEL = 10 ** (-40 / 20)
"""RMS of the steady noises, of full scale: the background of an ordinary recording, 20 to 30 dB below its speech."""
HUM_HZ = 50.0
HUM_HARMONICS = 10
CLICKS_A_SECOND = 2.0
CLICK_PEAK = 10 ** (-15 / 20)
CLICK_DECAY_SECONDS = 0.002

Waveform = npt.NDArray[np.float32]


def generate_sound(kind: SoundKind, num_samples: int, seed: int) -> Waveform:
    """(num_samples,) float32 at 16 kHz, determined by the kind and the seed.

    White noise has equal power at all frequencies, pink noise falls by 3 dB per octave; hum is 50 Hz and nine
    harmonics whose amplitudes fall with their number, in random phases; clicks are short bursts of noise at random
    times, two a second on average, on digital silence.
    """
    generator = np.random.Generator(np.random.PCG64([seed, SOUND_KINDS.index(kind)]))
    if kind == "digital silence":
        return np.zeros(num_samples, np.float32)
    if kind == "clicks":
        return _clicks(num_samples, generator)
    if kind == "hum":
        sound = _hum(num_samples, generator)
    else:
        sound = generator.standard_normal(num_samples)
        if kind == "pink noise":
            sound = _pink(sound)
    level = float(np.sqrt(np.mean(np.square(sound))))
    return np.asarray(sound * (NOISE_LEVEL / level), np.float32)


def _pink(white: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """White noise whose amplitudes are divided by the square root of their frequency; no constant part is left."""
    spectrum = np.fft.rfft(white)
    spectrum[0] = 0
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    return np.fft.irfft(spectrum, len(white))


def _hum(num_samples: int, generator: np.random.Generator) -> npt.NDArray[np.float64]:
    turns = HUM_HZ * np.arange(num_samples) / SAMPLE_RATE
    phases = generator.random(HUM_HARMONICS)
    sound = np.zeros(num_samples)
    for number, phase in enumerate(phases, 1):
        sound += np.sin(2 * np.pi * (number * turns + phase)) / number
    return sound


def _clicks(num_samples: int, generator: np.random.Generator) -> Waveform:
    sound = np.zeros(num_samples, np.float32)
    count = generator.poisson(CLICKS_A_SECOND * num_samples / SAMPLE_RATE)
    times = np.arange(round(10 * CLICK_DECAY_SECONDS * SAMPLE_RATE)) / SAMPLE_RATE
    envelope = CLICK_PEAK * np.exp(-times / CLICK_DECAY_SECONDS)
    for begin in np.sort(generator.integers(num_samples, size=count)).tolist():
        burst = (generator.uniform(-1, 1, len(envelope)) * envelope).astype(np.float32)
        part = sound[begin : begin + len(burst)]
        part += burst[: len(part)]
    return sound
