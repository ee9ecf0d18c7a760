"""When each word is said: whispertune's word times and confidence against openai-whisper's, with the same weights.

    python benchmarks/word_times.py
    python benchmarks/word_times.py --manifest examples/italian-prompts/valid.csv --clips 30

Each clip alone, greedy, temperature 0, float32, the language given. Words are compared in the clips for which both
sides have the same text. With thinned frames the model hears a little less of the silence after a clip, so that a few
texts differ. Needs `openai-whisper`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import DATA, add_common, markdown, publish
from long_form import our_transcripts, their_side

from whispertune.data.audio.waveforms import load_waveform
from whispertune.data.readers.manifest import read_manifest
from whispertune.decoding.loading import load_model, ready_to_decode
from whispertune.decoding.long_form import LongForm
from whispertune.decoding.options import FallbackOptions, LongFormOptions
from whispertune.features.options import DENSE, FrameOptions

NEAR = 0.06  # seconds


def our_words(given: argparse.Namespace, paths: list[Path], frames: FrameOptions) -> list[list[tuple[Any, ...]]]:
    ready = ready_to_decode(load_model(given.model, torch.device("cpu")))
    long_form = LongForm(
        ready, search=FallbackOptions(beam_size=1, temperature=(0.0,)), options=LongFormOptions(word_timestamps=True),
        language=given.language, frames=frames,
    )  # fmt: skip
    return [
        [(w.text, w.start, w.end, w.confidence) for segment in transcript.segments for w in segment.words]
        for transcript in our_transcripts(long_form, paths)
    ]


def their_words(given: argparse.Namespace, paths: list[Path]) -> list[list[tuple[Any, ...]]]:
    model, found = their_side(given.model), []
    options = {"language": given.language, "temperature": 0.0, "fp16": False, "word_timestamps": True}
    for path in paths:
        segments = model.transcribe(load_waveform(path), **options)["segments"]
        found.append([(w["word"], w["start"], w["end"], w["probability"]) for s in segments for w in s["words"]])
        print(len(found), end=" ", flush=True)
    return found


def compared(name: str, ours: list[list[tuple[Any, ...]]], theirs: list[list[tuple[Any, ...]]]) -> list[object]:
    same = [pair for pair in zip(ours, theirs, strict=True) if [w[0] for w in pair[0]] == [w[0] for w in pair[1]]]
    pairs = [words for clips in same for words in zip(*clips, strict=True)]
    apart = np.array([[abs(a[place] - b[place]) for place in (1, 2, 3)] for a, b in pairs])
    times = apart[:, :2].max(axis=1)
    return [
        name, f"{len(same)} of {len(ours)}", len(pairs), f"{100 * np.mean(times <= NEAR + 1e-6):.1f} %",
        f"{times.mean():.3f}", f"{times.max():.2f}", f"{apart[:, 2].mean():.4f}", f"{apart[:, 2].max():.4f}",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="packaged:whisper-base")
    parser.add_argument("--manifest", type=Path, default=DATA / "test.csv")
    parser.add_argument("--language", default="it")
    parser.add_argument("--clips", type=int, help="only so many, spread over the manifest")
    add_common(parser, "word-times")
    given = parser.parse_args()
    utterances = read_manifest(given.manifest)
    chosen = np.linspace(0, len(utterances) - 1, min(given.clips or len(utterances), len(utterances)))
    paths = [utterances[index].audio for index in chosen.round().astype(int)]
    sides, seconds = {}, {}
    for name, frames in (("dense", DENSE), ("thinned", FrameOptions())):
        started = time.perf_counter()
        sides[name] = our_words(given, paths, frames)
        seconds[name] = time.perf_counter() - started
        print(f"{name}: {seconds[name]:.1f} s", flush=True)
    started = time.perf_counter()
    theirs = their_words(given, paths)
    header = ["frames", "clips with the same text", "words", f"start and end within {NEAR} s"]
    header += ["mean difference, s", "largest", "mean difference in confidence", "largest", "seconds"]
    rows = [[*compared(name, words, theirs), f"{seconds[name]:.0f}"] for name, words in sides.items()]
    rows.append(["openai-whisper", *["–"] * 7, f"{time.perf_counter() - started:.0f}"])
    publish(given.table, "words against openai-whisper's word_timestamps", [markdown(header, rows)])


if __name__ == "__main__":
    main()
