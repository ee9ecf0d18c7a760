"""Reading audio: load_waveform against bare soundfile + soxr calls, and PyAV (FFmpeg) in libsndfile's place.

    python benchmarks/audio_reading.py [--seconds 8] [--clips 20]

All sides alternate within one run; the figure is the median over rounds. Below the table: which files cut in half each
decoder refuses, and a span of a long recording.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import soundfile
import soxr

from whispertune.data.audio.waveforms import load_waveform
from whispertune.errors import AudioError

ROUNDS = 9
FORMATS = {
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "opus": ("OGG", "OPUS"),
    "flac": ("FLAC", "PCM_16"),
    "wav": ("WAV", "PCM_16"),
}


def bare(path: Path) -> None:
    """What anyone would write."""
    samples, rate = soundfile.read(path, dtype="float32")
    soxr.resample(samples, rate, 16_000, quality="HQ")


def with_av(path: Path) -> None:
    """The same with PyAV decoding."""
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
        rate = container.streams.audio[0].rate
    samples = np.concatenate(frames, axis=1)[0]
    if samples.dtype == np.int16:
        samples = samples.astype(np.float32) / 32_768
    soxr.resample(samples.astype(np.float32), rate, 16_000, quality="HQ")


SIDES: dict[str, Callable[[Path], object]] = {
    "soundfile + soxr": bare,
    "PyAV + soxr": with_av,
    "load_waveform": load_waveform,
}


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


def refuses(work: Callable[[Path], object], path: Path) -> bool:
    try:
        work(path)
    except (AudioError, av.FFmpegError, soundfile.LibsndfileError):
        return True
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--clips", type=int, default=20)
    arguments = parser.parse_args()
    refused: dict[str, list[str]] = {name: [] for name in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        print(f"| {arguments.seconds:g} s at 48 kHz, ms a clip | {' | '.join(SIDES)} |\n|---|{'---|' * len(SIDES)}")
        for ending, (container, subtype) in FORMATS.items():
            paths = [Path(folder) / f"{number}.{ending}" for number in range(arguments.clips)]
            for number, path in enumerate(paths):
                soundfile.write(path, speech_like(arguments.seconds, number), 48_000, subtype, format=container)
            rounds = [[seconds_of(work, paths) for work in SIDES.values()] for _ in range(ROUNDS)]
            medians = [1000 * statistics.median(side) / len(paths) for side in zip(*rounds, strict=True)]
            print(f"| {ending} | {' | '.join(f'{figure:.2f}' for figure in medians)} |", flush=True)
            cut = Path(folder) / f"cut.{ending}"
            cut.write_bytes(paths[0].read_bytes()[: paths[0].stat().st_size // 2])
            for name, work in SIDES.items():
                refused[name] += [ending] if refuses(work, cut) else []
        for name, endings in refused.items():
            print(f"\nfiles cut in half that {name} refuses: {', '.join(endings) or 'none'}")
        long = Path(folder) / "long.flac"
        soundfile.write(long, np.tile(speech_like(60, 0), 60), 48_000)
        span = statistics.median(
            seconds_of(lambda path: load_waveform(path, 3_000.0, 3_008.0), [long]) for _ in range(5)
        )
        whole = seconds_of(bare, [long])
        print(f"\n8 s at minute 50 of an hour of flac: {1000 * span:.1f} ms; all of it: {whole:.1f} s")


if __name__ == "__main__":
    main()
