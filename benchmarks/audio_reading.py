"""Reading audio: load_waveform against bare soundfile + soxr calls, a span of a long recording against the whole, and
what reading costs a training epoch.

    python benchmarks/audio_reading.py [--seconds 8] [--clips 20] [--trained 16] [--pairs 3]

Both sides alternate within one run; the figure is the median over rounds. The epochs train on Italian prompts as MP3 at
48 kHz, nothing stored (`states.store off`): in every other one the waveforms are in memory already.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import soxr
from common import DATA

from whispertune import windows
from whispertune.data.audio import Waveform, load_utterance, load_waveform
from whispertune.data.utterances import Utterance
from whispertune.recipe import Recipe
from whispertune.run_folder import RunFolder, read_jsonl
from whispertune.session import open_session
from whispertune.stages import build_run_schedule, build_trainer
from whispertune.store.plan import StateOptions
from whispertune.training.resume import Progress, StopSignal

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


def epochs(folder: Path, clips: int, pairs: int, model: str) -> list[tuple[float, float]]:
    """Seconds of the updates of an epoch that decodes its audio and of one that has it in memory, pair by pair."""
    with (DATA / "train.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[: clips + 1]
    lines = []
    for number, row in enumerate(rows):
        samples = soxr.resample(load_waveform(DATA / row["audio"]), 16_000, 48_000, quality="HQ")
        soundfile.write(folder / f"said{number}.mp3", samples, 48_000, "MPEG_LAYER_III", format="MP3")
        lines.append([f"said{number}.mp3", row["text"]])
    for name, part in (("train", lines[:clips]), ("valid", lines[clips:])):
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([["audio", "text"], *part])
    recipe = Recipe(
        model=model, train=str(folder / "train.csv"), valid=str(folder / "valid.csv"), language="it",
        output=str(folder / "run"), accumulation=1, epochs=1 + 2 * pairs, states=StateOptions(store="off"),
    )  # fmt: skip
    run = RunFolder(folder / "run")
    run.create()
    session = open_session(recipe, run, StopSignal())
    progress = Progress()
    trainer = build_trainer(session, build_run_schedule(session), progress)
    utterances = [window.utterances[0] for split in (session.train, session.valid) for window in split.windows]
    heard = {utterance.id: load_utterance(utterance) for utterance in utterances}

    def load(utterance: Utterance) -> Waveform:
        return load_utterance(utterance) if progress.epoch % 2 == 0 else heard[utterance.id]

    windows.load_utterance = load
    trainer.run()
    windows.load_utterance = load_utterance
    seconds: dict[int, float] = defaultdict(float)
    for row in read_jsonl(run.metrics):
        if "loss" in row and "split" not in row:
            seconds[row["epoch"]] += row["seconds"]
    return [(seconds[epoch], seconds[epoch + 1]) for epoch in range(2, 2 + 2 * pairs, 2)]  # the first one warms up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--trained", type=int, default=16, help="clips in an epoch")
    parser.add_argument("--pairs", type=int, default=3, help="of epochs; 0 trains none")
    parser.add_argument("--model", default="packaged:whisper-base")
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
        if arguments.pairs:
            tell_epochs(epochs(Path(folder), arguments.trained, arguments.pairs, arguments.model), arguments.trained)


def tell_epochs(pairs: list[tuple[float, float]], clips: int) -> None:
    print(f"\n| epoch of {clips} clips | audio decoded, s | in memory, s | ratio |\n|---|---|---|---|")
    for decoded, memory in pairs:
        print(f"| | {decoded:.2f} | {memory:.2f} | {decoded / memory:.3f} |")
    print(f"| median | | | {statistics.median(decoded / memory for decoded, memory in pairs):.3f} |")


if __name__ == "__main__":
    main()
