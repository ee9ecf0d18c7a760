"""An update, encoding and decoding need no more operations, copies and written bytes than are recorded."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).parent))
from operations import RECORDED, measure

from whispertune.model.attention import Attention
from whispertune.system.precision import cpu_multiplies_bf16

MORE, FEWER = 1.02, 0.9
"""Another version of PyTorch may divide an operation otherwise; far fewer are to be recorded, so that they stay few."""


def deviations(precision: str) -> list[str]:
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))[precision]
    return [
        f"{part}: {name} {value}, recorded {recorded[part][name]}"
        for part, figures in measure(getattr(torch, precision)).items()
        for name, value in figures.items()
        if not FEWER * recorded[part][name] <= value <= MORE * recorded[part][name]
    ]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_as_many_as_recorded(precision: str) -> None:
    if precision == "bfloat16" and not cpu_multiplies_bf16():
        pytest.skip("this CPU has no bf16 products, and PyTorch takes other kernels")
    assert deviations(precision) == [], "if that is meant: python tests/golden/operations.py --record"


def test_one_more_copy_in_each_attention_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Attention.by_row

    def copying(self: Attention, x: torch.Tensor, context: torch.Tensor, rows: Any) -> torch.Tensor:
        return original(self, x.clone(), context, rows)

    monkeypatch.setattr(Attention, "by_row", copying)
    found = deviations("float32")
    assert any(line.startswith("update: copies") for line in found)
    assert any(line.startswith("encoding: copies") for line in found)
