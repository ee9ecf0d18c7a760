"""Runs of several processes over gloo, without a launcher: forked from one that has imported everything."""

from __future__ import annotations

import errno
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from training_samples import Moment, prepare_server, strike

from whispertune import cli
from whispertune.states import computed as states
from whispertune.system.processes import Processes
from whispertune.training import all_reduce, resume, trainer

BOUND = 60.0
"""Seconds after which processes that are still there count as hanging, and are killed."""


@dataclass(frozen=True)
class Ended:
    """What each process came to, by rank.

    statuses: the exit status, the negative signal that ended it, or None if it hung.
    """

    statuses: list[int | None]
    logs: list[str]
    seconds: float

    @property
    def errors(self) -> list[str]:
        """Error lines of all processes."""
        assert not any("Traceback" in log for log in self.logs), self.logs
        return [line for log in self.logs for line in log.splitlines() if line.startswith("error: ")]


class Launcher:
    """Runs whispertune commands in several processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        path = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._server = subprocess.Popen(
            [sys.executable, "-c", "import process_samples; process_samples.serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"},
            text=True,
        )

    def __call__(
        self, arguments: list[str], *, world_size: int = 2, rank: int = 1, moment: Moment | None = None, fault: str = ""
    ) -> Ended:
        """Run a command; in process `rank` (-1: in all) something happens: a signal at a moment, or a fault (below)."""
        job = {
            "arguments": arguments, "world": world_size, "rank": rank, "moment": moment and asdict(moment),
            "fault": fault, "cache": os.environ["XDG_CACHE_HOME"],
            "logs": [str(self.folder / str(number)) for number in range(world_size)],
        }  # fmt: skip
        started = time.monotonic()
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        statuses = json.loads(self._server.stdout.readline())
        return Ended(statuses, [Path(log).read_text() for log in job["logs"]], time.monotonic() - started)

    def close(self) -> None:
        self._server.communicate(timeout=60)


def state_of(run: Path, name: str = "state") -> dict[str, torch.Tensor]:
    return load_file(run / "last" / f"{name}.safetensors")


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], prefix: str) -> float:
    """L2 norm of the difference over all tensors whose names begin so."""
    names = [name for name in a if name.startswith(prefix)]
    assert names
    return float(torch.stack([(a[name].double() - b[name].double()).norm() for name in names]).norm())


def size(a: dict[str, torch.Tensor], prefix: str) -> float:
    return distance(a, {name: torch.zeros_like(tensor) for name, tensor in a.items()}, prefix)


def lost_line(ended: Ended, run: Path) -> str:
    """The one line that tells of a lost process."""
    (line,) = ended.errors
    assert "is gone or stuck" in line
    assert line.endswith(f"continue with: whispertune resume {run}")
    return line


def serve() -> None:
    """The other end of `Launcher`."""
    prepare_server()
    importlib.import_module("whispertune.training.sharded_copy")  # PyTorch's FSDP2 takes seconds
    states.BATCH_FRAMES = 700  # so that every process has some of these few windows to encode

    for line in sys.stdin:
        job = json.loads(line)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        children = [_start(job, rank, port) for rank in range(job["world"])]
        print(json.dumps(_wait(children)), flush=True)


def _start(job: dict[str, Any], rank: int, port: int) -> int:
    child = os.fork()
    if child:
        return child
    with Path(job["logs"][rank]).open("w", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        environment = {
            "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": job["world"], "LOCAL_WORLD_SIZE": job["world"],
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "XDG_CACHE_HOME": job["cache"],
        }  # fmt: skip
        os.environ.update({name: str(value) for name, value in environment.items()})
        try:
            if job["rank"] in (rank, -1):
                if job["moment"] is not None:
                    strike(Moment(**job["moment"]))
                if job["fault"]:
                    FAULTS[job["fault"]]()
            status = cli.main(job["arguments"])
        except BaseException:
            traceback.print_exc()
            status = 99
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def _wait(children: Sequence[int]) -> list[int | None]:
    deadline = time.monotonic() + BOUND
    statuses: dict[int, int | None] = {}
    while len(statuses) < len(children):
        for child in children:
            if child in statuses:
                continue
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                statuses[child] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline or _others_ended_and_it_sleeps(child, statuses, children):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                statuses[child] = None
        time.sleep(0.01)
    return [statuses[child] for child in children]


def _others_ended_and_it_sleeps(child: int, statuses: dict[int, int | None], children: Sequence[int]) -> bool:
    """A process that was stopped on purpose will never end."""
    state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
    return state == "T" and len(statuses) == len(children) - 1


# Faults: called in one process before its command.


def infinite_gradient() -> None:
    """The second update's gradients overflow here."""

    def overflow(self: Any) -> None:
        self.trainable[0].grad = torch.full_like(self.trainable[0], torch.inf, requires_grad=False)

    _hook_backward(overflow, 2, before=True)


