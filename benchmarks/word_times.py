"""When each word is said: whispertune's word times and confidence against openai-whisper's, with the same weights.

    python benchmarks/word_times.py
    python benchmarks/word_times.py --manifest examples/italian-prompts/valid.csv --clips 30

Each clip alone, greedy, temperature 0, float32, the language given, the same alignment heads. Words are compared in the
clips for which both sides have the same text. With thinned frames the model hears a little less of the silence after a
clip, so that some texts differ. Needs `openai-whisper`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import DATA, add_common, markdown, publish
from long_form import our_transcripts, their_side

from whispertune.data.audio.waveforms import load_waveform
from whispertune.data.readers.manifest import read_manifest
from whispertune.decoding.loading import ReadyModel, load_model, ready_to_decode
from whispertune.decoding.long_form import LongForm
from whispertune.decoding.options import FallbackOptions, LongFormOptions
from whispertune.features.options import DENSE, FrameOptions

NEAR = 0.06  # seconds


Words = list[tuple[Any, ...]]
"""Text, start, end and confidence of each word."""


def our_side(ready: ReadyModel, language: str, frames: FrameOptions) -> Callable[[Path], Words]:
    long_form = LongForm(
        ready, search=FallbackOptions(beam_size=1, temperature=(0.0,)), options=LongFormOptions(word_timestamps=True),
        language=language, frames=frames,
    )  # fmt: skip

    def words(path: Path) -> Words:
        (transcript,) = our_transcripts(long_form, [path])
        return [(w.text, w.start, w.end, w.confidence) for segment in transcript.segments for w in segment.words]

    return words


def openai_whisper(name: str, heads: list[list[int]], language: str) -> Callable[[Path], Words]:
    """Theirs, with the alignment heads that it has for the model by its name, but not for a file."""
    model = their_side(name)
    mask = torch.zeros(model.dims.n_text_layer, model.dims.n_text_head, dtype=torch.bool)
    mask[tuple(torch.tensor(heads).T)] = True
    model.register_buffer("alignment_heads", mask.to_sparse(), persistent=False)
    last: list[torch.Tensor] = []
    encode = model.encoder.forward

    def encode_once(mel: torch.Tensor) -> torch.Tensor:  # it encodes each window for decoding, and again for alignment
        if not last or not torch.equal(last[0], mel):
            last[:] = [mel, encode(mel)]
        return last[1]

    model.encoder.forward = encode_once

    def words(path: Path) -> Words:
        found = model.transcribe(
            load_waveform(path), language=language, temperature=0.0, fp16=False, word_timestamps=True
        )
        return [(w["word"], w["start"], w["end"], w["probability"]) for s in found["segments"] for w in s["words"]]

    return words


def compared(name: str, ours: list[Words], theirs: list[Words]) -> list[object]:
    same = [pair for pair in zip(ours, theirs, strict=True) if [w[0] for w in pair[0]] == [w[0] for w in pair[1]]]
    if not same:
        return [name, f"0 of {len(ours)}", 0, *["–"] * 5]
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
    ready = ready_to_decode(load_model(given.model, torch.device("cpu")))
    sides = {
        "dense": our_side(ready, given.language, DENSE),
        "thinned": our_side(ready, given.language, FrameOptions()),
        "openai-whisper": openai_whisper(given.model, ready.alignment_heads, given.language),
    }
    found: dict[str, list[Words]] = {name: [] for name in sides}
    seconds = dict.fromkeys(sides, 0.0)
    for path in paths:
        for name, words in sides.items():
            started = time.perf_counter()
            found[name].append(words(path))
            seconds[name] += time.perf_counter() - started
        *ours, theirs = found.values()
        print(len(theirs), *(compared("", side, theirs)[1:5] for side in ours), flush=True)
    header = ["frames", "clips with the same text", "words", f"start and end within {NEAR} s"]
    header += ["mean difference, s", "largest", "mean difference in confidence", "largest", "seconds"]
    rows = [
        [*compared(name, found[name], found["openai-whisper"]), f"{seconds[name]:.0f}"] for name in ("dense", "thinned")
    ]
    rows.append(["openai-whisper", *["–"] * 7, f"{seconds['openai-whisper']:.0f}"])
    publish(given.table, "words against openai-whisper's word_timestamps", [markdown(header, rows)])


if __name__ == "__main__":
    main()
