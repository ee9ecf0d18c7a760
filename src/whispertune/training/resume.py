"""The full training state on disk: one file, replaced at once."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any, Protocol

import torch
from safetensors import safe_open
from torch import Tensor, nn

from whispertune.errors import Interrupted, ProcessLost, RunFolderError, StorageError
from whispertune.system.files import replacing_file
from whispertune.system.processes import ALONE, Processes
from whispertune.system.tensor_file import read_metadata, replace_metadata, require_whole, save_file, writing_order
from whispertune.training.plan import BatchPlan


@dataclass(slots=True)
class Progress:
    """The progress of a run, and the decisions made at its start. Everything random follows from (seed, epoch), so the
    state of no generator is kept.

    batches: how updates are cut. stride: frames.stride after the self-check, None before it. alignment_heads: for a
    model that names none, None before they are looked for. views, stored: of encoder states, as `plan_states` chose.
    step: optimiser updates done. epoch: the current one, from 1. position: its steps done, skipped ones too.
    validated: whether the validation that is due at this position has been done.
    best_*: of the best checkpoint so far; its rate is `CorpusScore.leading`. since_best: validations after it.
    averaged: epochs in the mean of the weights.
    metrics_size, metrics_sha256: of the part of metrics.jsonl that belongs to this state.
    kept: path within the run folder -> sha256, of the files that were written once and are read again.
    began: `recipe` (dotted fields), `sha256` of model and data, `precision`, `processes`, at the start of the run.
    """

    batches: BatchPlan
    stride: int | None = None
    alignment_heads: list[list[int]] | None = None
    views: int | None = None
    stored: bool | None = None
    step: int = 0
    epoch: int = 1
    position: int = 0
    validated: bool = False
    skipped: int = 0
    skipped_in_a_row: int = 0
    loss_scale: float | None = None
    best_rate: float | None = None
    best_step: int = 0
    best_epoch: int = 0
    best_model: str = "epoch"
    since_best: int = 0
    averaged: int = 0
    trained: bool = False
    finished: bool = False
    metrics_size: int = 0
    metrics_sha256: str = ""
    kept: dict[str, str] = field(default_factory=dict)
    began: dict[str, Any] = field(default_factory=dict)


class Parts(Protocol):
    """What a process holds of the parameters (`WorkingCopy`, `ShardedCopy`)."""

    def gathered(self, tensor: Tensor) -> Tensor:
        """The whole of a parameter or moment."""

    def part_of(self, parameter: Tensor, tensor: Tensor) -> Tensor:
        """What this process holds of a whole tensor that belongs to the parameter."""


def _state_tensors(model: nn.Module, optimizer: torch.optim.Optimizer, mean: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name in the state's file -> tensor, the same in every process; each may have its part of it."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        tensors[f"parameter/{name}"] = parameter.detach()
        # AdamW's moments; that of 8 bits keeps them as codes, scales and the table of what the codes mean.
        moments = {key: value for key, value in optimizer.state.get(parameter, {}).items() if key != "step"}
        tensors |= {f"{key}/{name}": value for key, value in moments.items()}
        if name in mean:
            tensors[f"mean/{name}"] = mean[name]
    return tensors


def save_state(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    parts: Parts | None = None,
    mean: Mapping[str, Tensor] = MappingProxyType({}),
) -> None:
    """Write trainable parameters, optimiser state and progress to one file, atomically.

    parts: gathers what is sharded; the other processes then call `gather_state`. mean: of the parameters, by name
    (`Averaging.mean`).

    Raises:
        StorageError: if the disk is full or gone; the state before stays whole.
    """
    tensors = _state_tensors(model, optimizer, mean)
    try:
        with replacing_file(path) as temporary:
            save_file(
                tensors,
                temporary,
                metadata={"progress": json.dumps(asdict(progress))},
                fetch=None if parts is None else lambda name: parts.gathered(tensors[name]),
                checksums=True,
            )
    except ProcessLost:
        raise
    except Exception as error:
        # safetensors reports a full disk as its own kind of error, not as OSError.
        raise StorageError(
            f"{path}: cannot write the training state ({error}); free some disk space, then resume"
        ) from None


def gather_state(model: nn.Module, optimizer: torch.optim.Optimizer, parts: Parts) -> None:
    """Take part in the gathering of what is sharded, while the main process is in `save_state`."""
    tensors = _state_tensors(model, optimizer, {})
    for name in writing_order(tensors):
        parts.gathered(tensors[name])


def save_progress(path: Path, progress: Progress) -> None:
    """Replace the progress in a state file, atomically; its tensors stay as they are.

    Raises:
        StorageError: if the disk is full or gone; the state before stays whole.
    """
    try:
        with replacing_file(path) as temporary:
            replace_metadata(path, temporary, {"progress": json.dumps(asdict(progress))})
    except OSError as error:
        raise StorageError(
            f"{path}: cannot write the training state ({error}); free some disk space, then resume"
        ) from None


def require_whole_state(path: Path) -> None:
    """Read a whole state file and compare it with its checksums.

    Raises:
        RunFolderError: if it cannot be read or is damaged.
    """
    try:
        require_whole(path)
    except OSError as error:
        raise _unreadable(path, error) from None
    except ValueError as error:
        raise _damaged(path, error) from None


def _unreadable(path: Path, error: OSError) -> RunFolderError:
    reason = error.strerror or error
    return RunFolderError(f"{path}: cannot read the training state ({reason}); make it readable, then resume")


def _damaged(path: Path, error: Exception) -> RunFolderError:
    return RunFolderError(
        f"{path}: the training state is damaged ({error}), so that the training since the start of this run is lost; "
        "restore the file from a copy, or remove the file to start this run anew"
    )


def read_progress(path: Path) -> Progress:
    """The progress in a state file.

    Raises:
        RunFolderError: if the file cannot be read, is damaged, or is of another version.
    """
    try:
        found = _with_batches(json.loads(read_metadata(path)["progress"]))
        unknown = found.keys() - {field.name for field in fields(Progress)}
    except OSError as error:
        raise _unreadable(path, error) from None
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise _damaged(path, error) from None
    if unknown or "batches" not in found:
        what = f"it has {', '.join(sorted(unknown))}" if unknown else "it lacks batches"
        raise RunFolderError(
            f"{path}: the training state is of another version of whispertune ({what}); resume with the version that "
            "environment.json names"
        )
    return Progress(**found)


def _with_batches(found: dict[str, Any]) -> dict[str, Any]:
    """A progress of today from that of a version which kept no batches: its recipe's, in the micro-batches that it
    found by trying, if it did."""
    if "batches" in found:
        return {**found, "batches": BatchPlan(**found["batches"])}
    if not found.get("began"):
        return found
    size, accumulation = (found["began"]["recipe"][name] for name in ("batch_size", "accumulation"))
    batches = BatchPlan(size, accumulation * found["began"]["processes"])
    before = {name: value for name, value in found.items() if name != "micro_batch"}
    return {**before, "batches": batches.recut(found.get("micro_batch") or size)}


def load_state(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    parts: Parts | None = None,
) -> Progress:
    """Put a saved state back into model and optimiser, in place; returns its progress.

    parts: says which part of each tensor is this process's; by default all.
    """
    progress = read_progress(path)
    with safe_open(path, framework="pt") as file, torch.no_grad():
        names = set(file.keys())
        keys = sorted({name.partition("/")[0] for name in names} - {"parameter", "mean"})
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            if f"parameter/{name}" not in names:
                raise RunFolderError(f"{path}: holds no {name}; it belongs to another run")

            def own(key: str, parameter: Tensor = parameter, name: str = name) -> Tensor:
                # Copied: on Windows the file could not be replaced while a tensor is mapped from it.
                tensor = file.get_tensor(f"{key}/{name}").to(parameter.device, copy=True)
                return tensor if parts is None else parts.part_of(parameter, tensor)

            parameter.copy_(own("parameter"))
            if found := [key for key in keys if f"{key}/{name}" in names]:
                # The one of 8 bits counts updates in an int.
                usual = isinstance(optimizer, torch.optim.AdamW)
                step = torch.tensor(float(progress.step), device=parameter.device) if usual else progress.step
                optimizer.state[parameter] = {"step": step, **{key: own(key) for key in found}}
    return progress


def load_mean(path: Path) -> dict[str, Tensor]:
    """The mean of the weights in a saved state, by parameter name; empty if there is none."""
    with safe_open(path, framework="pt") as file:
        names = [name for name in list(file.keys()) if name.startswith("mean/")]
        return {name.removeprefix("mean/"): file.get_tensor(name).clone() for name in names}


STOPPING = (signal.SIGTERM, signal.SIGINT, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))


class StopSignal:
    """A signal (Slurm's `--signal=USR1` too) asks all processes of the run to stop at the next point where its state is
    consistent."""

    def __init__(self) -> None:
        self.received: str | None = None
        self.processes: Processes = ALONE
        self._looked = 0.0

    def check(self) -> None:
        """Raise Interrupted if this or another process has received a signal (others are asked once a second)."""
        if self.received is not None:
            self.processes.ask_to_stop(self.received)
        elif self.processes.world_size > 1 and time.monotonic() - self._looked > 1:
            self._looked = time.monotonic()
            asked = self.processes.asked_to_stop()
            self.received = self.received or asked  # one that came meanwhile stays
        if self.received is not None:
            raise Interrupted(self.received)

    def check_together(self) -> None:
        """Raise Interrupted in all processes if any has received a signal; all must call this at the same point."""
        names = [number.name for number in STOPPING]
        counts = self.processes.sum([float(self.received == name) for name in names])
        asked = next((name for name, count in zip(names, counts, strict=True) if count), None)
        if asked is not None:  # else what came during the sum waits for the next one
            self.received = asked
            stopped = Interrupted(self.received)
            stopped.met_by_all = True
            raise stopped

    @contextmanager
    def installed(self) -> Iterator[StopSignal]:
        """Handle signals while the block runs; a second one acts as it would without this handler.

        With several processes it does not: a launcher forwards the signal that the terminal has already sent to all,
        and has its own way to end them (torchrun kills after 30 s).
        """
        previous = {number: signal.getsignal(number) for number in STOPPING}

        def handle(number: int, _frame: FrameType | None) -> None:
            self.received = signal.Signals(number).name
            if self.processes.world_size == 1:
                signal.signal(number, previous[signal.Signals(number)])

        try:
            for number in previous:
                signal.signal(number, handle)
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
