"""Reading audio: load_waveform against bare soundfile + soxr calls, and a span of a long recording against the whole.

    python benchmarks/audio_reading.py [--seconds 8] [--clips 20]

Both sides alternate within one run; the figure is the median over rounds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import soxr

from whispertune.data.audio import load_waveform

ROUNDS = 9
FORMATS = {
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "ogg": ("OGG", "OPUS"),
    "flac": ("FLAC", "PCM_16"),
    "wav": ("WAV", "PCM_16"),
}


def bare(path: Path) -> None:
    """What anyone would write."""
    samples, rate = soundfile.read(path, dtype="float32")
    soxr.resample(samples, rate, 16_000, quality="HQ")


def seconds_of(work: Callable[[Path], object], paths: list[Path]) -> float:
    started = time.perf_counter()
    for path in paths:
        work(path)
    return time.perf_counter() - started


def speech_like(seconds: float, seed: int) -> np.ndarray:
    """Noise at 48 kHz with a falling spectrum and syllables, so that codecs work as on speech."""
    generator = np.random.default_rng(seed)
    noise = np.convolve(generator.standard_normal(round(seconds * 48_000)), np.ones(16) / 16, "same")
    return 0.4 * noise * (1 + np.sin(np.arange(len(noise)) * 2 * np.pi * 4 / 48_000))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--clips", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print("| format, 48 kHz mono | bare, ms a clip | load_waveform, ms a clip | ratio |\n|---|---|---|---|")
        for ending, (container, subtype) in FORMATS.items():
            paths = [Path(folder) / f"{number}.{ending}" for number in range(arguments.clips)]
            for number, path in enumerate(paths):
                soundfile.write(path, speech_like(arguments.seconds, number), 48_000, subtype, format=container)
            rounds = [(seconds_of(bare, paths), seconds_of(load_waveform, paths)) for _ in range(ROUNDS)]
            ours, theirs = (
                1000 * statistics.median(side) / len(paths) for side in reversed(list(zip(*rounds, strict=True)))
            )
            print(f"| {ending}, {arguments.seconds:g} s | {theirs:.2f} | {ours:.2f} | {ours / theirs:.2f} |")
        long = Path(folder) / "long.flac"
        soundfile.write(long, np.tile(speech_like(60, 0), 60), 48_000)
        span = statistics.median(
            seconds_of(lambda path: load_waveform(path, 3_000.0, 3_008.0), [long]) for _ in range(5)
        )
        print(
            f"\n8 s at minute 50 of an hour of flac: {1000 * span:.1f} ms; all of it: {seconds_of(bare, [long]):.1f} s"
        )


if __name__ == "__main__":
    main()
