"""Noise from the user's own recordings, mixed in at a drawn signal-to-noise ratio."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from whispertune.data.audio.waveforms import SAMPLE_RATE, load_waveform
from whispertune.data.remote import files_below
from whispertune.errors import AudioError, RecipeError
from whispertune.system.home import expand_home

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")
SPAN_MARGIN = 0.01  # extra seconds to read, so that rounding to the recording's rate never leaves too few samples


class NoiseSource:
    """The recordings of a noise folder: headers are read once, samples as they are needed.

    Raises RecipeError at construction if the folder is missing or has no recordings, AudioError if a header is
    unreadable.
    """

    def __init__(self, folder: str) -> None:
        root = expand_home(folder)
        if not root.is_dir():
            raise RecipeError(f"is {folder}; there is no such folder", field="augment.noise.folder")
        # Sorted, as the listing's order depends on the machine. Hidden files ("._x.wav" on macOS) are not recordings.
        files = sorted(
            path
            for path in files_below(root)
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
        )
        if not files:
            kinds = ", ".join(suffix.removeprefix(".") for suffix in SUFFIXES)
            raise RecipeError(f"is {folder}; it holds no recording ({kinds})", field="augment.noise.folder")
        self.recordings: list[tuple[Path, float]] = [(path, _duration(path)) for path in files]

    def draw(self, num_samples: int, generator: np.random.Generator) -> npt.NDArray[np.float32]:
        """Draw `num_samples` of noise, (num_samples,) float32 at 16 kHz.

        A random recording from a random position; if it is too short, it is repeated. Raises AudioError if it cannot be
        read.
        """
        path, duration = self.recordings[generator.integers(len(self.recordings))]
        place = generator.random()
        span = num_samples / SAMPLE_RATE + SPAN_MARGIN
        if duration > span:  # read no more of a long recording than is needed
            start = place * (duration - span)
            noise = load_waveform(path, start, start + span)
        else:
            whole = load_waveform(path)
            noise = np.roll(whole, -int(place * whole.size))
        return np.resize(noise, num_samples)


def _duration(path: Path) -> float:
    """Seconds according to the file's header."""
    try:
        return float(soundfile.info(str(path)).duration)
    except (soundfile.SoundFileError, OSError) as error:
        raise AudioError(f"{path}: cannot be read as noise ({error}); remove or replace it") from error


def add_noise(
    waveform: npt.NDArray[np.float32], noise: npt.NDArray[np.float32], snr_db: float
) -> npt.NDArray[np.float32]:
    """Mix `noise` into `waveform` (num_samples,) so that 10 log10(signal power / noise power) == snr_db.

    Powers are means over the whole clip. Shorter noise is repeated, longer noise is cut. Returns a new float32 array,
    or the waveform itself if it or the noise is silent (the ratio is undefined then).
    """
    if waveform.size == 0 or noise.size == 0:
        return waveform
    # In float64, as the squares of faint samples underflow in float32.
    signal, fitted = waveform.astype(np.float64), np.resize(noise, waveform.size).astype(np.float64)
    signal_power, noise_power = np.mean(signal**2), np.mean(fitted**2)
    if signal_power == 0 or noise_power == 0:
        return waveform
    gain = np.sqrt(signal_power / noise_power) * 10 ** (-snr_db / 20)
    mixed: npt.NDArray[np.float32] = (signal + gain * fitted).astype(np.float32)
    return mixed
