"""The demo over several seeds, decoded greedily and dense: the untouched model and every fine-tuned one in one run.

    python benchmarks/demo_seeds.py [--seeds 0 1 2] [--runs runs/seeds] [any field of the recipe …]

Prints WER and CER (normalised) of valid, test, and both together, relative to the untouched model, and the
seconds each run took. The checkpoint was chosen on valid; test is only scored here.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "examples" / "italian-prompts"
COMMAND = [sys.executable, "-m", "whispertune.cli"]


def error_rates(model: str, folder: Path) -> dict[str, float]:
    """WER of valid, test and both together, and CER likewise."""
    errors = {}
    for split in ("valid", "test"):
        output = folder / f"greedy-{split}"
        command = [*COMMAND, "evaluate", "--model", model, "--data", str(DATA / f"{split}.csv"), "--language", "it"]
        command += ["--beam-size", "1", "--output", str(output)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        rows = [json.loads(line) for line in (output / "hypotheses.jsonl").read_text().splitlines()]
        errors[split] = {
            key: sum(row[key] for row in rows) for key in ("word_errors", "words", "character_errors", "characters")
        }
    errors["both"] = {key: errors["valid"][key] + errors["test"][key] for key in errors["valid"]}
    rates = {f"{split} WER": e["word_errors"] / e["words"] for split, e in errors.items()}
    return rates | {f"{split} CER": e["character_errors"] / e["characters"] for split, e in errors.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "seeds")
    parser.add_argument("--recipe", default=str(ROOT / "recipes" / "demo.yaml"))
    options, fields = parser.parse_known_args()

    untouched = error_rates("packaged:whisper-base", options.runs / "untouched")
    tuned, seconds = [], []
    for seed in options.seeds:
        run = options.runs / f"seed-{seed}"
        started = time.perf_counter()
        subprocess.run(
            [*COMMAND, "train", options.recipe, "--seed", str(seed), "--output", str(run), *fields],
            check=True,
            cwd=ROOT,
        )
        seconds.append(time.perf_counter() - started)
        tuned.append(error_rates(str(run), run))

    print(
        f"\n{'':<12}{'untouched':>10}"
        + "".join(f"{f'seed {s}':>10}" for s in options.seeds)
        + f"{'mean':>10}{'change':>10}"
    )
    for name, before in untouched.items():
        after = [rates[name] for rates in tuned]
        mean = statistics.mean(after)
        cells = "".join(f"{100 * value:>9.1f}%" for value in (before, *after, mean))
        print(f"{name:<12}{cells}{100 * (mean / before - 1):>+9.0f}%")
    print(f"{'seconds':<22}" + "".join(f"{value:>10.0f}" for value in (*seconds, statistics.mean(seconds))))


if __name__ == "__main__":
    main()
