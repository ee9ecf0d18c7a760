"""Thinned against dense training, paired seeds, every model decoded dense; and thinned against dense decoding.

    python benchmarks/thinned_training.py                     # 5 seeds, 4 epochs: an hour on two cores
    python benchmarks/thinned_training.py --seeds 0 --epochs 1 --clips 16 --work /tmp/smoke      # a smoke test

whisper-base, encoder frozen, the demo's recipe (batch 8, no accumulation). Both arms see the same utterances in the
same order. After every epoch the model decodes valid and test together, greedy, dense, bounded by Whisper's own 448
tokens; after the last one thinned as well. States are encoded once for all models. What is done is kept in WORK
(results.jsonl: one row an epoch, with every clip's errors): started again, only what is missing is done.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from common import DATA, ROOT, add_common, cut_manifest, markdown, percent, publish

from whispertune.decoding.options import GREEDY
from whispertune.evaluation.decode import SharedStates, System
from whispertune.evaluation.evaluate import Evaluation, evaluate_split, token_caps
from whispertune.evaluation.significance import matched_pairs
from whispertune.features.options import DENSE, FrameOptions
from whispertune.run.encoder_states import plan_states
from whispertune.run.recipe import Recipe
from whispertune.run.run_folder import RunFolder
from whispertune.run.session import Session, open_session
from whispertune.run.stages import build_run_schedule, build_trainer
from whispertune.states.options import StateOptions
from whispertune.system.memory import keep_freed_memory
from whispertune.training.options import CheckpointOptions
from whispertune.training.resume import Progress, StopSignal

ARMS = ("thinned", "dense")
T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""Student's t, 97.5 %, by degrees of freedom."""
EPOCH_SECONDS = {"encoder": {"thinned": 20, "dense": 45}, "none": {"thinned": 120, "dense": 500}}
DECODE_SECONDS = {"encoder": 45, "none": 130}
"""Rough ones for 327 clips and for 215, on two cores: only for the estimate at the start."""


class Results:
    """Rows of results.jsonl: one for (seed, arm, epoch, frames it was decoded with); the newest counts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[tuple[int, str, int, str], dict[str, Any]] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                self.rows[row["seed"], row["arm"], row["epoch"], row["decoded"]] = row

    def add(self, **row: Any) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.rows[row["seed"], row["arm"], row["epoch"], row["decoded"]] = row

    def done(self, seed: int, arm: str, epochs: int) -> bool:
        return all((seed, arm, epoch, "dense") in self.rows for epoch in range(1, epochs + 1)) and (
            (seed, arm, epochs, "thinned") in self.rows
        )


def decode(session: Session, frames: FrameOptions) -> Evaluation:
    """Valid and test together, greedy, as the model stands; bounded by 448 tokens only."""
    split, encoder = session.valid, session.working.model.encoder
    if session.frozen:
        stored = plan_states(
            dataclasses.replace(
                session, recipe=dataclasses.replace(session.recipe, frames=frames),
                progress=Progress(session.progress.batches),
            )
        ).validation()  # fmt: skip
        assert stored is not None, "no room for the states"
    else:
        stored = session.computed(split, encoder, frames)
    model = session.ready.with_parts(encoder, session.working.model.decoder)
    (found,) = evaluate_split(
        split, [SharedStates(stored, [System("both", model, [GREEDY])])], frames=frames,
        max_tokens=token_caps(split, None), cut_loops=False, advance=lambda _: None,
    )  # fmt: skip
    return found


def row_of(found: Evaluation) -> dict[str, Any]:
    words = [utterance.words for utterance in found.score.utterances]
    return {
        "wer": found.score.wer, "cer": found.score.cer, "loss": found.loss, "capped": found.capped,
        "decode_seconds": found.seconds, "errors": [w.errors for w in words], "words": [w.num_reference for w in words],
    }  # fmt: skip


def train_arm(
    seed: int, arm: str, results: Results, work: Path, options: argparse.Namespace, freeze: str, fields: Any
) -> None:
    """One run: trained on the arm's frames, decoded dense after every epoch, thinned too after the last."""
    frames = FrameOptions() if arm == "thinned" else DENSE
    folder = RunFolder(work / f"run-{arm}-{seed}")
    shutil.rmtree(folder.path, ignore_errors=True)
    folder.create()
    recipe = Recipe(
        model=options.model, train=str(work / "train.csv"), valid=str(work / "both.csv"), language=options.language,
        output=str(folder.path), batch_size=8, accumulation=1, epochs=options.epochs, seed=seed, freeze=freeze,
        frames=frames, checkpoint=CheckpointOptions(every_minutes=1e9),
        states=StateOptions(folder=str(work / "states")), **fields,
    )  # fmt: skip
    session = open_session(recipe, folder, StopSignal())
    before = Evaluation("untouched", 1)  # decoded once for all runs; the trainer only prints it
    if (0, "untouched", 0, "dense") not in results.rows:
        before = decode(session, DENSE)
        results.add(seed=0, arm="untouched", epoch=0, decoded="dense", **row_of(before))
        if session.frozen:
            results.add(seed=0, arm="untouched", epoch=0, decoded="thinned", **row_of(decode(session, FrameOptions())))
    trainer = build_trainer(session, build_run_schedule(session))
    last = time.perf_counter()

    def validate(name: str, model: str) -> Evaluation:
        nonlocal last
        training, epoch = time.perf_counter() - last, trainer.progress.epoch
        if trainer.progress.step == 0:
            last = time.perf_counter()
            return before
        found = decode(session, DENSE)
        results.add(
            seed=seed, arm=arm, epoch=epoch, decoded="dense", training_seconds=training, freeze=freeze, **row_of(found)
        )
        if epoch == options.epochs:
            thinned = decode(session, FrameOptions())
            results.add(seed=seed, arm=arm, epoch=epoch, decoded="thinned", freeze=freeze, **row_of(thinned))
        last = time.perf_counter()
        return found

    trainer.validate = validate
    trainer.save_best = lambda weights, model: None
    trainer.run()
    shutil.rmtree(folder.path, ignore_errors=True)


