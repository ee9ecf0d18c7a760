"""What an update costs, by what learns, beside one with a frozen encoder: time and memory.

    python benchmarks/update_cost.py                                # 10 minutes on two CPU cores
    python benchmarks/update_cost.py --steps 2 --rounds 1           # a smoke test

Each is `whispertune train` for a few updates, in turn, `--rounds` times over, states encoded before the first. Seconds
are medians over the updates of a run (but its first) and over runs; ratios are medians over rounds.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from common import DATA, ROOT, add_common, markdown, measure, publish

SCRIPTS = ROOT / "benchmarks"
VARIANTS = {
    "frozen encoder": "--freeze encoder",
    "auto (the lower third frozen)": "--freeze auto",
    "half of the encoder frozen": "--freeze encoder:3",
    "two layers of the encoder learn": "--freeze encoder:-2",
    "LoRA of rank 16, decoder": "--lora.rank 16",
    "LoRA of rank 16, both": "--lora.rank 16 --lora.where both",
    "everything learns": "--freeze none",
}
"""By name, their flags; the first is what the others are compared with."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10, help="updates of a run (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, in turn (%(default)s)")
    add_common(parser, "update-cost")
    given = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    peaks: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(given.rounds):
            for name, flags in VARIANTS.items():
                output = Path(folder) / "run"
                shutil.rmtree(output, ignore_errors=True)
                found = measure(
                    [sys.executable, str(SCRIPTS / "timed_train.py"), "--model", "packaged:whisper-base",
                     "--train", str(DATA / "train.csv"), "--valid", str(DATA / "valid.csv"), "--language", "it",
                     "--output", str(output), "--max_steps", str(given.steps), "--report", "false",
                     *shlex.split(flags)],
                    cache=Path(folder) / "cache",
                )  # fmt: skip
                steps = [row["seconds"] for row in found.report["metrics"] if "split" not in row]
                seconds[name].append(statistics.median(steps[1:]))
                peaks[name] = found.peak_gb
                print(f"round {number + 1}: {name}, {seconds[name][-1]:.3f} s", flush=True)
    first = seconds[next(iter(VARIANTS))]
    rows = [
        [
            name, f"`{VARIANTS[name]}`", f"{statistics.median(taken):.3f}",
            f"{statistics.median(own / base for own, base in zip(taken, first, strict=True)):.2f}",
            f"{peaks[name]:.2f}",
        ]
        for name, taken in seconds.items()
    ]  # fmt: skip
    header = ["what learns", "flags", "an update, s", "in frozen updates", "peak memory, GB"]
    publish(given.table, "an update, by what learns, packaged:whisper-base", [markdown(header, rows)])


if __name__ == "__main__":
    main()
