"""Data-parallel processes of a command and their collective operations.

`torchrun` or `accelerate launch` starts the command once per process. Each holds the whole model, and they share the
work: windows are distributed by cost, gradients are all-reduced, one process writes. `training/sharded_copy.py` shards
the model.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import chain
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from whispertune.errors import ProcessLost, RecipeError, TrainingError, WhispertuneError
from whispertune.system.options import ProcessOptions, SharingOptions
from whispertune.system.precision import gpu_is_usable

T = TypeVar("T")

STOP, REPORTED = "whispertune/stop", "whispertune/reported"
UNSUPPORTED = {
    "FSDP": "FSDP",
    "DEEPSPEED": "DeepSpeed",
    "MEGATRON_LM": "Megatron-LM",
    "PARALLELISM_CONFIG": "a parallelism config (tensor, context, sequence)",
}
"""Unsupported features that `accelerate launch` requests by ACCELERATE_USE_…, and their names."""


def were_launched() -> bool:
    """Whether a launcher started this process as one of several.

    Raises:
        RecipeError: if it was asked for several and started only one.
    """
    environment = os.environ
    try:
        world_size = int(environment.get("WORLD_SIZE", "1"))
    except ValueError:
        raise RecipeError(f"WORLD_SIZE is {environment['WORLD_SIZE']!r} in the environment; unset it") from None
    if "WORLD_SIZE" not in environment and "MASTER_PORT" in environment and "ACCELERATE_USE_CPU" in environment:
        raise RecipeError(
            "accelerate launch has started only one process: it needs --multi_gpu even without GPUs; "
            "or use torchrun --nproc_per_node N -m whispertune …"
        )
    if world_size > 1:
        missing = [n for n in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if not environment.get(n)]
        if missing:
            raise RecipeError(
                f"WORLD_SIZE is {world_size} in the environment, but {', '.join(missing)} is not set; start with "
                "torchrun or accelerate launch, or unset WORLD_SIZE"
            )
    return world_size > 1


def init_processes(device: str, options: ProcessOptions | SharingOptions) -> Processes:
    """Initialise the process group, if a launcher has started several processes; `device` is the recipe's.

    Raises:
        RecipeError: if processes and devices do not match.
        TrainingError: if the other processes cannot be reached.
    """
    if not were_launched():
        return Processes()
    for name, what in UNSUPPORTED.items():
        if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true":
            raise RecipeError(
                f"{what} is not supported; launch without it: --processes.shard true shards the model (FSDP2)"
            )
    if device.startswith("cuda:"):
        raise RecipeError(
            f"is {device}, but there are several processes; use cuda, and each has its own GPU", field="device"
        )
    if device == "mps":
        raise RecipeError("is mps, which serves one process; start without torchrun or use cpu", field="device")
    on_cpu = device == "cpu" or not gpu_is_usable()
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if not on_cpu and here > torch.cuda.device_count():
        raise RecipeError(
            f"{here} processes on this machine, but PyTorch sees {torch.cuda.device_count()} GPUs; start one per GPU "
            "or use --device cpu"
        )
    local_rank = int(os.environ["LOCAL_RANK"])
    own = torch.device("cpu") if on_cpu else torch.device("cuda", local_rank)
    if on_cpu and "OMP_NUM_THREADS" not in os.environ:  # torchrun and accelerate launch set it; srun does not
        torch.set_num_threads(max(1, torch.get_num_threads() // here))
    timeout = timedelta(minutes=options.timeout_minutes)
    # The others only learn that a process is gone: one that crashes in native code is to say where.
    faulthandler.enable(file=2)  # sys.stderr may be no file
    try:
        if not on_cpu:
            torch.cuda.set_device(own)
        dist.init_process_group("gloo" if on_cpu else "nccl", timeout=timeout)
        control = dist.group.WORLD if on_cpu else dist.new_group(backend="gloo", timeout=timeout)
        store = dist.distributed_c10d._get_default_store()
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise TrainingError(f"the processes cannot connect: {reason[:300]}") from None
    return Processes(dist.get_rank(), dist.get_world_size(), own, control, store)


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among all of a run; by default the only one.

    device: its own, or None (the recipe decides). control: a process group for CPU values. store: a key-value store
    that every process can access at any time. All methods except `asked_to_stop`, `ask_to_stop` and `should_report` are
    collective: all processes must call them in the same order. They raise ProcessLost if a process died or timed out.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device | None = None
    control: Any = None
    store: Any = None

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the process that writes files and prints."""
        return self.rank == 0

    @property
    def name(self) -> str:
        return f"rank {self.rank} of {self.world_size}"

    def _collect(self, collective: Callable[..., T], *arguments: Any, **options: Any) -> T:
        try:
            return collective(*arguments, **options)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise self.lost(error) from None

    def lost(self, error: RuntimeError) -> ProcessLost:
        """What to raise for an error of a collective operation."""
        others = self.world_size - 1
        who = f"rank {1 - self.rank} of 2" if others == 1 else f"one of the other {others} processes"
        reason = " ".join(str(error).split()).rpartition("] ")[2].partition(". ")[0]
        return ProcessLost(f"{who} is gone or stuck ({reason[:120]})")

    def start_all_reduce(self, tensor: Tensor) -> dist.Work:
        """Begin to replace a tensor by its sum over all processes, which `wait` completes."""
        work: dist.Work = self._collect(dist.all_reduce, tensor, async_op=True)
        return work

    def wait(self, work: dist.Work) -> None:
        """Wait for an operation that was started; on a GPU, let the current stream wait for it."""
        self._collect(work.wait)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes, in float64."""
        if self.world_size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        self._collect(dist.all_reduce, total, group=self.control)
        summed: list[float] = total.tolist()
        return summed

    def all_gather(self, value: T) -> list[T]:
        """Every process's value, by rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        self._collect(dist.all_gather_object, values, value, group=self.control)
        return values

    def from_main(self, make: Callable[[], T]) -> T:
        """The result of `make`, which only the main process calls, broadcast to all; so is a WhispertuneError."""
        if self.world_size == 1:
            return make()
        value: list[Any] = [_attempt(make) if self.is_main else None]
        self._collect(dist.broadcast_object_list, value, src=0, group=self.control)
        made: T
        made, failure = value[0]
        if failure is not None:
            failure.met_by_all = True
            raise failure
        return made

    def barrier(self) -> None:
        """Wait until every process has called this."""
        self.sum([0.0])

    def share(self, work: Callable[[], T]) -> list[T]:
        """Do this process's share of some work; returns the results of all shares, by rank.

        A WhispertuneError (or a signal) in one share is raised in every process once all have finished theirs.
        """
        if self.world_size == 1:
            return [work()]
        mine = _attempt(work)
        try:
            everyone = self.all_gather(mine)
        except ProcessLost:
            if mine[1] is not None:  # the others are gone: report this process's own error
                mine[1].others_lost = True
                raise mine[1] from None
            raise
        for _, failure in everyone:
            if failure is not None:
                failure.met_by_all = True
                raise failure
        return [result for result, _ in everyone]  # type: ignore[misc]

    def divide(self, costs: Sequence[float], work: Callable[[Sequence[int]], Iterable[T]]) -> list[T]:
        """The result for each item, by its index; each process works on a share of the items of about the same cost.

        work: given the indices of a share, ascending, the result for each of them in turn.
        """
        shares = [sorted(share) for share in balance(costs, self.world_size)]
        parts = self.share(lambda: list(work(shares[self.rank])))
        results = dict(zip(chain.from_iterable(shares), chain.from_iterable(parts), strict=True))
        return [results[index] for index in range(len(costs))]

    def require_same(self, what: str, value: object) -> None:
        """Make sure that a value is the same in all processes.

        Raises:
            RecipeError: with the first process in which it differs.
        """
        for rank, theirs in enumerate(self.all_gather(value)):
            if theirs != value:
                raise RecipeError(
                    f"{what} differs between rank {rank} and {self.name}; all processes must be given the same command "
                    "and see the same files"
                )

    def ask_to_stop(self, signal: str) -> None:
        """Announce a signal that this process received."""
        if self.world_size > 1:
            self._collect(self.store.set, STOP, signal)

    def asked_to_stop(self) -> str | None:
        """The signal that any process has announced, if any."""
        if self.world_size == 1:
            return None
        if not self._collect(self.store.check, [STOP]):
            return None
        signal: bytes = self._collect(self.store.get, STOP)
        return signal.decode()

    def should_report(self) -> bool:
        """Whether this process should print an error: the first one with an error, preferably the main process."""
        if self.world_size == 1:
            return True
        try:
            if not self.is_main:
                _within_a_second(lambda: self.store.check([REPORTED]))
            reported = int(self.store.add(REPORTED, 1))
            if reported == 1:  # the store may end with this process: let the others read it first
                _within_a_second(lambda: self.store.add(REPORTED, 0) >= self.world_size)
        except RuntimeError:  # the store is gone, and with it the process that might have printed
            return True
        return reported == 1


