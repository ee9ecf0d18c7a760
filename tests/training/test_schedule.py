"""The learning rate: by formula, and as real runs log it."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from training_samples import CONFIG, Samples, progress_of, step_rows, valid_rows

from whispertune import cli
from whispertune.errors import RecipeError
from whispertune.training import trainer, working_copy
from whispertune.training.options import ScheduleOptions
from whispertune.training.schedule import Schedule, build_schedule


def close(value: float, expected: float) -> bool:
    return math.isclose(value, expected, rel_tol=1e-12)


def build(total: int = 1000, d_model: int = 512, **options: Any) -> Schedule:
    return build_schedule(ScheduleOptions(**options), d_model=d_model, total_steps=total)


def noam(step: int, peak: float, warmup: int) -> float:
    """Section 1 of the design: scale * min(step^-0.5, step * warmup_steps^-1.5), scale = peak * sqrt(warmup)."""
    return peak * warmup**0.5 * min(step**-0.5, step * warmup**-1.5)


steps = st.integers(1, 100_000)
warmups = st.integers(1, 10_000)
peaks = st.floats(1e-8, 1.0)


@given(step=steps, warmup=warmups, peak=peaks)
def test_noam_with_the_peak_scale(step: int, warmup: int, peak: float) -> None:
    schedule = build(peak_lr=peak, warmup_steps=warmup)
    assert close(schedule(step), noam(step, peak, warmup))
    assert close(schedule(warmup), peak)
    assert schedule(step) <= peak * (1 + 1e-12)


@given(step=steps, warmup=warmups, d_model=st.sampled_from([384, 512, 768, 1024, 1280]), factor=st.floats(0.01, 10))
def test_noam_with_the_d_model_scale(step: int, warmup: int, d_model: int, factor: float) -> None:
    schedule = build(d_model=d_model, scale="d_model", factor=factor, warmup_steps=warmup)
    assert close(schedule(step), factor * d_model**-0.5 * min(step**-0.5, step * warmup**-1.5))


@given(step=steps, warmup=warmups, total=st.integers(2, 100_000), peak=peaks, share=st.floats(0.05, 1.0))
def test_shapes_after_the_same_warm_up(step: int, warmup: int, total: int, peak: float, share: float) -> None:
    step = min(step, total)
    decay = max(1, round(share * total))
    # What is left of the run behind the warm-up: 1 at its end, 0 at the last update.
    left = (total - step) / max(1, total - warmup)
    expected = {
        "constant": peak,
        "linear": peak * left,
        "cosine": peak * 0.5 * (1 + math.cos(math.pi * (1 - left))),
        "wsd": peak if total - step >= decay else peak * (total - step) / decay,
    }
    for name, after in expected.items():
        more = {"decay_share": share} if name == "wsd" else {}
        schedule = build(total, name=name, peak_lr=peak, warmup_steps=warmup, **more)
        if step <= warmup:
            assert close(schedule(step), peak * step / warmup), name
        else:
            # Near its end cosine is a difference of nearly equal numbers in either form.
            assert math.isclose(schedule(step), after, rel_tol=1e-12, abs_tol=1e-15 * peak), name


def test_no_shape_but_constant_is_constant() -> None:
    """The fault of others: a schedule that is built and never stepped."""
    for name in ("noam", "linear", "cosine", "constant", "wsd"):
        schedule = build(100, name=name, peak_lr=1e-5, warmup_steps=10)
        rates = [schedule(step) for step in range(1, 101)]
        assert rates[:10] == sorted(set(rates[:10])), f"{name} does not warm up"
        assert close(rates[9], 1e-5), f"{name} does not reach its peak"
        assert (rates[-1] < 0.5e-5) == (name != "constant"), name


@pytest.mark.parametrize(("total", "warmup"), [(1, 1), (14, 1), (16, 2), (100, 10), (4000, 400), (90_000, 500)])
def test_auto_warm_up_is_a_tenth_of_the_run_at_most_500(total: int, warmup: int) -> None:
    assert build(total).warmup_steps == warmup


def test_auto_peak_falls_with_the_models_width() -> None:
    assert close(build(d_model=512).peak_lr, 3e-5)
    assert close(build(d_model=1280).peak_lr, 3e-5 * (512 / 1280) ** 1.5)
    widths = (384, 512, 768, 1024, 1280)
    rates = [build(d_model=width).peak_lr for width in widths]
    assert rates == sorted(rates, reverse=True)
    # An order of magnitude is what others have found to work.
    assert all(5e-6 < rate < 6e-5 for rate in rates)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"peak_lr": 0.0}, "^peak_lr is"),
        ({"peak_lr": math.inf}, "^peak_lr is"),
        ({"peak_lr": math.nan}, "^peak_lr is"),
        ({"warmup_steps": 0}, "^warmup_steps is"),
        ({"factor": 0.0}, "^factor is"),
        ({"decay_share": 0.0}, "^decay_share is"),
        ({"decay_share": 1.1}, "^decay_share is"),
        ({"scale": "d_model", "name": "cosine"}, "^scale is"),
    ],
)
def test_bad_values_name_their_field(options: dict[str, Any], field: str) -> None:
    with pytest.raises(RecipeError, match=field):
        ScheduleOptions(**options)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"scale": "d_model", "peak_lr": 1e-5},
            "^peak_lr is 1e-05, but it goes with schedule.scale peak alone",
        ),
        ({"factor": 2.0}, "^factor is 2.0, but it goes with schedule.scale d_model alone; leave it out"),
        ({"name": "linear", "factor": 2.0}, "^factor is 2.0"),
        (
            {"name": "cosine", "decay_share": 0.5},
            "^decay_share is 0.5, but it goes with schedule.name wsd alone",
        ),
        ({"scale": "d_model", "decay_share": 0.5}, "^decay_share is 0.5"),
    ],
)
def test_fields_that_the_schedule_does_not_use_are_refused(options: dict[str, Any], line: str) -> None:
    """Rather than that a run trains otherwise than its recipe reads."""
    with pytest.raises(RecipeError, match=line):
        ScheduleOptions(**options)
    ScheduleOptions(name="wsd", peak_lr=1e-5, decay_share=0.5)
    ScheduleOptions(scale="d_model", factor=2.0, warmup_steps=10)


# Real runs. 11 clips at batch 2: 3 updates an epoch with accumulation 2, 2 with accumulation 3.


@pytest.mark.parametrize(("accumulation", "per_epoch"), [(1, 6), (3, 2)])
def test_logged_rates_equal_the_formula(
    samples: Samples, tmp_path: Path, accumulation: int, per_epoch: int, applied_rates: list[float]
) -> None:
    assert samples.train_run(tmp_path / "run", accumulation=accumulation) == 0
    rows = step_rows(tmp_path / "run")
    assert [row["step"] for row in rows] == list(range(1, 2 * per_epoch + 1))
    assert [row["epoch"] for row in rows] == [1] * per_epoch + [2] * per_epoch
    for row in rows:
        assert close(row["lr"], noam(row["step"], 1e-3, 4))
    # The rate that is logged is the one that the weights moved at.
    assert applied_rates == [row["lr"] for row in rows]


def test_logged_rates_of_the_d_model_scale(samples: Samples, tmp_path: Path, applied_rates: list[float]) -> None:
    scale = {"schedule__scale": "d_model", "schedule__factor": 0.02, "schedule__peak_lr": None}
    assert samples.train_run(tmp_path / "run", **scale) == 0
    for row, applied in zip(step_rows(tmp_path / "run"), applied_rates, strict=True):
        step = row["step"]
        assert close(row["lr"], 0.02 * CONFIG.d_model**-0.5 * min(step**-0.5, step * 4**-1.5))
        assert applied == row["lr"]


@pytest.fixture
def applied_rates(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The learning rates that AdamW is stepped with, the same one in all groups."""
    rates: list[float] = []
    original = working_copy.update_on_cpu

    def update(optimizer: torch.optim.AdamW) -> None:
        (rate,) = {group["lr"] for group in optimizer.param_groups}
        rates.append(float(rate))
        original(optimizer)

    monkeypatch.setattr(working_copy, "update_on_cpu", update)
    return rates


