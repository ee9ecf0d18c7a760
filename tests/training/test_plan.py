"""Which windows make which step."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whispertune.training.plan import (
    SAMPLES_A_WINDOW,
    BatchPlan,
    balance_step,
    draw_windows,
    epoch_plan,
    expected_draws,
    steps_per_epoch,
    total_steps,
)

lengths = st.lists(st.integers(1, 480_000), min_size=1, max_size=60)
sizes = st.integers(1, 9)
seeds = st.integers(0, 2**32)
epochs = st.integers(1, 1000)


@given(lengths, sizes, sizes, seeds, epochs)
def test_every_window_once_an_epoch(
    lengths: list[int], batch_size: int, accumulation: int, seed: int, epoch: int
) -> None:
    plan = epoch_plan(lengths, BatchPlan(batch_size, accumulation), seed=seed, epoch=epoch)
    assert sorted(index for step in plan for batch in step for index in batch) == list(range(len(lengths)))
    assert len(plan) == steps_per_epoch(len(lengths), BatchPlan(batch_size, accumulation))


@given(lengths, sizes, sizes, seeds, epochs)
def test_sizes_and_order_within_a_step(
    lengths: list[int], batch_size: int, accumulation: int, seed: int, epoch: int
) -> None:
    plan = epoch_plan(lengths, BatchPlan(batch_size, accumulation), seed=seed, epoch=epoch)
    for number, step in enumerate(plan):
        members = [index for batch in step for index in batch]
        assert [lengths[index] for index in members] == sorted(lengths[index] for index in members)
        assert all(0 < len(batch) <= batch_size for batch in step)
        if number < len(plan) - 1:
            assert len(members) == batch_size * accumulation
            assert len(step) == accumulation


@given(lengths, sizes, seeds, epochs)
def test_a_steps_windows_do_not_depend_on_how_it_is_cut(lengths: list[int], size: int, seed: int, epoch: int) -> None:
    """8 windows in one micro-batch, or in 4 of 2: the same update."""
    whole = epoch_plan(lengths, BatchPlan(4 * size, 1), seed=seed, epoch=epoch)
    cut = epoch_plan(lengths, BatchPlan(4 * size, 1).recut(size), seed=seed, epoch=epoch)
    flat = [[[index for batch in step for index in batch] for step in plan] for plan in (whole, cut)]
    assert flat[0] == flat[1]


@given(lengths, sizes, sizes, seeds, epochs)
def test_a_function_of_seed_and_epoch(
    lengths: list[int], batch_size: int, accumulation: int, seed: int, epoch: int
) -> None:
    first = epoch_plan(lengths, BatchPlan(batch_size, accumulation), seed=seed, epoch=epoch)
    assert first == epoch_plan(list(lengths), BatchPlan(batch_size, accumulation), seed=seed, epoch=epoch)


def test_epochs_and_seeds_differ() -> None:
    lengths = list(range(64))
    plans = [epoch_plan(lengths, BatchPlan(4, 2), seed=seed, epoch=epoch) for seed in range(3) for epoch in range(1, 4)]
    assert all(plans.count(plan) == 1 for plan in plans)
    # Which windows meet in a step differs, not only the order of the steps.
    first, second = ({frozenset(i for batch in step for i in batch) for step in plan} for plan in plans[:2])
    assert not first & second


def test_the_same_in_another_process() -> None:
    planned = "epoch_plan([7, 3, 9, 1, 5], BatchPlan(2, 2), seed=11, epoch=2)"
    code = f"from whispertune.training.plan import *;print(list({planned}))"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert there.strip() == str(list(epoch_plan([7, 3, 9, 1, 5], BatchPlan(2, 2), seed=11, epoch=2)))


@given(st.integers(1, 10_000), sizes, sizes, st.integers(1, 20), st.none() | st.integers(1, 500))
def test_total_steps(
    num_windows: int, batch_size: int, accumulation: int, num_epochs: int, max_steps: int | None
) -> None:
    planned, batches = 0, BatchPlan(batch_size, accumulation)
    for epoch in range(1, min(num_epochs, 3) + 1):
        planned += len(epoch_plan([1] * min(num_windows, 200), batches, seed=0, epoch=epoch))
    if num_windows <= 200 and num_epochs <= 3:
        assert total_steps(num_windows, batches, num_epochs, None) == planned
    total = total_steps(num_windows, batches, num_epochs, max_steps)
    assert max_steps is None or total <= max_steps


@given(sizes, sizes, st.data())
def test_updates_stay_as_large_however_they_are_cut(batch_size: int, accumulation: int, data: st.DataObject) -> None:
    batches = BatchPlan(batch_size, accumulation)
    divisors = [size for size in range(1, batches.windows + 1) if batches.windows % size == 0]
    recut = batches.recut(data.draw(st.sampled_from(divisors)))
    assert recut.windows == batches.windows == batch_size * accumulation


processes = st.integers(1, 9)


@given(lengths, sizes, sizes, processes, seeds)
def test_a_step_dealt_to_processes_is_the_same_step(
    lengths: list[int], batch_size: int, accumulation: int, processes: int, seed: int
) -> None:
    for step in epoch_plan(lengths, BatchPlan(batch_size, accumulation * processes), seed=seed, epoch=1):
        shares = balance_step(step, lengths, batch_size, processes)
        assert len(shares) == processes
        members = [index for share in shares for batch in share for index in batch]
        assert sorted(members) == sorted(index for batch in step for index in batch)
        assert all(0 < len(batch) <= batch_size for share in shares for batch in share)
        assert processes > 1 or shares == [step]


@given(sizes, sizes, processes, st.integers(1, 480_000))
def test_equal_windows_make_equal_shares(batch_size: int, accumulation: int, processes: int, length: int) -> None:
    per_step = batch_size * accumulation * processes
    (step,) = epoch_plan([length] * per_step, BatchPlan(batch_size, accumulation * processes), seed=0, epoch=1)
    shares = balance_step(step, [length] * per_step, batch_size, processes)
    assert [sum(map(len, share)) for share in shares] == [batch_size * accumulation] * processes


def test_what_a_window_costs_beside_its_length_counts() -> None:
    """The fullest process has as little to do as any dealing out allows; by length alone it would have more."""
    seconds = [9, 4, 4, 4, 1]

    def cost(windows: Iterable[int]) -> int:
        return sum(16_000 * seconds[index] + SAMPLES_A_WINDOW for index in windows)

    pairs = (set(pair) for pair in combinations(range(5), 2))
    least = min(max(cost(pair), cost(set(range(5)) - pair)) for pair in pairs)
    shares = balance_step([[0, 1, 2, 3, 4]], [16_000 * duration for duration in seconds], 8, 2)
    assert max(cost(index for batch in share for index in batch) for share in shares) == least


def test_shares_of_real_lengths_are_about_equal() -> None:
    """The dearest share of each step, against an equal division of the step."""
    generator = np.random.default_rng(0)
    lengths = generator.lognormal(11.2, 0.9, 2000).clip(8_000, 480_000).astype(int).tolist()
    for world_size, bound in ((2, 1.02), (4, 1.04)):
        dearest = whole = 0
        for step in epoch_plan(lengths, BatchPlan(8, 2 * world_size), seed=0, epoch=1):
            shares = balance_step(step, lengths, 8, world_size)
            costs = [sum(lengths[i] + SAMPLES_A_WINDOW for batch in share for i in batch) for share in shares]
            assert len(step) < 2 * world_size or all(len(share) == 2 for share in shares)
            dearest, whole = dearest + max(costs), whole + sum(costs)
        assert dearest <= bound * whole / world_size


# Mixtures.


def test_without_weights_and_temperature_nothing_is_drawn() -> None:
    assert expected_draws(["it", "de"], [2.0, 2.0], 1.0) is None


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0, 100.0])
def test_shares_of_languages_follow_the_formula(temperature: float) -> None:
    """p ~ n^(1/T): with T = 1 as they are, with a large T all alike."""
    counts = {"it": 900, "de": 90, "mt": 10}
    languages = [language for language, count in counts.items() for _ in range(count)]
    draws = expected_draws(languages, [1.0] * 999 + [1.0 + 1e-9], temperature)
    assert draws is not None
    assert draws.sum() == pytest.approx(1000)
    wanted = {language: count ** (1 / temperature) for language, count in counts.items()}
    for language, share in wanted.items():
        mine = sum(d for d, name in zip(draws, languages, strict=True) if name == language)
        assert mine / 1000 == pytest.approx(share / sum(wanted.values()), rel=1e-6)


def test_weights_count_within_a_language() -> None:
    draws = expected_draws(["it"] * 4, [3.0, 3.0, 1.0, 1.0], 1.0)
    assert draws is not None
    assert draws.tolist() == pytest.approx([1.5, 1.5, 0.5, 0.5])


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=60), st.integers(0, 2**32))
def test_each_window_is_drawn_floor_or_ceil_of_what_is_expected(weights: list[float], seed: int) -> None:
    draws = np.asarray(weights) * len(weights) / sum(weights)
    drawn = np.bincount(draw_windows(draws, np.random.default_rng(seed)), minlength=len(weights))
    assert drawn.sum() == len(weights)
    assert (drawn >= np.floor(draws - 1e-9)).all()
    assert (drawn <= np.ceil(draws + 1e-9)).all()


def test_draws_are_unbiased_and_follow_seed_and_epoch() -> None:
    draws = np.array([0.3, 1.7, 0.5, 1.5])
    total = sum(np.bincount(draw_windows(draws, np.random.default_rng(n)), minlength=4) for n in range(4000))
    np.testing.assert_allclose(total / 4000, draws, atol=0.04)
    plans = [epoch_plan([1] * 4, BatchPlan(2, 1), seed=0, epoch=epoch, draws=draws) for epoch in (1, 1, 2)]
    assert plans[0] == plans[1]
    assert sorted(len(step[0]) for step in plans[2]) == [2, 2]
