"""Whole runs whose encoder states are stored: killed, sharing a store, on a full disk, with augmented views."""

from __future__ import annotations

import errno
import itertools
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_samples import Moment, Runner, Samples, metrics, outcome, step_rows

from whispertune import cli
from whispertune.states import computed as states
from whispertune.states import files

# Two dense windows are encoded at once, so that there are six batches of train and two of valid; one update.
SMALL: dict[str, object] = {"frames__selection": "dense", "max_steps": 1}
AUGMENTED: dict[str, object] = {
    "augment__speed__probability": 0.9,
    "augment__drop_chunk__probability": 0.5,
    "augment__spec_augment__probability": 0.9,
}


class Encoded:
    """Counts the windows that stores encode."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.windows = 0
        original = states.encode

        def encode(encoder: Any, features: Any) -> Any:
            self.windows += len(features)
            return original(encoder, features)

        monkeypatch.setattr(states, "encode", encode)


@pytest.fixture(scope="module")
def small(samples: Samples, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an uninterrupted run with its states in memory leaves behind."""
    run = tmp_path_factory.mktemp("small") / "run"
    assert samples.train_run(run, states__store="memory", **SMALL) == 0
    return outcome(run)


def test_a_later_run_reads_what_an_earlier_one_encoded(
    samples: Samples, small: dict[str, Any], tmp_path: Path, state_cache: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    encoded = Encoded(monkeypatch)
    for name in ("first", "later"):
        assert samples.train_run(tmp_path / name, **SMALL) == 0
        assert outcome(tmp_path / name) == small
        assert encoded.windows == 15
    shown = capsys.readouterr().err
    assert f"states    disk: 6 MB in {state_cache}" in shown
    assert "encoding train: 11 windows read from the store" in shown
    assert "encoding valid: 4 windows read from the store" in shown
    # Other frames are another store; the folder can be named, and a resume may name another.
    assert samples.train_run(tmp_path / "other", states__folder=tmp_path / "stores", **SMALL) == 0
    assert encoded.windows == 30
    assert len(list((tmp_path / "stores").iterdir())) == len(list(state_cache.iterdir())) == 2


FILES = "whispertune.states.files"
KILLS = {
    "behind a batch": Moment("whispertune.states.computed", "encode", 4, "after"),
    "amid writing a batch": Moment(FILES, "write_checked", 4, "amid"),
    "before a batch is renamed": Moment(FILES, "write_checked", 6, "after"),
    "in valid": Moment(FILES, "StateFolder.write", 13),
}


@pytest.mark.parametrize(
    "moment",
    [pytest.param(n, marks=() if n in ("behind a batch", "amid writing a batch") else pytest.mark.slow) for n in KILLS],
)
def test_a_killed_encoding_goes_on_where_it_stopped(
    samples: Samples, small: dict[str, Any], runner: Runner, tmp_path: Path, state_cache: Path, moment: str
) -> None:
    run = tmp_path / "run"
    assert runner(samples.arguments(run, **SMALL), KILLS[moment]) == -signal.SIGKILL, runner.log.read_text()
    assert runner(["resume", str(run)]) == 0, runner.log.read_text()
    log = runner.log.read_text()
    kept = {"behind a batch": 3, "amid writing a batch": 3, "before a batch is renamed": 5, "in valid": 11}
    assert f"encoding train: {kept[moment]} windows read from the store" in log
    assert not list(state_cache.rglob("*.new"))
    assert "damaged" not in log
    assert outcome(run) == small


@pytest.mark.slow
def test_two_runs_at_once(samples: Samples, small: dict[str, Any], runner: Runner, tmp_path: Path) -> None:
    """Both encode, and write the same bytes."""
    other = Runner(tmp_path / "log")
    runs = {tmp_path / "a": runner, tmp_path / "b": other}
    status: dict[Path, int] = {}

    def work(run: Path) -> None:
        status[run] = runs[run](samples.arguments(run, **SMALL))

    threads = [threading.Thread(target=work, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    other.close()
    assert list(status.values()) == [0, 0]
    for run in runs:
        assert outcome(run) == small


@pytest.mark.parametrize("first", [1, 3])
def test_a_full_disk_is_told_and_the_run_goes_on(
    samples: Samples, small: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], first: int,
) -> None:  # fmt: skip
    original, calls = files.write_checked, itertools.count(1)

    def full(*arguments: Any) -> None:
        if next(calls) >= first:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(*arguments)

    monkeypatch.setattr(files, "write_checked", full)
    assert samples.train_run(tmp_path / "run", **SMALL) == 0
    shown = capsys.readouterr().err
    assert "No space left on device" in shown
    assert "memory instead" in shown
    assert outcome(tmp_path / "run") == small


@pytest.mark.parametrize(("number", "status"), [(errno.ENOSPC, 1), (errno.EACCES, 2)])
def test_full_disk_and_little_memory_is_one_line(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    number: int, status: int,
) -> None:  # fmt: skip
    """A folder that may not be written to is the user's doing, a full one is not."""

    def full(*arguments: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files, "write_checked", full)
    for module in ("run.encoder_states", "states.placement", "states.stored"):
        monkeypatch.setattr(f"whispertune.{module}.free_memory", lambda: 1000)
    assert samples.train_run(tmp_path / "run", **SMALL) == status
    shown = capsys.readouterr().err
    assert f"{os.strerror(number)}), and 4 MB do not fit in memory; free some disk space" in shown
    assert "Traceback" not in shown


def test_a_run_of_which_only_the_test_is_left_encodes_nothing_for_training(
    samples: Samples, runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    command = samples.arguments(run, test=samples.test, states__store="memory", search__beam_size=1, max_steps=1)
    assert runner(command, Moment("whispertune.run.outcome", "write_jsonl", 1)) == -signal.SIGKILL
    encoded = Encoded(monkeypatch)
    monkeypatch.setattr("whispertune.evaluation.evaluate.MAX_TOKENS", 40)
    assert cli.main(["resume", str(run)]) == 0
    assert encoded.windows == 3  # the test's own


# Views.


@pytest.mark.parametrize("keep_original", ["true", "false"])
def test_stored_views_train_as_computed_ones(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    keep_original: str,
) -> None:  # fmt: skip
    """Two views over three epochs: each encoded once, and the clean copies once."""
    fields = {**AUGMENTED, "augment__views": 2, "augment__keep_original": keep_original, "epochs": 3}
    encoded = Encoded(monkeypatch)
    assert samples.train_run(tmp_path / "disk", **fields, windows__stitched_share=0.3) == 0
    copies = 3 if keep_original == "true" else 2
    assert encoded.windows == copies * 16 + 4
    assert "2 views, epoch e takes e modulo 2" in capsys.readouterr().err
    assert samples.train_run(tmp_path / "off", **fields, windows__stitched_share=0.3, states__store="off") == 0
    for ours, theirs in zip(metrics(tmp_path / "disk"), metrics(tmp_path / "off"), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)


def test_the_clean_copies_of_fresh_views_are_stored(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = {**AUGMENTED, "augment__keep_original": "true", "epochs": 2}
    encoded = Encoded(monkeypatch)
    assert samples.train_run(tmp_path / "auto", **fields) == 0
    assert encoded.windows == 11 + 4 + 2 * 11
    assert samples.train_run(tmp_path / "off", **fields, states__store="off") == 0
    for ours, theirs in zip(metrics(tmp_path / "auto"), metrics(tmp_path / "off"), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)


def test_views_resume_bit_by_bit(samples: Samples, runner: Runner, tmp_path: Path) -> None:
    fields = {**AUGMENTED, "augment__views": 2, "epochs": 3, "checkpoint__every_steps": 1}
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert samples.train_run(whole, **fields, states__store="memory") == 0
    command = samples.arguments(run, **fields, states__store="memory")
    assert runner(command, Moment("whispertune.training.trainer", "Trainer.backward", 9)) == -signal.SIGKILL
    assert runner(["resume", str(run)]) == 0, runner.log.read_text()
    assert outcome(run) == outcome(whole)


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"epochs": 4}, "fresh augmented copies in every epoch"),
        ({"epochs": 12}, "views, epoch e takes e modulo"),
        ({"epochs": 4, "states__store": "disk"}, "4 views, epoch e takes e modulo 4"),
        ({"epochs": 12, "freeze": "none"}, "fresh augmented copies in every epoch"),
        ({"epochs": 12, "states__store": "off"}, "fresh augmented copies in every epoch"),
    ],
)
def test_how_many_views_pay(
    samples: Samples, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, object], shown: str,
) -> None:  # fmt: skip
    class Enough(Exception):  # noqa: N818
        pass

    def enough(*arguments: Any, **named: Any) -> None:
        raise Enough

    monkeypatch.setattr("whispertune.run.stages.Trainer", enough)
    monkeypatch.setattr("whispertune.states.views.StoredViews.prepare", lambda *arguments: None)
    monkeypatch.setenv("WHISPERTUNE_TRACEBACK", "1")
    with pytest.raises(Enough):
        samples.train_run(tmp_path / "run", **AUGMENTED, **fields)
    assert shown in capsys.readouterr().err