def unreadable_clip() -> None:
    """A clip vanishes during training."""
    from whispertune.errors import AudioError

    def fail(_: Any) -> None:
        raise AudioError("clip.wav: cannot be read; restore it")

    _hook_backward(fail, 2)


def bug() -> None:
    """Something that nobody thought of."""
    _hook_backward(lambda self: [][1], 2)


def _hook_backward(then: Callable[[Any], Any], nth: int, *, before: bool = False) -> None:
    original, calls = trainer.Trainer.backward, 0

    def backward(self: Any, *arguments: Any) -> float:
        nonlocal calls
        calls += 1
        if before and calls == nth:
            then(self)
        loss = original(self, *arguments)
        if not before and calls == nth:
            then(self)
        return loss

    trainer.Trainer.backward = backward  # type: ignore[method-assign]


def keep_every_state() -> None:
    """Every process writes its final state, the others beside the main one's."""
    original = trainer.Trainer.save

    def save(self: Any) -> None:
        original(self)
        path = self.state.with_name(f"rank-{self.processes.rank}.safetensors")
        trainer.save_state(path, self.learner.model, self.learner.optimizer, self.progress)

    trainer.Trainer.save = save  # type: ignore[method-assign]


def small_buckets() -> None:
    """Gradients in many buckets; every process writes, beside the state, in which order passes and all-reduces began
    and ended."""
    all_reduce.BUCKET_ELEMENTS = 2**14
    save, events = trainer.Trainer.save, []

    def traced(owner: type, name: str) -> None:
        original = getattr(owner, name)

        def call(*arguments: Any) -> Any:
            events.append(f"{name} begins")
            result = original(*arguments)
            events.append(f"{name} ends")
            return result

        setattr(owner, name, call)

    def save_both(self: Any) -> None:
        save(self)
        self.state.with_name(f"trace-{self.processes.rank}.json").write_text(json.dumps(events), encoding="utf-8")

    traced(trainer.Trainer, "backward")
    traced(trainer.Trainer, "_update")
    traced(Processes, "start_all_reduce")
    trainer.Trainer.save = save_both  # type: ignore[method-assign]


def small_buckets_after_the_passes() -> None:
    """As `small_buckets`, but none is sent before all backward passes are made."""
    small_buckets()
    all_reduce.GradientSum.add = lambda *_: None  # type: ignore[method-assign]


def tell_holdings() -> None:
    """Every process tells, beside the state, how many elements of moments and of parameters it holds."""
    original = trainer.Trainer.save

    def save(self: Any) -> None:
        original(self)

        def own(tensor: Any) -> torch.Tensor:
            return tensor.to_local() if hasattr(tensor, "to_local") else tensor

        moments = [
            own(kept[key]) for kept in self.learner.optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")
        ]
        held = {
            "moments": sum(moment.numel() for moment in moments),
            "parameters": sum(own(p).numel() for p in self.trainable),
        }
        path = self.state.with_name(f"rank-{self.processes.rank}.json")
        path.write_text(json.dumps(held), encoding="utf-8")

    trainer.Trainer.save = save  # type: ignore[method-assign]


def full_disk() -> None:
    """The second state fails to be written once a few of its tensors are."""
    original, calls = resume.save_file, 0

    def save_file(*arguments: Any, fetch: Callable[[str], torch.Tensor], **named: Any) -> None:
        nonlocal calls
        calls += 1
        fetched = 0

        def fail(name: str) -> torch.Tensor:
            nonlocal fetched
            fetched += 1
            if calls == 2 and fetched == 5:
                raise OSError(errno.ENOSPC, "No space left on device")
            return fetch(name)

        original(*arguments, fetch=fail, **named)

    resume.save_file = save_file


def last_saved_long_ago() -> None:
    """By this process's clock alone a state is due at once."""
    original = trainer.Trainer.__post_init__

    def post_init(self: Any) -> None:
        original(self)
        self.last_saved = -1e9

    trainer.Trainer.__post_init__ = post_init  # type: ignore[method-assign]


FAULTS = {
    f.__name__: f
    for f in (
        infinite_gradient, unreadable_clip, bug, keep_every_state, small_buckets, small_buckets_after_the_passes,
        tell_holdings, full_disk, last_saved_long_ago,
    )
}  # fmt: skip
