"""A trained encoder (`freeze: none`) on clips of 2 to 8 s: utterances a second thinned and dense, and WER after it.

    python benchmarks/trained_encoder.py                                 # speed: about three minutes on two cores
    python benchmarks/trained_encoder.py --seeds 0 1 2 --epochs 1        # and WER over seeds: an hour more
    python benchmarks/trained_encoder.py --clips 16 --steps 1 --warm-up 0                # a smoke test

Speed: the same micro-batches in both arms, the median over whole updates. WER: as in thinned_training.py (all
training clips, every model decoded dense), restartable.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import statistics
import tempfile
from pathlib import Path

import soundfile
import torch
from common import cut_manifest, markdown, publish
from thinned_training import ARMS, add_options, run_all, tables

from whispertune.allocator import keep_freed_memory
from whispertune.decoding.rules import Hypothesis
from whispertune.frames import DENSE, FrameOptions
from whispertune.recipe import Recipe
from whispertune.run_folder import RunFolder, read_jsonl
from whispertune.scoring.error_rates import score_corpus
from whispertune.session import open_session
from whispertune.stages import build_run_schedule, build_trainer
from whispertune.training.resume import Progress, StopSignal
from whispertune.training.validate import Evaluation


def between(manifest: Path, target: Path, shortest: float, longest: float) -> tuple[int, float]:
    """Keep the rows whose audio lasts so long; their number and mean seconds."""
    with manifest.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    seconds = {row["audio"]: soundfile.info(row["audio"]).duration for row in rows}
    kept = [row for row in rows if shortest <= seconds[row["audio"]] <= longest]
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(kept)
    return len(kept), statistics.mean(seconds[row["audio"]] for row in kept)


def step_rates(options: argparse.Namespace, work: Path, arm: str) -> list[tuple[int, float]]:
    """(utterances, seconds) of each measured update."""
    folder = RunFolder(work / f"speed-{arm}")
    shutil.rmtree(folder.path, ignore_errors=True)
    folder.create()
    recipe = Recipe(
        model=options.model, train=str(work / "speed.csv"), valid=str(work / "speed-valid.csv"),
        language=options.language, output=str(folder.path), batch_size=options.batch_size, accumulation=1,
        epochs=1000, max_steps=options.warm_up + options.steps, freeze="none", precision=options.precision,
        frames=FrameOptions() if arm == "thinned" else DENSE,
    )  # fmt: skip
    session = open_session(recipe, folder, StopSignal())
    trainer = build_trainer(session, build_run_schedule(session), Progress(stride=recipe.frames.stride))
    nothing = Evaluation("none", 1, score_corpus(["0"], ["a"], ["a"], ["en"]), [Hypothesis((), 0.0)])
    trainer.validate = lambda advance: nothing
    trainer.save_best = lambda weights: None
    trainer.run()
    rows = [row for row in read_jsonl(folder.metrics) if "split" not in row]
    return [(row["utterances"], row["seconds"]) for row in rows[options.warm_up :]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, "trained-encoder")
    parser.set_defaults(seeds=[], epochs=1)
    parser.add_argument("--steps", type=int, default=8, help="updates that are measured")
    parser.add_argument("--warm-up", type=int, default=2, help="updates before them")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto")
    parser.add_argument("--shortest", type=float, default=2.0, help="seconds")
    parser.add_argument("--longest", type=float, default=8.0)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_freed_memory()

    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        everything = cut_manifest([options.train], work / "all.csv")
        between(everything, work / "between.csv", options.shortest, options.longest)
        train = cut_manifest([work / "between.csv"], work / "speed.csv", options.clips)
        clips, mean = between(train, work / "speed.csv", options.shortest, options.longest)
        cut_manifest([options.valid], work / "speed-valid.csv", 2)
        measured = {arm: step_rates(options, work, arm) for arm in ARMS}
    assert [u for u, _ in measured["thinned"]] == [u for u, _ in measured["dense"]]
    medians = {arm: statistics.median(u / s for u, s in found) for arm, found in measured.items()}
    per_step = statistics.median(
        thin[0] / thin[1] / (dense[0] / dense[1])
        for thin, dense in zip(measured["thinned"], measured["dense"], strict=True)
    )
    rows = [
        (arm, f"{medians[arm]:.2f}", f"{statistics.median(s for _, s in measured[arm]):.2f}", f"{len(measured[arm])}")
        for arm in ARMS
    ]
    parts = [
        f"Everything learns; {clips} training clips of {options.shortest:g} to {options.longest:g} s (mean {mean:.1f} "
        f"s), batch {options.batch_size}, the same micro-batches.",
        markdown(("frames", "utterances a second, median", "s an update", "updates"), rows),
        f"Thinned is {medians['thinned'] / medians['dense']:.2f} times as fast (median of the single updates' ratios "
        f"{per_step:.2f}).",
    ]
    if options.seeds:
        parts += tables(run_all(options, "none", {}), options)
    publish(options.table, f"a trained encoder, thinned against dense, {options.model}", parts)


if __name__ == "__main__":
    main()