# Layers that learn above stored states.


@pytest.mark.parametrize("freeze", ["encoder:0", "encoder:1", "encoder:-1", "encoder:2"])
def test_states_below_the_layers_that_learn_are_stored(
    samples: Samples, tmp_path: Path, state_cache: Path, monkeypatch: pytest.MonkeyPatch, freeze: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Encoded once for all epochs and runs; the losses are those of states computed anew, but for the order of sums."""
    encoded = Encoded(monkeypatch)
    rows = []
    for name, fields in (("stored", {}), ("again", {}), ("computed", {"states__store": "off"})):
        assert samples.train_run(tmp_path / name, freeze=freeze, **fields) == 0
        rows.append([(row["loss"], row["grad_norm"]) for row in step_rows(tmp_path / name)])
        if name != "computed":
            assert encoded.windows == 15
    assert encoded.windows > 15
    assert outcome(tmp_path / "stored") == outcome(tmp_path / "again")
    assert np.allclose(rows[0], rows[2], rtol=1e-4)
    layers = {"encoder:0": 0, "encoder:1": 1, "encoder:-1": 1, "encoder:2": 2}[freeze]
    assert f"states    disk, below the encoder's layer {layers}: " in capsys.readouterr().err


def test_stores_of_other_layers_are_others(samples: Samples, tmp_path: Path, state_cache: Path) -> None:
    for freeze in ("encoder", "encoder:1", "encoder:2"):
        assert samples.train_run(tmp_path / freeze, freeze=freeze, max_steps=1) == 0
    assert len([path for path in state_cache.glob("*") if path.is_dir()]) == 6


def test_killed_above_stored_states(samples: Samples, runner: Runner, tmp_path: Path) -> None:
    fields: dict[str, object] = {"freeze": "encoder:1", "precision": "bf16", "states__store": "memory"}
    assert runner(samples.arguments(tmp_path / "whole", **fields)) == 0, runner.log.read_text()
    moment = Moment("whispertune.training.trainer", "Trainer._run_step", 4)
    killed = samples.arguments(tmp_path / "killed", checkpoint__every_steps=2, **fields)
    assert runner(killed, moment) == -signal.SIGKILL, runner.log.read_text()
    assert runner(["resume", str(tmp_path / "killed")]) == 0, runner.log.read_text()
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


def test_augmented_copies_above_stored_states(samples: Samples, tmp_path: Path) -> None:
    """Stored views, beside the clean copies."""
    fields: dict[str, object] = {**AUGMENTED, "augment__views": 2, "augment__keep_original": "true"}
    assert samples.train_run(tmp_path / "run", freeze="encoder:1", **fields) == 0
    assert samples.train_run(tmp_path / "fresh", freeze="encoder:1", states__store="off", **fields) == 0
    losses = [[row["loss"] for row in step_rows(tmp_path / name)] for name in ("run", "fresh")]
    assert np.allclose(*losses, rtol=1e-4)
