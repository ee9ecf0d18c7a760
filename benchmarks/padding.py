"""Silence or zeros behind a short clip: does a model say the same, and does training on both make it so?

    python benchmarks/padding.py                       # Italian prompts, 3 seeds, shares 0 and 0.5: 25 minutes
    python benchmarks/padding.py --language fr --data FRENCH --work runs/padding-fr      # another corpus
    python benchmarks/padding.py --seeds 0 --epochs 1 --clips 16 --work /tmp/smoke       # a smoke test
    python benchmarks/padding.py --tables runs/padding runs/padding-fr                   # both corpora in one table

faster-whisper and openai-whisper's `transcribe` take the log-mel of the clip alone and pad that with zeros to 30 s;
whispertune's `evaluate`, transformers, whisper.cpp and openai-whisper's `decode` pad the clip with silence first, whose
log-mel is the clip's floor. Each arm is the demo's recipe with this share of the training windows padded with zeros
(`windows.zero_padded_share`). After the last epoch test is decoded both ways: greedy, dense, float32, bounded by
Whisper's own 448 tokens. What is done is kept in WORK (results.jsonl): started again, only what is missing is done.
Models are kept in WORK/models.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import DATA, ROOT, add_common, cut_manifest, markdown, percent, publish

from whispertune.allocator import keep_freed_memory
from whispertune.checkpoints.checkpoint import load_checkpoint
from whispertune.checkpoints.huggingface import save_huggingface
from whispertune.data.sources import read_rows
from whispertune.decoding.windows import GREEDY
from whispertune.features import HOP_SAMPLES, log_mel_speech
from whispertune.frames import DENSE, FrameOptions
from whispertune.loading import ReadyModel, load_model
from whispertune.model.packed import for_decoding
from whispertune.model.whisper import Decoder
from whispertune.recipe import Recipe
from whispertune.run_folder import RunFolder
from whispertune.session import open_session
from whispertune.spectrogram import padded_features
from whispertune.splits import DataOptions, Split, load_split
from whispertune.stages import build_run_schedule, build_trainer
from whispertune.states import EncoderStates, WindowFeatures, encode, window_features
from whispertune.store.plan import StateOptions
from whispertune.training.resume import CheckpointOptions, Progress, StopSignal
from whispertune.training.validate import Contender, Evaluation, evaluate_split, token_caps
from whispertune.transcripts import TextSettings
from whispertune.windows import WindowOptions, window_waveform

PADDINGS = ("silence", "zeros")
UNTOUCHED = (-1.0, 0)
"""Share and seed under which the untouched model's rows stand."""


