"""Compare the first updates of a run with a recorded curve: `python tests/golden/compare.py RUN`.

`demo-fp32.jsonl` and `demo-bf16.jsonl` hold the figures of `recipes/demo.yaml --max_steps 12 --epochs 1` in these
precisions; bf16 is compared where the CPU multiplies it. A slow drift (a loss averaged otherwise, a schedule off by
one, a mask too wide) moves these figures long before it moves a WER. To record again after an intended change of the
numbers: `python tests/golden/compare.py RUN --record`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

Row = Mapping[str, float]

FIGURES = ("step", "lr", "loss", "grad_norm")
TOLERANCES = {
    "fp32": {"step": 0.0, "lr": 1e-9, "loss": 2e-3, "grad_norm": 1e-2},
    "bf16": {"step": 0.0, "lr": 1e-9, "loss": 2e-2, "grad_norm": 5e-2},
}
"""Relative, by precision: in fp32 several times what other CPUs and numbers of threads change in rounding; in bf16 what
lies between the two recordings (1.4 and 3.0 %), with a little room."""


def update_rows(run: Path) -> list[dict[str, float]]:
    """The figures of the optimiser updates in a run's metrics.jsonl."""
    rows = map(json.loads, (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [{name: row[name] for name in FIGURES} for row in rows if "lr" in row]


def deviations(ours: Sequence[Row], golden: Sequence[Row], tolerances: Mapping[str, float]) -> list[str]:
    """A line for each figure that differs from the golden one by more than its tolerance."""
    if len(ours) < len(golden):
        return [f"{len(ours)} updates, where {len(golden)} are recorded"]
    return [
        f"update {then['step']:.0f}: {name} {now[name]:.6g}, recorded {then[name]:.6g} (tolerance {tolerance:g})"
        for now, then in zip(ours, golden, strict=False)
        for name, tolerance in tolerances.items()
        if not abs(now[name] - then[name]) <= tolerance * abs(then[name])
    ]


def main(arguments: Sequence[str]) -> int:
    """Exit status 1 where the run strays."""
    run = Path(arguments[0])
    precision = json.loads((run / "environment.json").read_text(encoding="utf-8"))["precision"]
    recorded = Path(__file__).parent / f"demo-{precision}.jsonl"
    ours = update_rows(run)
    if "--record" in arguments[1:]:
        recorded.write_text("".join(json.dumps(row) + "\n" for row in ours), encoding="utf-8")
        return 0
    golden = [json.loads(line) for line in recorded.read_text(encoding="utf-8").splitlines()]
    strays = deviations(ours, golden, TOLERANCES[precision])
    print("\n".join(strays) or f"{len(golden)} updates as recorded ({recorded.name})")
    return 1 if strays else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
