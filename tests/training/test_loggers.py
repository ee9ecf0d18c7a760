"""`--log`: other programs' logs hold what metrics.jsonl holds, after a resume too, and never end a run.

Those of programs that are not installed are skipped.
"""

from __future__ import annotations

import importlib.util
import json
import signal
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_samples import Moment, Runner, Samples, metrics

from whispertune.errors import RecipeError
from whispertune.run import loggers
from whispertune.run.flags import parse_fields
from whispertune.run.loggers import Guarded, scalars
from whispertune.run.recipe import Recipe
from whispertune.training.metrics import SkippedRow
from whispertune.training.metrics import UpdateRow as Update

TOOK = {"seconds": 0.5, "audio_rate": 20.0, "memory_gb": 1.5, "seconds_left": 60}


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


def expected(run: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of each curve, from metrics.jsonl."""
    curves: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for row in metrics(run):
        if "split" not in row:
            names, prefix = ("loss", "lr", "grad_norm", "audio_rate", "memory_gb", "seconds"), "train"
        else:
            names, prefix = ("wer", "cer", "wer_raw", "cer_raw", "leading_rate", "loss"), row["split"]
            if prefix == "test":
                prefix += f"/{row['model']}/{'greedy' if row['beam_size'] == 1 else 'beam 2'}"
        for name in names:
            curves[f"{prefix}/{name}"].append((row["step"], row[name]))
    return dict(curves)


def interrupted(samples: Samples, runner: Runner, run: Path, log: str, sent: int = signal.SIGKILL) -> None:
    """A run that got a signal in its second epoch, and was resumed."""
    fields = {"test": samples.test, "search__beam_size": 2, "checkpoint__every_steps": 1}
    moment = Moment("whispertune.training.trainer", "Trainer.backward", 8, sent=sent)
    assert runner(samples.arguments(run, log=log, **fields), moment) == (-9 if sent == signal.SIGKILL else 1)
    assert runner(["resume", str(run)]) == 0
    assert "failed" not in (run / "log.txt").read_text(encoding="utf-8")


def assert_equal(found: dict[str, list[tuple[int, float]]], run: Path) -> None:
    wanted = expected(run)
    assert set(found) == set(wanted)
    assert len(wanted) == 6 + 6 + 4 * 6
    for name, points in wanted.items():
        assert [step for step, _ in found[name]] == [step for step, _ in points], name
        np.testing.assert_allclose([value for _, value in found[name]], [value for _, value in points], rtol=1e-6)


@needs("tensorboard")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_the_same(samples: Samples, runner: Runner, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    interrupted(samples, runner, run, "tensorboard")
    read = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    read.Reload()
    found = {
        name: [(event.step, event.value) for event in read.Scalars(name)] for name in read.Tags()["scalars"]
    }  # fmt: skip
    assert_equal(found, run)


@needs("wandb")
def test_weights_and_biases_offline(
    samples: Samples, runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    run = tmp_path / "run"
    interrupted(samples, runner, run, "wandb", signal.SIGTERM)  # killed, wandb loses what it holds back
    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    ids = set()
    files = sorted(run.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime)
    assert len(files) == 2
    for path in files:
        for data in leveldb_records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.HasField("run"):
                ids.add(record.run.run_id)
            if record.HasField("history"):
                items = {
                    "".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item
                }
                for name, value in items.items():
                    if "/" in name:
                        found[name].append((items["step"], value))
    assert len(ids) == 1  # the same run, continued
    assert_equal({name: sorted(set(points)) for name, points in found.items()}, run)


@needs("mlflow")
def test_mlflow_in_a_local_store(
    samples: Samples, runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # as others store, with no database
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    run = tmp_path / "run"
    interrupted(samples, runner, run, "mlflow")
    ids = json.loads((run / "loggers.json").read_text(encoding="utf-8"))
    client = mlflow.MlflowClient()
    found = {
        name: sorted({(point.step, point.value) for point in client.get_metric_history(ids["mlflow"], name)})
        for name in client.get_run(ids["mlflow"]).data.metrics
    }
    assert_equal(found, run)
    assert client.get_run(ids["mlflow"]).data.params["epochs"] == "2"


def leveldb_records(content: bytes) -> Iterator[bytes]:
    """The records of a .wandb file, which has the format of LevelDB's log: blocks of 32 KiB behind 7 bytes."""
    parts, position = [], 7
    while position + 7 <= len(content):
        if 32_768 - position % 32_768 < 7:  # no room for a header: zeros
            position += 32_768 - position % 32_768
            continue
        length, kind = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        if kind == 0 or position + 7 + length > len(content):  # what a kill cut short
            return
        parts.append(content[position + 7 : position + 7 + length])
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield b"".join(parts)
            parts = []


class Failing:
    """A logger that takes two rows."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def log(self, step: int, values: Any) -> None:
        if len(self.taken) == 2:
            raise ConnectionError("the server\nis gone")
        self.taken.append(step)

    def close(self) -> None:
        raise AssertionError


def test_a_logger_that_fails_is_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    failing = Failing()
    sink = Guarded("wandb", lambda: failing)
    row = {"epoch": 1, "lr": 1.0, "loss": 2.0, "grad_norm": float("inf"), "tokens": 1, "utterances": 1, **TOOK}
    for step in range(1, 6):
        sink.write(Update(step=step, **row))
    sink.close()
    assert failing.taken == [1, 2]
    said = capsys.readouterr().err
    assert said == "log       wandb failed and gets no more rows: the server\\nis gone\n"
    assert "train/grad_norm" not in scalars(Update(step=1, **row))
    skipped = SkippedRow(step=2, epoch=1, loss_scale=None, tokens=1, utterances=1, **TOOK)
    assert scalars(skipped) == {}


def test_one_that_cannot_start_ends_no_run(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*given: object) -> None:
        raise PermissionError("no account")

    monkeypatch.setattr("whispertune.commands.train.require_loggers", lambda names: None)
    monkeypatch.setattr(loggers, "WeightsAndBiases", fail)
    assert samples.train_run(tmp_path / "run", log="wandb", epochs=1, max_steps=1) == 0
    assert capsys.readouterr().err.count("wandb failed and gets no more rows: no account") == 1


def test_what_is_not_installed_is_refused_at_once(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(loggers.PACKAGES, "mlflow", "no_such_package")
    assert samples.train_run(tmp_path / "run", log="mlflow", valid="absent.csv") == 2
    assert "pip install 'whispertune[mlflow]'" in capsys.readouterr().err
    flags = [f"--{name}=x" for name in ("model", "train", "valid", "output")]
    with pytest.raises(RecipeError, match="'tensorbord' is not among tensorboard, wandb and mlflow"):
        parse_fields(Recipe, {}, [*flags, "--log=wandb,tensorbord"], command="train")
