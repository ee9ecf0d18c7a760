"""The comparison with recorded curves sees a drift, and lets rounding pass."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))
from compare import FIGURES, TOLERANCES, deviations, main

HERE = Path(__file__).parent
GOLDEN = [json.loads(line) for line in (HERE / "demo-fp32.jsonl").read_text(encoding="utf-8").splitlines()]


def moved(figure: str, factor: float, first: int = 0) -> list[dict[str, float]]:
    rows = [dict(row) for row in GOLDEN]
    for row in rows[first:]:
        row[figure] *= factor
    return rows


@pytest.mark.parametrize("precision", TOLERANCES)
def test_rounding_passes_and_drift_does_not(precision: str) -> None:
    golden, tolerances = GOLDEN, TOLERANCES[precision]
    assert len(golden) == 12
    assert deviations(golden, golden, tolerances) == []
    for figure in FIGURES[1:]:
        assert deviations(moved(figure, 1 + tolerances[figure] / 2), golden, tolerances) == []
        found = deviations(moved(figure, 1 + 2 * tolerances[figure], first=11), golden, tolerances)
        assert len(found) == 1
        assert f"update 12: {figure}" in found[0]


def test_both_precisions_are_recorded_from_the_same_run() -> None:
    """The rates are equal, the other figures so to bf16's rounding."""
    bf16 = [json.loads(line) for line in (HERE / "demo-bf16.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["lr"] for row in bf16] == [row["lr"] for row in GOLDEN]
    assert deviations(bf16, GOLDEN, TOLERANCES["bf16"]) == []
    assert deviations(bf16, GOLDEN, TOLERANCES["fp32"])


def test_a_nan_strays() -> None:
    assert deviations(moved("loss", float("nan")), GOLDEN, TOLERANCES["fp32"])


def test_a_short_run_strays() -> None:
    assert deviations(GOLDEN[:-1], GOLDEN, TOLERANCES["fp32"])


def test_as_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "environment.json").write_text('{"precision": "fp32"}')
    rows = [{"step": 0, "split": "valid", "wer": 0.1, "loss": 1.0}, *GOLDEN]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main([str(tmp_path)]) == 0
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in moved("loss", 1.01)))
    assert main([str(tmp_path)]) == 1
    assert "update 1: loss" in capsys.readouterr().out
