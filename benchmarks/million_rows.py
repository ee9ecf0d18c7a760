"""A manifest of a million rows: seconds and memory until a split is ready to train.

    python benchmarks/million_rows.py [--rows 1000000] [--files 8] [--model packaged:whisper-base]

The recordings (10 minutes each, noise) are few; each row is a span of one, with a text of 3 to 20 words.
"""

from __future__ import annotations

import argparse
import csv
import random
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from whispertune.checkpoints.checkpoint import load_checkpoint
from whispertune.splits import DataOptions, load_split, read_rows
from whispertune.text.tokenizer import Tokenizer
from whispertune.training.plan import epoch_plan
from whispertune.transcripts import TextSettings

WORDS = "il numero chiamato non è raggiungibile prego attendere in linea digitare uno per un operatore"
MINUTES = 10


def write_corpus(folder: Path, rows: int, files: int) -> Path:
    draw = random.Random(0)
    for number in range(files):
        noise = np.random.default_rng(number).integers(-9_000, 9_000, MINUTES * 60 * 16_000).astype(np.int16)
        soundfile.write(folder / f"{number}.wav", noise, 16_000)
    with (folder / "train.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "audio", "text", "start", "end", "speaker", "language"])
        for row in range(rows):
            start = draw.randrange(0, (MINUTES * 60 - 20) * 1000) / 1000
            end = start + draw.randrange(1_000, 15_000) / 1000
            text = " ".join(draw.choices(WORDS.split(), k=draw.randint(3, 20))).capitalize() + "."
            writer.writerow(
                [f"u{row}", f"{row % files}.wav", text, f"{start:.3f}", f"{end:.3f}", f"s{row % 5000}", "it"]
            )
    return folder / "train.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--model", default="packaged:whisper-base")
    arguments = parser.parse_args()
    checkpoint = load_checkpoint(arguments.model)
    tokenizer = Tokenizer.from_json(checkpoint.tokenizer_json, checkpoint.config.vocab_size)
    del checkpoint

    def told(what: str, since: float) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        print(f"{what:<34} {time.perf_counter() - since:6.1f} s, peak {peak:.2f} GB")

    with tempfile.TemporaryDirectory() as folder:
        path = write_corpus(Path(folder), arguments.rows, arguments.files)
        started = time.perf_counter()
        told("before (model and libraries)", started)
        rows = read_rows("train", path)
        told("manifest read", started)
        text = TextSettings(tokenizer, "it", "transcribe")
        split = load_split("train", rows, text, DataOptions(), advance=lambda amount: None)
        told("every row looked at", started)
        plan = epoch_plan(split.num_samples, 8, 2, seed=0, epoch=1)
        told(f"an epoch planned ({len(plan)} steps)", started)
        before = time.perf_counter()
        for step in plan[:100]:
            for batch in step:
                [(split.windows[index], split.targets[index]) for index in batch]
        print(f"windows and targets of a step      {10 * (time.perf_counter() - before):6.1f} ms")


if __name__ == "__main__":
    main()