Poison = Callable[..., None]


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Poison:
    """Make the loss of these micro-batches (counted from 1, over all runs of the test) infinite or not a number."""

    def make(*micro_batches: int, value: float = math.nan) -> None:
        original = trainer.summed_nll
        calls = 0

        def poisoned(*arguments: Any, **named: Any) -> torch.Tensor:
            nonlocal calls
            calls += 1
            nll = original(*arguments, **named)
            return nll * value if calls in micro_batches else nll

        monkeypatch.setattr(trainer, "summed_nll", poisoned)

    return make


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_skipped_step_advances_neither_step_nor_schedule(
    samples: Samples, tmp_path: Path, poison: Poison, applied_rates: list[float], value: float
) -> None:
    poison(3, value=value)  # the first of two micro-batches of the second update
    assert samples.train_run(tmp_path / "run", accumulation=2, epochs=2) == 0
    rows = step_rows(tmp_path / "run")
    assert [row["step"] for row in rows] == [1, 2, 2, 3, 4, 5]
    (skipped,) = [row for row in rows if "lr" not in row]
    assert skipped is rows[1]
    assert skipped["skipped"] is True
    assert skipped["loss"] is None
    for row in rows[:1] + rows[2:]:
        assert close(row["lr"], noam(row["step"], 1e-3, 4))
    assert len(applied_rates) == 5
    progress = progress_of(tmp_path / "run")
    assert (progress["step"], progress["skipped"], progress["skipped_in_a_row"]) == (5, 1, 0)
    # The skipped update left no gradient behind, and the weights finite.
    assert all(math.isfinite(row["loss"]) for row in valid_rows(tmp_path / "run"))


