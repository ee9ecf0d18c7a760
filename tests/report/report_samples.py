"""Run folders made up for reports: rows as a run writes them, of outputs whose errors are drawn."""

from __future__ import annotations

import csv
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from whispertune.decoding.rules import Hypothesis
from whispertune.evaluation.error_rates import score_corpus
from whispertune.evaluation.evaluate import Evaluation
from whispertune.run.recipe import Recipe, to_yaml
from whispertune.run.run_folder import RunFolder
from whispertune.system.files import write_jsonl, write_text

PLAYERS = 3
"""Clips with sound on a test's page: to write more as MP3 takes a second."""
Report = Callable[[Sequence[Any]], str]
"""`whispertune report ARGUMENTS`: what is printed."""
PROMPTS = Path(__file__).parents[2] / "examples" / "italian-prompts"


def prompts(number: int, split: str = "valid") -> list[dict[str, str]]:
    """Rows of the Italian prompts, again and again under other ids if there are too few."""
    with (PROMPTS / f"{split}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    times = -(-number // len(rows))
    return [
        {**row, "id": row["id"] + (f"-{turn}" if turn else ""), "audio": str(PROMPTS / row["audio"])}
        for turn in range(times)
        for row in rows
    ][:number]


def spoiled(text: str, share: float, generator: np.random.Generator, vocabulary: Sequence[str]) -> str:
    """The text with about this share of its words replaced, left out or doubled."""
    words: list[str] = []
    for word in text.split():
        kind = generator.random() / share if share else 9.0
        if kind < 0.7:
            words.append(vocabulary[generator.integers(len(vocabulary))])
        elif kind < 0.85:
            words += [word, vocabulary[generator.integers(len(vocabulary))]]
        elif kind >= 1:
            words.append(word)
    return " ".join(words)


def evaluation(
    name: str, ids: Sequence[str], references: Sequence[str], outputs: Sequence[str],
    clips: Sequence[dict[str, Any]], *, beam_size: int = 1, loss: float = 1.0,
) -> Evaluation:  # fmt: skip
    """An evaluation of given outputs, with rows and figures as `train` writes them."""
    hypotheses = [Hypothesis((1, 2), -0.3 * (1 + place % 5)) for place in range(len(ids))]
    score = score_corpus(ids, references, outputs, [clip["language"] for clip in clips])
    return Evaluation(name, beam_size, score, hypotheses, loss, seconds=1.25, clips=clips)


def write_run(
    folder: Path,
    *,
    rows: Sequence[dict[str, str]] | None = None,
    shares: Sequence[float] = (0.3, 0.25, 0.18, 0.21),
    test_shares: Sequence[float] = (0.32, 0.2),
    speakers: int = 0,
    seed: int = 0,
    steps: int = 60,
    language: str = "it",
    outputs: Callable[[Sequence[str], float, np.random.Generator], list[str]] | None = None,
    test: bool = True,
    **fields: Any,
) -> RunFolder:
    """A finished run. shares: of words that are wrong on valid, before and after each epoch; test_shares: on test."""
    run = RunFolder(folder)
    for path in run.folders:
        path.mkdir(parents=True, exist_ok=True)
    rows = prompts(40) if rows is None else rows
    manifest = folder.parent / f"rows-{zlib.crc32(repr(rows).encode('utf-8', 'surrogatepass')):x}.csv"
    with manifest.open("w", encoding="utf-8", newline="", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, ["id", "audio", "text"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    generator = np.random.default_rng(1 + seed)
    ids, references = [row["id"] for row in rows], [row["text"] for row in rows]
    vocabulary = sorted({word for text in references for word in text.split()}) or ["parola"]
    clips: list[dict[str, Any]] = [
        {
            "duration": round(0.4 + len(text) / 14, 3),
            "language": language,
            **({"speaker": f"voice {place % speakers}"} if speakers else {}),
        }
        for place, text in enumerate(references)
    ]

    def decoded(share: float) -> list[str]:
        if outputs is not None:
            return outputs(references, share, generator)
        return [spoiled(text, share, generator, vocabulary) for text in references]

    recipe = Recipe(
        model="packaged:whisper-base", train=str(manifest), valid=str(manifest), test=str(manifest) if test else None,
        output=str(folder), language="it", epochs=len(shares) - 1, seed=seed,
    )  # fmt: skip
    write_text(run.recipe, to_yaml(replace(recipe, **fields)))
    metrics: list[dict[str, Any]] = []
    per_epoch = steps // (len(shares) - 1)
    for epoch, share in enumerate(shares):
        if epoch:
            metrics += [_update(step, epoch, steps, generator) for step in range(
                (epoch - 1) * per_epoch + 1, epoch * per_epoch + 1
            )]  # fmt: skip
        found = evaluation("valid", ids, references, decoded(share), clips, loss=1 + share)
        write_jsonl(run.validation(epoch * per_epoch), found.rows())
        metrics.append(
            {
                "step": epoch * per_epoch, "epoch": epoch, "split": "valid", "model": "epoch" if epoch else "baseline",
                "frames": "thinned", **found.summary(),
            }
        )  # fmt: skip
    best = min((row for row in metrics if row.get("split") and row["epoch"]), key=lambda row: row["leading_rate"])
    for path, name, share in (
        (run.baseline_hypotheses(), "baseline", test_shares[0]), (run.hypotheses(), "best", test_shares[1])
    ) if test else ():  # fmt: skip
        for beam_size in (1, 8):
            found = evaluation(name, ids, references, decoded(share), clips, beam_size=beam_size, loss=1.5)
            step, epoch = (best["step"], best["epoch"]) if name == "best" else (0, 0)
            about = {"step": step, "epoch": epoch, "split": "test", "model": name, "frames": "dense"}
            metrics.append({**about, **found.summary()})
        write_jsonl(path, found.rows())
    write_jsonl(run.metrics, metrics)
    write_jsonl(
        run.excluded,
        [{"split": "train", "id": "x", "file": str(manifest), "row": 3, "reason": "31.2 s long, over 30 s"}],
    )
    told = {"rows": len(rows) + 1, "utterances": len(rows), "stitched": 0, "hours": 0.5}
    environment = {
        "whispertune": "0.1.0", "python": "3.11.2", "packages": {"torch": "2.13.0"}, "precision": "fp32", "seed": seed,
        "machine": {"platform": "Linux", "processor": "A CPU", "cores": 2, "threads": 2, "gpu": None},
        "data": {"train": told, "valid": told, "test": told},
    }  # fmt: skip
    write_text(run.environment, json.dumps(environment))
    return run


def _update(step: int, epoch: int, steps: int, generator: np.random.Generator) -> dict[str, Any]:
    return {
        "step": step, "epoch": epoch, "lr": 1e-5 * min(step / 10, (10 / step) ** 0.5),
        "loss": 1.2 * 0.98**step + 0.2 * generator.random(), "grad_norm": 2 + generator.random(), "tokens": 120,
        "utterances": 8, "seconds": 0.51,
    }  # fmt: skip
