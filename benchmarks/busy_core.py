"""How much slower a command gets beside a program that takes one core, by how long idle threads spin.

    python benchmarks/busy_core.py                                   # one epoch of the demo: half an hour on two cores
    python benchmarks/busy_core.py --repeats 1 -- evaluate --model packaged:whisper-base --data F --language it

Each setting of GOMP_SPINCOUNT (300000 stands for the default of GCC's OpenMP) runs the command alone and beside a
process that computes without end, in turn, so that a machine that changes its speed changes both.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from common import DATA, ROOT, add_common, markdown, publish

from whispertune.cli import SPINS

DEFAULT = "300000"


def seconds_of(command: Sequence[str], spins: str, *, busy: bool) -> float:
    """Wall seconds of a whispertune command, perhaps beside a busy process."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
    with tempfile.TemporaryDirectory() as folder:
        filled = [part.replace("OUTPUT", f"{folder}/run") for part in command]
        environment = {**os.environ, "GOMP_SPINCOUNT": spins}
        environment.pop("OMP_WAIT_POLICY", None)
        started = time.perf_counter()
        try:
            subprocess.run(
                [sys.executable, "-m", "whispertune", *filled], cwd=ROOT, env=environment, check=True,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            return time.perf_counter() - started
        finally:
            if other is not None:
                other.kill()
                other.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spins", nargs="+", default=[DEFAULT, SPINS])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("command", nargs="*", help="arguments of whispertune; OUTPUT stands for a new folder")
    add_common(parser, "busy-core")
    given = parser.parse_args()
    data = str(Path(DATA).relative_to(ROOT))
    command = given.command or [
        "train", "--model", "packaged:whisper-base", "--train", f"{data}/train.csv", "--valid", f"{data}/valid.csv",
        "--language", "it", "--epochs", "1", "--report", "false", "--output", "OUTPUT",
    ]  # fmt: skip
    seconds_of(command, SPINS, busy=False)  # fills the caches
    found: dict[tuple[str, bool], list[float]] = {}
    for _ in range(given.repeats):
        for spins in given.spins:
            for busy in (False, True):
                found.setdefault((spins, busy), []).append(seconds_of(command, spins, busy=busy))
                print(f"GOMP_SPINCOUNT {spins}{', busy' if busy else ''}: {found[spins, busy][-1]:.1f} s", flush=True)
    alone = statistics.median(found[given.spins[0], False])
    rows = []
    for spins in given.spins:
        quiet, beside = (statistics.median(found[spins, busy]) for busy in (False, True))
        rows.append(
            [spins, f"{quiet:.1f}", f"{beside:.1f}", f"{beside / quiet:.2f}", f"{100 * (quiet / alone - 1):+.1f} %"]
        )
    publish(
        given.table, "beside a busy core",
        [f"`whispertune {' '.join(command)}`, medians of {given.repeats}.",
         markdown(["GOMP_SPINCOUNT", "alone, s", "beside a busy process, s", "times", "alone, to the first"], rows)],
    )  # fmt: skip


if __name__ == "__main__":
    main()