def test_a_resumed_run_goes_on_in_the_schedule(
    samples: Samples, tmp_path: Path, poison: Poison, monkeypatch: pytest.MonkeyPatch, applied_rates: list[float]
) -> None:
    """A skipped update, then a stop, then a resume: rates go by the updates that were applied."""
    poison(3)
    stop_at = iter([False, False, False, True])  # at the fourth update, 3 of which count
    original = trainer.Trainer._save_if_due

    def save_if_due(self: trainer.Trainer) -> None:
        if self.progress.position and next(stop_at, False):
            os.kill(os.getpid(), signal.SIGTERM)
        original(self)

    monkeypatch.setattr(trainer.Trainer, "_save_if_due", save_if_due)
    run = tmp_path / "run"
    assert samples.train_run(run, epochs=3) == 1
    stopped_at = len(step_rows(run))
    assert 2 <= stopped_at <= 4
    assert cli.main(["resume", str(run)]) == 0
    rows = step_rows(run)
    assert [row["step"] for row in rows] == [1, 2, 2, 3, 4, 5, 6, 7, 8]
    for row in rows[:1] + rows[2:]:
        assert close(row["lr"], noam(row["step"], 1e-3, 4))
    assert applied_rates == [row["lr"] for row in rows if "lr" in row]


def test_too_many_skips_in_a_row_end_the_run(
    samples: Samples, tmp_path: Path, poison: Poison, capsys: pytest.CaptureFixture[str]
) -> None:
    poison(1, 5, 7, 9)  # one alone, then three in a row
    run = tmp_path / "run"
    assert samples.train_run(run, epochs=4, optimizer__max_skipped_in_a_row=3) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert "3 updates in a row had gradients that are not finite" in line
    assert "schedule.peak_lr" in line
    assert [row["step"] for row in step_rows(run) if "lr" in row] == [1]
