"""The rows of metrics.jsonl, and where they go."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from whispertune.errors import RunFolderError, StorageError
from whispertune.system.files import read_jsonl
from whispertune.training.metrics import EvaluationRow, MetricsFile, Row, RunLog, SkippedRow, UpdateRow

TOOK = {"seconds": 0.5, "audio_rate": 20.0, "memory_gb": 1.5, "seconds_left": 60}


def update(step: int) -> UpdateRow:
    return UpdateRow(step=step, epoch=1, lr=1e-5, loss=0.1 + 0.2, grad_norm=2.5, tokens=7, utterances=2, **TOOK)


def evaluation(step: int, **changes: Any) -> EvaluationRow:
    fields = {
        "step": step, "epoch": 1, "split": "valid", "model": "epoch", "frames": "thinned", "wer": 0.1, "cer": 0.05,
        "wer_raw": 0.2, "cer_raw": 0.1, "wer_interval": [0.05, 0.15], "cer_interval": [0.0, 0.1], "leading": "WER",
        "leading_rate": 0.1, "loss": 1.5, "loops": 0, "capped": 1, "utterances": 9, "beam_size": 1, "seconds": 3.25,
    }  # fmt: skip
    return EvaluationRow(**{**fields, **changes})


class Kept:
    """A sink in memory."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def write(self, row: Row) -> None:
        self.rows.append(row)


def test_rows_are_those_of_the_contract(tmp_path: Path) -> None:
    """The README's table and design of the run folder name these fields."""
    file = MetricsFile(tmp_path / "metrics.jsonl")
    skipped = SkippedRow(step=2, epoch=1, loss_scale=None, tokens=7, utterances=2, **TOOK)
    for row in (update(1), skipped, evaluation(1)):
        file.write(row)
    first, second, third = read_jsonl(file.path)
    assert list(first) == ["step", "epoch", "lr", "loss", "grad_norm", "tokens", "utterances", *TOOK]
    assert first["loss"] == 0.1 + 0.2
    assert list(second) == ["step", "epoch", "skipped", "loss", "loss_scale", "tokens", "utterances", *TOOK]
    assert (second["skipped"], second["loss"]) == (True, None)
    assert {"step", "epoch", "split", "wer", "cer", "wer_raw", "loss", "seconds", "model", "frames", "beam_size"} < (
        third.keys()
    )
    assert file.evaluations(file.size()) == [evaluation(1)]


def test_every_sink_gets_every_row_and_evaluations_stay_in_hand(tmp_path: Path) -> None:
    file, kept = MetricsFile(tmp_path / "metrics.jsonl"), Kept()
    log = RunLog(file, sinks=[kept])
    rows = [update(1), evaluation(1), update(2), evaluation(2)]
    for row in rows:
        log.write(row)
    assert kept.rows == rows
    assert log.evaluations == [rows[1], rows[3]]
    assert [row["step"] for row in read_jsonl(file.path)] == [1, 1, 2, 2]
    # After a resume they are read once; rows of a process that does not write go nowhere.
    other = RunLog(file, file.size(), sinks=[kept], writes=False)
    other.write(evaluation(3))
    assert other.evaluations == [rows[1], rows[3], evaluation(3)]
    assert kept.rows == rows
    assert len(read_jsonl(file.path)) == 4


def test_metrics_are_cut_back_to_what_a_state_counts_on(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    log = RunLog(file)
    assert log.settled() == (0, "")
    log.resume()  # nothing there yet
    log.write(update(1))
    log.write(evaluation(1, frames="ü"))
    log.settle()
    log.write(update(2))
    size, digest = log.settled()
    whole = file.path.read_bytes()
    assert 0 < size < len(whole)
    assert digest == hashlib.sha256(whole[:size]).hexdigest()
    with file.path.open("a") as stream:
        stream.write('{"step": 3, "lo')  # killed while it was written
    again = RunLog(file, size)
    assert again.evaluations == [evaluation(1, frames="ü")]
    again.resume()
    assert file.path.read_bytes() == whole[:size]
    again.write(update(2))
    assert [row["step"] for row in read_jsonl(file.path)] == [1, 1, 2]
    RunLog(file).resume()
    assert file.size() == 0


def test_metrics_on_a_full_disk(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.path.symlink_to("/dev/full")
    with pytest.raises(StorageError) as error:
        file.write(update(1))
    line = f"{file.path}: cannot write (No space left on device); free some disk space, then resume"
    assert str(error.value) == line


@pytest.mark.parametrize(
    "line", [b"{", b'["split"]', b'{"split": "valid"}', b'{"split": 1, "warmth": 3}', b"\xff", b"[" * 10**5]
)
def test_rows_that_are_not_of_this_version_are_refused_in_one_line(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(json.dumps({"step": 1}).encode() + b"\n" + line + b"\n")
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl: cannot be read as metrics of this version") as error:
        RunLog(MetricsFile(path), path.stat().st_size)
    assert "\n" not in str(error.value)
