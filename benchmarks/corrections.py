"""WER after ten corrections of the least certain transcripts, and after ten of transcripts drawn at random.

    python benchmarks/corrections.py [--languages it fr] [--seeds 0 1 2 3 4] [--work runs/corrections]
    python benchmarks/corrections.py --labelled 8 --pool 12 --tested 6 --seeds 0 --work /tmp/smoke      # a smoke test

The loop of docs/loop.md without its page: a model is trained on LABELLED clips, transcribes POOL others
(`transcribe`, with word confidences), and `correct`'s order says which ten are the least certain. A second
model is trained on the labelled clips and the true transcripts of these ten, a third on those of ten others drawn at
random. Every seed has clips, draw and training of its own. What is done is kept in WORK: started again, only what is
missing is done.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from accuracy import FOLDERS, MODEL
from common import ROOT, add_common, cut_manifest, markdown, percent, publish, write_rows
from thinned_training import T_95

from whispertune.correct.ranking import by_confidence, ordered
from whispertune.correct.segments import Segment
from whispertune.correct.sources import read_segments, rows_of_json, transcripts_at

CORRECTED = 10
Row = dict[str, str]


def read(path: Path) -> list[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def whispertune(log: Path, *arguments: str) -> None:
    """A command, its output in `log`."""
    with log.open("w", encoding="utf-8") as output:
        command = [sys.executable, "-m", "whispertune", *arguments]
        if subprocess.run(command, cwd=ROOT, stdout=output, stderr=output, stdin=subprocess.DEVNULL).returncode:
            sys.exit(f"{' '.join(command)}: failed, see {log}")


def train(folder: Path, name: str, rows: Sequence[Row], valid: Path, language: str, seed: int) -> Path:
    run = folder / name
    whispertune(
        folder / f"{name}.log", "train", "--model", MODEL, "--train", str(write_rows(folder / f"{name}.csv", rows)),
        "--valid", str(valid), "--language", language, "--output", str(run), "--seed", str(seed), "--epochs", "3",
        "--batch_size", "8", "--report", "false",
    )  # fmt: skip
    return run


def least_certain(folder: Path) -> list[str]:
    """File names of the transcribed recordings, the least certain first: each is as certain as its worst part."""
    pairs = list(rows_of_json(transcripts_at(folder), None, None))
    rows, extras = [row for row, _ in pairs], [extra for _, extra in pairs]
    recordings, segments = read_segments(rows, extras, [{}] * len(rows))
    order: list[Segment] = ordered(segments, by_confidence(segments))
    return list(dict.fromkeys(Path(recordings[segment.recording].audio).name for segment in order))


def errors(folder: Path, name: str, run: Path, test: Path, language: str) -> list[tuple[int, int]]:
    """(errors, words) of each utterance of the test; errors count up to the number of words."""
    output = folder / f"{name}-test"
    whispertune(
        folder / f"{name}-test.log", "evaluate", "--model", str(run), "--data", str(test), "--language", language,
        "--beam_size", "1", "--output", str(output),
    )  # fmt: skip
    rows = map(json.loads, (output / "hypotheses.jsonl").read_text(encoding="utf-8").splitlines())
    return [(min(row["word_errors"], row["words"]), row["words"]) for row in rows]


def one_seed(options: argparse.Namespace, language: str, seed: int) -> dict[str, float]:
    """WER by arm."""
    folder = options.work / f"{language}-{seed}"
    done = folder / "result.json"
    if done.exists():
        return dict(json.loads(done.read_text(encoding="utf-8")))
    source = ROOT / "examples" / FOLDERS[language]
    clips = read(cut_manifest([source / "train.csv"], folder / "all.csv"))
    test = cut_manifest([source / "test.csv"], folder / "test.csv", options.tested)
    draw = random.Random(seed)
    draw.shuffle(clips)
    labelled, pool = clips[: options.labelled], clips[options.labelled :][: options.pool]
    valid = cut_manifest([source / "valid.csv"], folder / "valid.csv", 24)
    print(f"{language}, seed {seed}", flush=True)
    first = train(folder, "labelled", labelled, valid, language, seed)
    transcripts = folder / "transcripts"
    whispertune(
        folder / "transcribe.log", "transcribe", *(row["audio"] for row in pool), "--model", str(first), "--language",
        language, "--format", "json", "--word_timestamps", "true", "--beam_size", "1", "--output", str(transcripts),
    )  # fmt: skip
    by_name = {Path(row["audio"]).name: row for row in pool}
    chosen = {
        "least certain": [by_name[name] for name in least_certain(transcripts)[:CORRECTED]],
        "at random": draw.sample(pool, CORRECTED),
    }
    scores = {"labelled alone": errors(folder, "labelled", first, test, language)}
    for arm, rows in chosen.items():
        run = train(folder, arm.replace(" ", "-"), [*labelled, *rows], valid, language, seed)
        scores[arm] = errors(folder, arm.replace(" ", "-"), run, test, language)
    rates = {arm: sum(e for e, _ in pairs) / sum(n for _, n in pairs) for arm, pairs in scores.items()}
    done.write_text(json.dumps(rates), encoding="utf-8")
    for name in ("labelled", *(arm.replace(" ", "-") for arm in chosen)):
        shutil.rmtree(folder / name)  # models and states take gigabytes
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common(parser, "corrections")
    parser.add_argument("--languages", nargs="+", default=["it", "fr"], choices=["it", "fr"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--labelled", type=int, default=60)
    parser.add_argument("--pool", type=int, default=150)
    parser.add_argument("--tested", type=int, help="only so many test clips")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "corrections")
    options = parser.parse_args()
    rows, differences = [], []
    for language in options.languages:
        for seed in options.seeds:
            rates = one_seed(options, language, seed)
            rows.append([language, seed, *(percent(rate) for rate in rates.values())])
            differences.append(100 * (rates["least certain"] - rates["at random"]))
    mean, count = float(np.mean(differences)), len(differences)
    half = T_95[count - 1] * float(np.std(differences, ddof=1)) / count**0.5 if count > 1 else float("nan")
    about = f"{options.labelled} labelled clips, {CORRECTED} of {options.pool} others corrected; greedy, dense."
    found = f"Least certain against at random: {mean:+.2f} points (95 % over runs: {half:.2f} either way)."
    publish(
        options.table,
        f"corrections of the least certain transcripts, {MODEL}",
        [about, markdown(["language", "seed", *rates], rows), found],
    )


if __name__ == "__main__":
    main()
