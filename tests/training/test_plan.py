"""Which windows make which step."""

from __future__ import annotations

import itertools
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from whispertune.training.plan import (
    MICRO_BATCH_OVERHEAD,
    WINDOW_OVERHEAD,
    cheapest_cuts,
    epoch_plan,
    steps_per_epoch,
)
from whispertune.training.trainer import total_steps

lengths = st.lists(st.integers(1, 480_000), min_size=1, max_size=60)
sizes = st.integers(1, 9)
seeds = st.integers(0, 2**32)
epochs = st.integers(1, 1000)


@given(lengths, sizes, sizes, seeds, epochs)
def test_every_window_once_an_epoch(
    lengths: list[int], batch_size: int, accumulation: int, seed: int, epoch: int
) -> None:
    plan = epoch_plan(lengths, batch_size, accumulation, seed=seed, epoch=epoch)
    assert sorted(index for step in plan for batch in step for index in batch) == list(range(len(lengths)))
    assert len(plan) == steps_per_epoch(len(lengths), batch_size, accumulation)


@given(lengths, sizes, sizes, seeds, epochs)
def test_sizes_and_order_within_a_step(
    lengths: list[int], batch_size: int, accumulation: int, seed: int, epoch: int
) -> None:
    plan = epoch_plan(lengths, batch_size, accumulation, seed=seed, epoch=epoch)
    for number, step in enumerate(plan):
        members = [index for batch in step for index in batch]
        assert [lengths[index] for index in members] == sorted(lengths[index] for index in members)
        assert all(0 < len(batch) <= batch_size for batch in step)
        if number < len(plan) - 1:
            assert len(members) == batch_size * accumulation


@given(lengths, sizes, seeds, epochs)
def test_a_steps_windows_do_not_depend_on_how_it_is_cut(lengths: list[int], size: int, seed: int, epoch: int) -> None:
    """8 windows in one micro-batch, or in 4 of 2: the same update."""
    whole = epoch_plan(lengths, 4 * size, 1, seed=seed, epoch=epoch)
    cut = epoch_plan(lengths, size, 4, seed=seed, epoch=epoch)
    flat = [[[index for batch in step for index in batch] for step in plan] for plan in (whole, cut)]
    assert flat[0] == flat[1]


def padded_cost(lengths: list[int], cuts: list[int]) -> int:
    bounds = [0, *cuts, len(lengths)]
    return sum(
        MICRO_BATCH_OVERHEAD + (end - begin) * (lengths[end - 1] + WINDOW_OVERHEAD)
        for begin, end in itertools.pairwise(bounds)
    )


@given(st.lists(st.integers(1, 480_000), min_size=1, max_size=8).map(sorted), st.integers(1, 8))
def test_no_way_to_cut_is_cheaper(lengths: list[int], batch_size: int) -> None:
    inner = range(1, len(lengths))
    ways = [list(way) for count in range(len(lengths)) for way in itertools.combinations(inner, count)]
    allowed = [way for way in ways if max(b - a for a, b in itertools.pairwise([0, *way, len(lengths)])) <= batch_size]
    found = cheapest_cuts(lengths, batch_size)
    assert found in allowed
    assert padded_cost(lengths, found) == min(padded_cost(lengths, way) for way in allowed)


def test_a_long_window_is_not_padded_for() -> None:
    assert cheapest_cuts([30_000] * 7 + [400_000], 8) == [7]
    assert cheapest_cuts([30_000] * 8, 8) == []


@given(lengths, sizes, sizes, seeds, epochs)
def test_a_function_of_seed_and_epoch(
    lengths: list[int], batch_size: int, accumulation: int, seed: int, epoch: int
) -> None:
    first = epoch_plan(lengths, batch_size, accumulation, seed=seed, epoch=epoch)
    assert first == epoch_plan(list(lengths), batch_size, accumulation, seed=seed, epoch=epoch)


def test_epochs_and_seeds_differ() -> None:
    lengths = list(range(64))
    plans = [epoch_plan(lengths, 4, 2, seed=seed, epoch=epoch) for seed in range(3) for epoch in range(1, 4)]
    assert all(plans.count(plan) == 1 for plan in plans)
    # Which windows meet in a step differs, not only the order of the steps.
    first, second = ({frozenset(i for batch in step for i in batch) for step in plan} for plan in plans[:2])
    assert not first & second


def test_the_same_in_another_process() -> None:
    code = "from whispertune.training.plan import epoch_plan;print(epoch_plan([7, 3, 9, 1, 5], 2, 2, seed=11, epoch=2))"
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert there.strip() == str(epoch_plan([7, 3, 9, 1, 5], 2, 2, seed=11, epoch=2))


@given(st.integers(1, 10_000), sizes, sizes, st.integers(1, 20), st.none() | st.integers(1, 500))
def test_total_steps(
    num_windows: int, batch_size: int, accumulation: int, num_epochs: int, max_steps: int | None
) -> None:
    planned = 0
    for epoch in range(1, min(num_epochs, 3) + 1):
        planned += len(epoch_plan([1] * min(num_windows, 200), batch_size, accumulation, seed=0, epoch=epoch))
    if num_windows <= 200 and num_epochs <= 3:
        assert total_steps(num_windows, batch_size, accumulation, num_epochs, None) == planned
    total = total_steps(num_windows, batch_size, accumulation, num_epochs, max_steps)
    assert max_steps is None or total <= max_steps
