"""What needs no second process: dealing, and what launchers leave in the environment."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whispertune.errors import AudioError, Interrupted, ProcessLost, RecipeError
from whispertune.system.options import ProcessOptions
from whispertune.system.processes import ALONE, UNSUPPORTED, Pace, Processes, balance, init_processes, were_launched

T = TypeVar("T")
costs = st.lists(st.integers(0, 1000), max_size=40)


@given(costs, st.integers(1, 9), st.booleans())
def test_dealing(costs: list[int], shares: int, limited: bool) -> None:
    most = -(-len(costs) // shares) if limited else None
    dealt = balance(costs, shares, most=most)
    assert len(dealt) == shares
    assert sorted(index for share in dealt for index in share) == list(range(len(costs)))
    loads = [sum(costs[index] for index in share) for share in dealt]
    if limited:
        assert max(map(len, dealt)) <= (most or 0)
    else:  # a list schedule: the dearest share had the least to do before its last piece
        assert max(loads) - min(loads) <= max(costs, default=0)
    assert dealt == balance(list(costs), shares, most=most)


@given(st.lists(st.integers(1, 9), min_size=1), st.integers(1, 1000))
def test_a_share_moves_the_bar_over_the_whole(amounts: list[int], whole: int) -> None:
    shown: list[int] = []
    pace = Pace(shown.append, sum(amounts), whole)
    for amount in amounts:
        pace(amount)
    assert sum(shown) == whole
    assert min(shown) >= 0


def test_alone_everything_is_ones_own() -> None:
    assert ALONE.sum([1.5]) == [1.5]
    assert ALONE.share(lambda: "mine") == ["mine"]
    assert ALONE.from_main(lambda: 3) == 3
    with pytest.raises(Interrupted):
        ALONE.share(lambda: (_ for _ in ()).throw(Interrupted("SIGTERM")))


@given(costs, st.integers(1, 4))
def test_each_process_does_its_own_share(costs: list[int], world_size: int) -> None:
    """And every process gets the results of all, by index."""
    done: list[list[int]] = []

    def work(share: Sequence[int]) -> Iterator[str]:
        done.append(list(share))
        return (f"result {index}" for index in share)

    shares = [sorted(share) for share in balance(costs, world_size)]
    results = [[f"result {index}" for index in share] for share in shares]

    class Rank(Processes):
        def share(self, mine: Callable[[], T]) -> list[T]:
            return [mine() if other == self.rank else results[other] for other in range(world_size)]  # type: ignore[misc]

    for rank in range(world_size):
        found = Rank(rank=rank, world_size=world_size).divide(costs, work)
        assert found == [f"result {index}" for index in range(len(costs))]
    assert done == shares


LAUNCHED = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    unsupported = (f"ACCELERATE_USE_{name}" for name in UNSUPPORTED)
    for name in (*LAUNCHED, "ACCELERATE_USE_CPU", *unsupported, "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_one_process_is_not_launched(environment: pytest.MonkeyPatch) -> None:
    assert not were_launched()
    assert init_processes("auto", ProcessOptions()) == ALONE
    environment.setenv("WORLD_SIZE", "1")
    assert not were_launched()


@pytest.mark.parametrize(
    ("given", "device", "part"),
    [
        ({"WORLD_SIZE": "two"}, "cpu", "WORLD_SIZE is 'two'"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "cpu", "LOCAL_RANK, MASTER_ADDR, MASTER_PORT is not set"),
        ({"MASTER_PORT": "1", "ACCELERATE_USE_CPU": "True"}, "cpu", "has started only one process"),
        ({**LAUNCHED, "ACCELERATE_USE_FSDP": "true"}, "cpu", "FSDP is not supported"),
        ({**LAUNCHED, "ACCELERATE_USE_DEEPSPEED": "true"}, "cpu", "DeepSpeed is not supported"),
        ({**LAUNCHED, "ACCELERATE_USE_MEGATRON_LM": "true"}, "cpu", "Megatron-LM is not supported"),
        ({**LAUNCHED, "ACCELERATE_USE_PARALLELISM_CONFIG": "true"}, "cpu", "a parallelism config.* is not supported"),
        (LAUNCHED, "cuda:1", "use cuda"),
    ],
)
def test_what_does_not_fit_is_refused(
    environment: pytest.MonkeyPatch, given: dict[str, str], device: str, part: str
) -> None:
    for name, value in given.items():
        environment.setenv(name, value)
    with pytest.raises(RecipeError, match=part):
        init_processes(device, ProcessOptions())


def test_a_timeout_has_bounds() -> None:
    with pytest.raises(RecipeError, match=r"^timeout_minutes is"):
        ProcessOptions(timeout_minutes=0)


@pytest.mark.parametrize(("chosen", "threads"), [({}, 4), ({"OMP_NUM_THREADS": "3"}, 8)])
def test_processes_on_one_cpu_share_its_threads(
    environment: pytest.MonkeyPatch, chosen: dict[str, str], threads: int
) -> None:
    """srun sets no OMP_NUM_THREADS; each process would take all cores, and all wait for each other."""
    environment.delenv("OMP_NUM_THREADS", raising=False)
    for name, value in {**LAUNCHED, "LOCAL_WORLD_SIZE": "2", **chosen}.items():
        environment.setenv(name, value)
    taken = [8]
    environment.setattr("torch.get_num_threads", lambda: taken[-1])
    environment.setattr("torch.set_num_threads", taken.append)
    for name, value in {"init_process_group": None, "get_rank": 0, "get_world_size": 2}.items():
        environment.setattr(f"torch.distributed.{name}", lambda *a, _value=value, **k: _value)
    environment.setattr("torch.distributed.distributed_c10d._get_default_store", lambda: None)
    assert init_processes("cpu", ProcessOptions()).world_size == 2
    assert taken[-1] == threads


def test_the_package_is_a_command() -> None:
    there = subprocess.run(
        [sys.executable, "-m", "whispertune", "--version"], capture_output=True, text=True, check=True
    )
    assert there.stdout.strip()


def test_an_own_failure_is_told_though_the_others_never_came(monkeypatch: pytest.MonkeyPatch) -> None:
    """They may encode for longer than the timeout; what went wrong is not that."""
    two = Processes(rank=0, world_size=2)

    def nobody_came(self: Processes, value: object) -> list[object]:
        raise ProcessLost("rank 1 of 2 is gone or stuck")

    monkeypatch.setattr(Processes, "all_gather", nobody_came)

    def fails() -> None:
        raise AudioError("clip.wav: no audio")

    with pytest.raises(AudioError, match=r"clip\.wav") as error:
        two.share(fails)
    assert error.value.others_lost
    assert not AudioError("another").others_lost
    with pytest.raises(ProcessLost):
        two.share(lambda: None)