def run_all(options: argparse.Namespace, freeze: str, fields: dict[str, Any]) -> Results:
    """Everything that is missing, seed by seed, both arms of a seed one after the other."""
    keep_freed_memory()
    work = options.work
    work.mkdir(parents=True, exist_ok=True)
    cut_manifest([options.train], work / "train.csv", options.clips)
    cut_manifest([options.valid, options.test], work / "both.csv", options.clips)
    settings = {"epochs": options.epochs, "clips": options.clips, "freeze": freeze, "model": options.model}
    settings |= {"fields": repr(fields)}
    kept = work / "settings.json"
    if kept.exists() and json.loads(kept.read_text(encoding="utf-8")) != settings:
        raise SystemExit(f"{work} holds results of other settings ({kept}); give another --work")
    kept.write_text(json.dumps(settings), encoding="utf-8")
    results = Results(work / "results.jsonl")
    wanted = [(seed, arm) for seed in options.seeds for arm in ARMS]
    left = [(seed, arm) for seed, arm in wanted if not results.done(seed, arm, options.epochs)]
    kind = "encoder" if freeze == "encoder" else "none"
    share = 1.0 if options.clips is None else options.clips / 300
    seconds = sum(options.epochs * (EPOCH_SECONDS[kind][arm] + DECODE_SECONDS[kind]) for _, arm in left) * share
    print(f"{len(left)} of {len(wanted)} runs to do, about {seconds / 60:.0f} minutes on two quiet cores", flush=True)
    for number, (seed, arm) in enumerate(left, 1):
        started = time.perf_counter()
        train_arm(seed, arm, results, work, options, freeze, fields)
        took = time.perf_counter() - started
        print(f"run {number} of {len(left)} (seed {seed}, {arm}): {took:.0f} s", flush=True)
    return results


