"""Loggers of others (TensorBoard, Weights & Biases, MLflow), fed with the rows of metrics.jsonl.

They are leaves: nothing else knows them, and one that fails is named once and never ends a run.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from whispertune.errors import RecipeError, one_line
from whispertune.run.recipe import Recipe, to_mapping, to_yaml
from whispertune.run.run_folder import RunFolder
from whispertune.run.yaml_fields import flatten
from whispertune.system.console import console
from whispertune.system.files import write_text
from whispertune.training.metrics import EvaluationRow, Row, UpdateRow

UPDATE = ("loss", "lr", "grad_norm", "audio_rate", "memory_gb", "seconds")
EVALUATION = ("wer", "cer", "wer_raw", "cer_raw", "leading_rate", "loss")


class Logger(Protocol):
    """Another program's log of a run."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values of one row."""

    def close(self) -> None:
        """Write what is still held back."""


def scalars(row: Row) -> dict[str, float]:
    """The finite numbers of a row by the names of their curves: `train/loss`, `valid/wer`, `test/best/beam 8/wer`."""
    fields = asdict(row)
    names: tuple[str, ...]
    if isinstance(row, EvaluationRow):
        names, prefix = EVALUATION, row.split
        if row.split != "valid":
            prefix += f"/{row.model}/{'greedy' if row.beam_size == 1 else f'beam {row.beam_size}'}"
        elif row.model not in ("baseline", "epoch"):  # an average of weights
            prefix += f"/{row.model}"
    else:
        names, prefix = UPDATE if isinstance(row, UpdateRow) else ("loss_scale",), "train"
    found = {f"{prefix}/{name}": fields[name] for name in names if fields[name] is not None}
    return {name: float(value) for name, value in found.items() if math.isfinite(value)}


class TensorBoard:
    """Event files in RUN/tensorboard. A resumed run writes them again, so that they hold what metrics.jsonl holds."""

    def __init__(self, folder: Path, recipe: Recipe, before: Sequence[Row]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if folder.is_dir():
            for path in folder.glob("events.out.tfevents.*"):
                path.unlink()
        self._writer: Any = SummaryWriter(str(folder))
        self._writer.add_text("recipe", f"```yaml\n{to_yaml(recipe)}```")
        for row in before:
            self.log(row.step, scalars(row))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of wandb, as its environment variables say (WANDB_PROJECT, WANDB_MODE=offline, …)."""

    def __init__(self, folder: RunFolder, recipe: Recipe, id_: str) -> None:
        import wandb

        self._run: Any = wandb.init(
            project=None, name=folder.path.resolve().name, id=id_, resume="allow", dir=str(folder.path),
            config=flatten(to_mapping(recipe)), settings=wandb.Settings(console="off", silent=True),
        )  # fmt: skip
        self._run.define_metric("*", step_metric="step")  # wandb's own steps can only grow, also over a resume

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({**values, "step": step})

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of MLflow, where MLFLOW_TRACKING_URI says (or in ./mlruns), in the experiment of MLFLOW_EXPERIMENT_NAME."""

    def __init__(self, folder: RunFolder, recipe: Recipe, id_: str | None) -> None:
        import mlflow

        self._client: Any = mlflow.MlflowClient()
        if id_ is None:
            experiment = mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", "whispertune"))
            name = folder.path.resolve().name
            id_ = self._client.create_run(experiment.experiment_id, run_name=name).info.run_id
            for field, value in flatten(to_mapping(recipe)).items():
                self._client.log_param(id_, field, str(value)[:500])
        else:
            self._client.update_run(id_, status="RUNNING")
        self.id = id_

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._client.log_metric(self.id, name, value, step=step)

    def close(self) -> None:
        self._client.set_terminated(self.id)


class Guarded:
    """A sink for rows that a logger takes; if it fails, that is said once, and it gets no more."""

    def __init__(self, name: str, make: Callable[[], Logger]) -> None:
        self._name = name
        self._logger: Logger | None = None
        self._try(lambda: setattr(self, "_logger", make()))

    def write(self, row: Row) -> None:
        """Hand on one row."""
        if (logger := self._logger) is not None and (values := scalars(row)):
            self._try(lambda: logger.log(row.step, values))

    def close(self) -> None:
        """Let the logger write what it holds back."""
        if self._logger is not None:
            self._try(self._logger.close)
            self._logger = None

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # of a program or a server of others': none of it may fail a run of hours
            self._logger = None
            console.print(
                f"log       {self._name} failed and gets no more rows: {one_line(str(error))}", style="yellow"
            )


PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
"""The package that each logger needs, which an extra of its name installs."""


def require_loggers(names: Sequence[str]) -> None:
    """Refuse loggers whose packages are not installed, before anything is computed.

    Raises:
        RecipeError: with the command that installs them.
    """
    for name in names:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise RecipeError(
                f"names {name}, which is not installed; install it: pip install 'whispertune[{name}]'", field="log"
            )


def open_loggers(folder: RunFolder, recipe: Recipe, before: Sequence[Row]) -> list[Guarded]:
    """The sinks that the recipe names. before: the rows before a resume."""
    ids = _known_ids(folder)
    made = []
    for name in recipe.loggers:
        if name == "tensorboard":
            make: Callable[[], Logger] = lambda: TensorBoard(folder.path / "tensorboard", recipe, before)  # noqa: E731
        elif name == "wandb":
            ids.setdefault("wandb", uuid.uuid4().hex[:16])
            make = lambda: WeightsAndBiases(folder, recipe, ids["wandb"])  # noqa: E731
        else:
            make = lambda: _mlflow(folder, recipe, ids)  # noqa: E731
        made.append(Guarded(name, make))
    if ids:
        with suppress(OSError):
            write_text(folder.loggers, json.dumps(ids, indent=2) + "\n")
    return made


def _mlflow(folder: RunFolder, recipe: Recipe, ids: dict[str, str]) -> MLflow:
    logger = MLflow(folder, recipe, ids.get("mlflow"))
    ids["mlflow"] = logger.id
    return logger


def _known_ids(folder: RunFolder) -> dict[str, str]:
    """The runs' ids at the loggers, which a resumed run continues."""
    try:
        found = json.loads(folder.loggers.read_text(encoding="utf-8"))
        return {name: str(id_) for name, id_ in found.items() if name in PACKAGES}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}