def features_of(waveform: np.ndarray, n_mels: int, padding: str) -> WindowFeatures:
    """As `evaluate` has them, or as faster-whisper does on the clip alone."""
    if padding == "silence":
        return window_features(waveform, n_mels, DENSE)
    return padded_features(log_mel_speech(waveform, n_mels)[:, : len(waveform) // HOP_SAMPLES], DENSE)


@torch.inference_mode()
def states_of(ready: ReadyModel, split: Split, padding: str, file: Path) -> torch.Tensor:
    """Dense states (N, 1500, D) of the whole split, kept in a file: every arm has the same encoder."""
    if not file.exists():
        rows = [
            encode(ready.whisper.encoder, [features_of(window_waveform(window), ready.n_mels, padding)]).states
            for window in split.windows
        ]
        partial = file.with_suffix(".partial")
        torch.save(torch.cat(rows), partial)
        partial.rename(file)
    found: torch.Tensor = torch.load(file, mmap=True)
    return found


class Results:
    """Rows of results.jsonl, one for (share, seed, padding)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[tuple[float, int, str], dict[str, Any]] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                self.rows[row["share"], row["seed"], row["padding"]] = row

    def add(self, **row: Any) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self.rows[row["share"], row["seed"], row["padding"]] = row

    def has(self, share: float, seed: int) -> bool:
        return all((share, seed, padding) in self.rows for padding in PADDINGS)


class Scored:
    """The clips that every model is scored on, and their states both ways."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.ready = load_model(options.model, torch.device("cpu"))
        text = TextSettings(self.ready.tokenizer, options.language, "transcribe")
        rows = read_rows("data", str(options.work / "scored.csv"))
        self.split = load_split("scored", rows, text, DataOptions(), advance=lambda _: None)
        self.states = {
            padding: states_of(self.ready, self.split, padding, options.work / f"states-{padding}.pt")
            for padding in PADDINGS
        }

    def add(self, results: Results, decoder: Decoder, share: float, seed: int, **more: Any) -> None:
        """Decode both ways and keep the rows."""
        packed = for_decoding(decoder)
        for padding, states in self.states.items():

            def fetch(indices: Sequence[int], states: torch.Tensor = states) -> EncoderStates:
                return EncoderStates(states[list(indices)], None)

            (found,) = evaluate_split(
                self.split, [Contender(padding, packed, fetch, GREEDY)], self.ready.tokenizer, self.ready.rules,
                pad_id=self.ready.checkpoint.pad_token_id, frames=DENSE, max_tokens=token_caps(self.split, None),
                cut_loops=False, advance=lambda _: None,
            )  # fmt: skip
            scores = found.score.utterances
            results.add(
                share=share, seed=seed, padding=padding, wer=found.score.wer, loss=found.loss, capped=found.capped,
                ids=[score.id for score in scores], errors=[score.words.errors for score in scores],
                words=[score.words.num_reference for score in scores],
                transcripts=[score.hypothesis for score in scores], **more,
            )  # fmt: skip
            print(f"share {share}, seed {seed}, {padding}: WER {percent(found.score.wer)}, NLL {found.loss:.4f}")


def train_arm(share: float, seed: int, options: argparse.Namespace, scored: Scored, results: Results) -> None:
    """One run of the demo's recipe; scored after its last epoch."""
    work = options.work
    folder = RunFolder(work / f"run-{share}-{seed}")
    shutil.rmtree(folder.path, ignore_errors=True)
    folder.create()
    recipe = Recipe(
        model=options.model, train=str(work / "train.csv"), valid=str(work / "few.csv"), language=options.language,
        output=str(folder.path), batch_size=8, accumulation=1, epochs=options.epochs, seed=seed,
        frames=FrameOptions(), windows=WindowOptions(**({"zero_padded_share": share} if share else {})),
        checkpoint=CheckpointOptions(every_minutes=1e9), states=StateOptions(folder=str(work / "states")),
    )  # fmt: skip
    started = time.perf_counter()
    session = open_session(recipe, folder, StopSignal())
    trainer = build_trainer(session, build_run_schedule(session), Progress(stride=recipe.frames.stride))
    trainer.validate = lambda advance: Evaluation("not decoded", 1)  # scored once, below
    trainer.save_best = lambda weights: None
    trainer.run()
    seconds = time.perf_counter() - started
    whisper = session.ready.whisper
    save_huggingface(
        work / "models" / f"{share}-{seed}", load_checkpoint(options.model),
        {name: tensor.detach() for name, tensor in whisper.state_dict().items()},
        language=options.language, model_card=None,
    )  # fmt: skip
    scored.add(results, whisper.decoder, share, seed, seconds=seconds)
    shutil.rmtree(folder.path)


def run_all(options: argparse.Namespace) -> None:
    keep_freed_memory()
    work = options.work
    work.mkdir(parents=True, exist_ok=True)
    train, valid = (options.data / f"{name}.csv" for name in ("train", "valid"))
    cut_manifest([train], work / "train.csv", options.clips)
    cut_manifest([options.data / f"{name}.csv" for name in options.scored], work / "scored.csv", options.clips)
    cut_manifest([valid], work / "few.csv", 4)
    settings = {
        name: str(getattr(options, name)) for name in ("model", "language", "data", "epochs", "scored", "clips")
    }
    kept = work / "settings.json"
    if kept.exists() and json.loads(kept.read_text(encoding="utf-8")) != settings:
        raise SystemExit(f"{work} holds results of other settings ({kept}); give another --work")
    kept.write_text(json.dumps(settings), encoding="utf-8")
    results = Results(work / "results.jsonl")
    scored = Scored(options)
    if not results.has(*UNTOUCHED):
        scored.add(results, scored.ready.whisper.decoder, *UNTOUCHED)
    for seed in options.seeds:
        for share in options.shares:
            if not results.has(share, seed):
                train_arm(share, seed, options, scored, results)


def over_clips_and_seeds(differences: Sequence[np.ndarray], words: Sequence[np.ndarray]) -> tuple[float, float]:
    """95 % interval of the mean, over corpora, of summed differences by words, drawing clips and seeds anew.

    differences: of each corpus (seeds, clips) word errors of one side minus those of the other; words: (clips,).
    """
    generator = np.random.default_rng(0)
    draws = []
    for _ in range(4000):
        rates = []
        for table, count in zip(differences, words, strict=True):
            seeds = generator.integers(len(table), size=len(table))
            clips = generator.integers(len(count), size=len(count))
            rates.append(table[seeds][:, clips].sum() / (len(table) * count[clips].sum()))
        draws.append(statistics.mean(rates))
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def compared(
    name: str, of: Callable[[Results, int, str], dict[str, Any]], corpora: Sequence[Results], seeds: Sequence[int]
) -> Iterator[tuple[str, ...]]:
    """Table rows: each corpus, and the mean of all."""
    tables, words, rates, same, losses = [], [], [], [], []
    names = [corpus.path.parent.name for corpus in corpora]
    for corpus in corpora:
        rows = [[of(corpus, seed, padding) for padding in PADDINGS] for seed in seeds]
        tables.append(np.array([np.subtract(zeros["errors"], silence["errors"]) for silence, zeros in rows]))
        words.append(np.array(rows[0][0]["words"]))
        rates.append([statistics.mean(pair[i]["wer"] for pair in rows) for i in (0, 1)])
        losses.append([statistics.mean(pair[i]["loss"] for pair in rows) for i in (0, 1)])
        same.append(
            statistics.mean(
                a == b
                for silence, zeros in rows
                for a, b in zip(silence["transcripts"], zeros["transcripts"], strict=True)
            )
        )
    groups = [(names[i], [i]) for i in range(len(names))] + (
        [("mean", list(range(len(names))))] if len(names) > 1 else []
    )
    for label, chosen in groups:
        low, high = over_clips_and_seeds([tables[i] for i in chosen], [words[i] for i in chosen])
        (a, b), (c, d) = ([statistics.mean(of[i][side] for i in chosen) for side in (0, 1)] for of in (rates, losses))
        yield (
            name, label, percent(a), percent(b), f"{100 * (b - a):+.2f} ({100 * low:+.2f} to {100 * high:+.2f})",
            percent(statistics.mean(same[i] for i in chosen)), f"{c:.4f}", f"{d:.4f}",
        )  # fmt: skip


def tables(folders: Sequence[Path]) -> list[str]:
    """Both paddings of every arm, and the arms against the one without zeros."""
    corpora = [Results(folder / "results.jsonl") for folder in folders]
    keys = set.intersection(*(set(corpus.rows) for corpus in corpora))
    shares = sorted({share for share, _, _ in keys if share >= 0})
    rows = list(compared("untouched", lambda c, _, p: c.rows[(*UNTOUCHED, p)], corpora, [0]))
    for share in shares:
        seeds = sorted({seed for s, seed, _ in keys if s == share})
        rows += compared(
            f"share {share:g}, {len(seeds)} seeds", lambda c, s, p, k=share: c.rows[k, s, p], corpora, seeds
        )
    paddings = markdown(
        ("trained", "corpus", "WER silence", "WER zeros", "zeros - silence, points (95 %)", "same", "NLL silence",
         "NLL zeros"),
        rows,
    )  # fmt: skip
    lines = []
    for share in shares[1:]:
        seeds = sorted({seed for s, seed, _ in keys if s == share} & {seed for s, seed, _ in keys if s == shares[0]})
        for padding in PADDINGS:
            pairs = [[[c.rows[s, seed, padding] for s in (shares[0], share)] for seed in seeds] for c in corpora]
            low, high = over_clips_and_seeds(
                [np.array([np.subtract(b["errors"], a["errors"]) for a, b in rows]) for rows in pairs],
                [np.array(rows[0][0]["words"]) for rows in pairs],
            )
            mean = statistics.mean(b["wer"] - a["wer"] for rows in pairs for a, b in rows)
            lines.append((f"{share:g}", padding, f"{100 * mean:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"))
    parts = [paddings]
    if lines:
        headings = ("share", "decoded with", "WER, points (95 %)")
        parts += [f"Against share {shares[0]:g}, the same seeds, mean of the corpora:", markdown(headings, lines)]
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common(parser, "padding")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--shares", type=float, nargs="*", default=[0.0, 0.5])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--model", default="packaged:whisper-base")
    parser.add_argument("--language", default="it")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with train.csv, valid.csv and test.csv")
    parser.add_argument("--scored", nargs="+", default=["test"], metavar="SPLIT", help="what is decoded (%(default)s)")
    parser.add_argument("--clips", type=int, help="only so many of train, and of what is decoded (a smoke test)")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "padding", help="what is done is kept here")
    parser.add_argument("--tables", type=Path, nargs="+", metavar="WORK", help="train nothing; one table of these")
    options = parser.parse_args()
    if options.tables is None:
        run_all(options)
    title = f"silence or zeros behind a clip, {options.model}, {options.epochs} epochs"
    publish(options.table, title, tables(options.tables or [options.work]))


if __name__ == "__main__":
    main()