def interval_over_seeds(differences: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean by Student's t; None for a single one, or more than ten."""
    degrees = len(differences) - 1
    if degrees not in T_95:
        return None
    half = T_95[degrees] * statistics.stdev(differences) / math.sqrt(len(differences))
    mean = statistics.mean(differences)
    return mean - half, mean + half


def compare(
    name: str, pairs: Sequence[tuple[Sequence[dict[str, Any]], Sequence[dict[str, Any]]]]
) -> tuple[str, str, str, str, str, str]:
    """A table row: mean WER of two sides, and b minus a; each pair is one seed's rows of a and of b."""
    rates = [tuple(statistics.mean(row["wer"] for row in side) for side in pair) for pair in pairs]
    a, b = (statistics.mean(pair[i] for pair in rates) for i in (0, 1))
    seeds = interval_over_seeds([y - x for x, y in rates])
    rows_a, rows_b = ([row for pair in pairs for row in pair[i]] for i in (0, 1))
    errors_a, errors_b = ([sum(column) for column in zip(*(r["errors"] for r in rows), strict=True)]
                          for rows in (rows_a, rows_b))  # fmt: skip
    words = [len(rows_a) * count for count in rows_a[0]["words"]]
    clips = matched_pairs(errors_a, errors_b, words)

    def points(low: float, high: float) -> str:
        return f"{100 * low:+.2f} to {100 * high:+.2f}"

    over_seeds = points(*seeds) if seeds else "–"
    return name, percent(a), percent(b), f"{100 * (b - a):+.2f}", over_seeds, points(clips.low, clips.high)


def tables(results: Results, options: argparse.Namespace) -> list[str]:
    """WER by epoch, the paired differences, and thinned against dense decoding."""
    rows, seeds, epochs = results.rows, options.seeds, options.epochs

    def dense(arm: str, seed: int, epoch: int) -> dict[str, Any]:
        return rows[seed, arm, epoch, "dense"]

    by_epoch = []
    for seed in seeds:
        for arm in ARMS:
            cells = [dense(arm, seed, epoch) for epoch in range(1, epochs + 1)]
            later = [row["wer"] for row in cells[1:]] or [cells[0]["wer"]]
            losses = ", ".join(f"{row['loss']:.3f}" for row in cells)
            seconds = f"{statistics.mean(row['training_seconds'] for row in cells):.0f}"
            by_epoch.append(
                (seed, arm, *(percent(r["wer"]) for r in cells), percent(statistics.mean(later)), losses, seconds)
            )
    counted = range(2, epochs + 1) if epochs > 1 else range(1, 2)
    compared = []
    for name, chosen in ((f"mean of epochs {counted[0]} to {counted[-1]}", counted), (f"epoch {epochs}", [epochs])):
        pairs = [([dense("dense", s, e) for e in chosen], [dense("thinned", s, e) for e in chosen]) for s in seeds]
        compared.append(compare(name, pairs))
    decoding = []
    for arms, name in ((("thinned",), "models trained thinned"), (ARMS, "all models")):
        pairs = [([rows[s, arm, epochs, "dense"]], [rows[s, arm, epochs, "thinned"]]) for s in seeds for arm in arms]
        decoding.append(compare(name, pairs))
    last = [[dense(arm, s, epochs)["loss"] for s in seeds] for arm in ARMS]
    untouched = rows[0, "untouched", 0, "dense"]
    headings = ("difference, points", "95 %, over seeds", "95 %, over clips")
    over_models = ("difference, points", "95 %, over models", "95 %, over clips")
    return [
        f"Valid and test together ({len(untouched['words'])} clips, {sum(untouched['words'])} words), greedy. "
        f"Untouched, dense: WER {percent(untouched['wer'])}, NLL {untouched['loss']:.3f}.",
        markdown(
            ("seed", "trained", *(f"WER {e}" for e in range(1, epochs + 1)), "mean from 2", "dense NLL", "s an epoch"),
            by_epoch,
        ),
        "Thinned minus dense training, both decoded dense (over clips: pooled over seeds and epochs):",
        markdown(("", "dense", "thinned", *headings), compared),
        f"Dense NLL after epoch {epochs}, trained thinned {statistics.mean(last[0]):.4f}, dense "
        f"{statistics.mean(last[1]):.4f}.",
        f"Thinned minus dense decoding of the same models after epoch {epochs}:",
        markdown(("", "dense", "thinned", *over_models), decoding),
    ]


def add_options(parser: argparse.ArgumentParser, name: str) -> None:
    add_common(parser, name)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--model", default="packaged:whisper-base")
    parser.add_argument("--language", default="it")
    parser.add_argument("--train", type=Path, default=DATA / "train.csv")
    parser.add_argument("--valid", type=Path, default=DATA / "valid.csv")
    parser.add_argument("--test", type=Path, default=DATA / "test.csv")
    parser.add_argument("--clips", type=int, help="only so many of train, and of valid and test (a smoke test)")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs" / name, help="what is done is kept here (%(default)s)"
    )
    parser.add_argument("--threads", type=int, help="of torch; default: its own choice")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, "thinned-training")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    results = run_all(options, "encoder", {})
    publish(options.table, f"thinned against dense training, {options.model}", tables(results, options))


if __name__ == "__main__":
    main()
