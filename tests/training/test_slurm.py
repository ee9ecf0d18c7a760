"""recipes/slurm.sh, with a Slurm that is faked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from training_samples import Samples, outcome, step_rows, weights_of

from whispertune.errors import Interrupted
from whispertune.system.processes import Processes
from whispertune.training.resume import StopSignal

SCRIPT = Path(__file__).parents[2] / "recipes" / "slurm.sh"
PATIENCE = 300.0

pytestmark = pytest.mark.skipif(os.name == "nt", reason="a shell script")


class Slurm:
    """One node. launcher: what `torchrun` runs."""

    def __init__(self, folder: Path, launcher: str) -> None:
        self.folder, self.starts = folder, 0
        self.path = folder / "bin"
        self.path.mkdir()
        self._program("srun", f'echo "$@" >> {folder}/srun\n[ "$1" = --kill-on-bad-exit=1 ] && shift\nexec "$@"')
        self._program("torchrun", launcher)
        hosts, ask = f"{folder}/hosts", f"{folder}/requeued"
        self._program(
            "scontrol", f'case "$1" in show) echo "$@" >> {hosts}; echo localhost;; *) echo "$@" >> {ask};; esac'
        )

    def _program(self, name: str, content: str) -> None:
        (self.path / name).write_text(f"#!/usr/bin/env bash\n{content}\n")
        (self.path / name).chmod(0o755)

    def start(self, arguments: list[str], processes: int = 2) -> subprocess.Popen[bytes]:
        """What Slurm does when a job's turn has come."""
        environment = {
            **os.environ, "PATH": f"{self.path}:{os.environ['PATH']}", "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_RESTART_COUNT": str(self.starts), "SLURM_JOB_NODELIST": "node[1-1]", "SLURM_JOB_NUM_NODES": "1",
            "SLURM_GPUS_ON_NODE": str(processes), "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        self.starts += 1
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(["bash", str(SCRIPT), *arguments], env=environment, stdout=log, stderr=log)

    @property
    def requeued(self) -> int:
        asked = self.folder / "requeued"
        return len(asked.read_text().splitlines()) if asked.exists() else 0


def wait_until(happened: Callable[[], bool], job: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened() and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("sent", "ends_with", "status", "requeued"),
    [
        (signal.SIGUSR1, 1, 1, 1),  # its time is nearly up
        (signal.SIGTERM, 1, 1, 0),  # Slurm queues it again itself, if it was preempted
        (signal.SIGUSR1, 0, 0, 0),  # finished just then
        (None, 3, 3, 0),  # a fault of its own would come again
    ],
)
def test_the_job_is_queued_again_where_it_was_stopped(
    tmp_path: Path, sent: signal.Signals | None, ends_with: int, status: int, requeued: int
) -> None:
    """The launcher is told, and waited for."""
    wait = "" if sent is None else "; ".join(["trap 'stopped=yes' TERM", "touch ready", "until [ $stopped ]", ""])
    wait = wait and f"cd {tmp_path}; {wait}do sleep 0.02; done; sleep 0.3; touch saved; "
    slurm = Slurm(tmp_path, f"{wait}exit {ends_with}")
    job = slurm.start(["a b.yaml", "--output", "run"], processes=4)
    if sent is not None:
        wait_until((tmp_path / "ready").exists, job)
        job.send_signal(sent)
    assert job.wait(60) == status, (tmp_path / "log").read_text()
    assert slurm.requeued == requeued
    assert sent is None or (tmp_path / "saved").exists()
    given = (tmp_path / "srun").read_text()
    port = 20_000 + os.getpid() % 10_000
    assert f"--nnodes 1 --nproc_per_node 4 --rdzv_backend c10d --rdzv_id {os.getpid()}-0" in given
    assert f"--rdzv_endpoint localhost:{port} -m whispertune train a b.yaml --output run" in given
    assert (tmp_path / "hosts").read_text() == "show hostnames node[1-1]\n"


def test_a_signal_during_the_sum_of_signals_waits_for_the_next_one() -> None:
    stop = StopSignal()

    class Interrupting(Processes):
        def sum(self, values: Sequence[float]) -> list[float]:
            stop.received = "SIGTERM"
            return list(values)

    stop.processes = Interrupting()
    stop.check_together()
    with pytest.raises(Interrupted, match="SIGTERM"):
        stop.check_together()


def test_a_signal_while_others_are_asked_is_not_lost() -> None:
    stop = StopSignal()

    class Interrupting(Processes):
        def asked_to_stop(self) -> str | None:
            stop.received = "SIGTERM"
            return None

    stop.processes = Interrupting(world_size=2)
    with pytest.raises(Interrupted, match="SIGTERM"):
        stop.check()


@pytest.mark.slow
@pytest.mark.parametrize("last", [2, 1])
def test_a_job_that_is_requeued_three_times_ends_as_an_undisturbed_one(
    samples: Samples, tmp_path: Path, last: int
) -> None:
    """With other processes the last time: to rounding."""
    runs, slurms = {}, {}
    for name in ("undisturbed", "requeued"):
        (tmp_path / name).mkdir()
        slurms[name] = Slurm(tmp_path / name, f'exec {sys.executable} -m torch.distributed.run "$@"')
        runs[name] = tmp_path / name / "run"
    arguments = {name: samples.arguments(run, epochs=3, device="cpu", accumulation=1)[1:] for name, run in runs.items()}
    assert slurms["undisturbed"].start(arguments["undisturbed"]).wait(PATIENCE) == 0
    slurm, run = slurms["requeued"], runs["requeued"]
    for updates in (1, 3, 5):
        job = slurm.start(arguments["requeued"])
        wait_until(lambda done=updates: run.exists() and len(written(run)) >= done, job)
        job.send_signal(signal.SIGUSR1)
        assert job.wait(PATIENCE) == 1, (slurm.folder / "log").read_text()
    assert slurm.requeued == 3
    assert slurm.start(arguments["requeued"], processes=last).wait(PATIENCE) == 0
    found, expected = outcome(run), outcome(runs["undisturbed"])
    if last == 2:
        assert found == expected
    ours, theirs = weights_of(run / "best"), weights_of(runs["undisturbed"] / "best")
    assert all((ours[name] - theirs[name]).abs().max() < 1e-5 for name in theirs)
    assert len(step_rows(run)) == len(step_rows(runs["undisturbed"]))


def written(run: Path) -> list[str]:
    """Rows of updates, whole or not."""
    metrics = run / "metrics.jsonl"
    return [line for line in metrics.read_text().split("\n") if '"lr"' in line] if metrics.exists() else []