ALONE = Processes()


def _attempt(work: Callable[[], T]) -> tuple[T | None, WhispertuneError | None]:
    """Its result, or the error that all processes are to be told of."""
    try:
        return work(), None
    except ProcessLost:
        raise
    except WhispertuneError as error:
        return None, error


def end(status: int) -> None:
    """End the process immediately if a process group was initialised; otherwise do nothing.

    A normal interpreter exit races with gloo's threads, which sometimes abort it.
    """
    if dist.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _within_a_second(happened: Callable[[], bool]) -> None:
    """Wait for a condition for at most one second."""
    deadline = time.monotonic() + 1
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.02)


def balance(costs: Sequence[float], shares: int, *, most: int | None = None) -> list[list[int]]:
    """Distribute indices to `shares` processes, at most `most` each, so that their summed costs are about equal.

    Longest processing time first (Graham 1969): the most expensive remaining item goes to the least loaded process.
    """
    assigned: list[list[int]] = [[] for _ in range(shares)]
    load = [0.0] * shares
    for index in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        takers = [s for s in range(shares) if most is None or len(assigned[s]) < most]
        share = min(takers, key=lambda s: (load[s], s))
        assigned[share].append(index)
        load[share] += costs[index]
    return assigned


@dataclass(slots=True)
class Pace:
    """Advances a progress bar over the whole work in proportion to this process's share."""

    advance: Callable[[int], None]
    share: int
    whole: int
    _done: int = 0
    _shown: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, amount: int) -> None:
        with self._lock:
            self._done += amount
            shown = self.whole * self._done // max(1, self.share)
            shown, self._shown = shown - self._shown, shown
        self.advance(shown)
