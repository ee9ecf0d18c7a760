"""What a run says of its pace: in the rows, on the console, in log.txt, stages.jsonl and environment.json."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from training_samples import Moment, Runner, Samples, metrics, step_rows

from whispertune import __version__
from whispertune.report.run_page import report_on
from whispertune.report.runs import read_run
from whispertune.run.recipe import Recipe
from whispertune.system import environment
from whispertune.system.files import read_jsonl
from whispertune.training.pace import TESTED_WINDOW, Cost, Pace, shown_update
from whispertune.training.plan import BatchPlan
from whispertune.training.resume import Progress


def pace(progress: Progress, **fields: Any) -> Pace:
    """Of 10 windows of a second, 4 in an update (3 updates an epoch), the last validation took 6 s for 12 windows."""
    recipe = Recipe(model="", train="", valid="", output="", epochs=3, **fields)
    log: Any = SimpleNamespace(evaluations=[SimpleNamespace(split="valid", seconds=6.0, utterances=12)])
    return Pace(recipe, progress, log, [16_000] * 10, torch.device("cpu"), test_windows=8)


def test_the_rest_is_updates_validations_and_test() -> None:
    progress = Progress(BatchPlan(2, 2), step=2, epoch=1, position=2)
    found = pace(progress)
    cost = found.measure([[0, 1], [2, 3]], 0.5, 40, [10.0, 1.0])
    assert (cost["tokens"], cost["utterances"], cost["seconds"], cost["audio_rate"]) == (30, 3, 0.5, 8.0)
    test = TESTED_WINDOW * 8 / 12 * 6
    assert cost["seconds_left"] == round(7 * 0.5 + 3 * 6 + test)
    found.measure([[0]], 1.5, 9)  # the mean of the two is 1 s
    assert found.seconds_left() == pytest.approx(7 * 1.0 + 3 * 6 + test)
    progress.epoch, progress.position = 4, 0  # only the test is left
    assert found.seconds_left() == pytest.approx(test)


def test_the_rest_of_a_run_of_few_updates() -> None:
    found = pace(Progress(BatchPlan(2, 2), step=2, epoch=1, position=2), max_steps=4)
    found.measure([[0]], 1.0, 9)
    assert found.seconds_left() == pytest.approx(2 * 1.0 + 1 * 6 + TESTED_WINDOW * 8 / 12 * 6)


def test_an_update_on_the_console() -> None:
    cost = Cost(tokens=1, utterances=1, seconds=1.0, audio_rate=1234.4, memory_gb=2.04, seconds_left=5400)
    shown = shown_update(1.25, cost)
    assert shown == "loss 1.250, 1,234 x real time, 2.0 GB, run ends in 90 min"


@pytest.fixture(scope="module")
def run(samples: Samples, runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed in its second epoch, and resumed."""
    run = tmp_path_factory.mktemp("paced") / "run"
    arguments = samples.arguments(run, test=samples.test, search__beam_size=2, checkpoint__every_steps=1)
    assert runner(arguments, Moment("whispertune.training.trainer", "Trainer.backward", 8)) == -9
    assert runner(["resume", str(run)]) == 0
    return run


def test_every_row_has_them(run: Path) -> None:
    rows = step_rows(run)
    assert len(rows) == 6
    for row in rows:
        assert row["audio_rate"] > 0
        assert row["memory_gb"] > 0.05
        assert row["seconds_left"] >= 0
    memory = [row["memory_gb"] for row in metrics(run) if "split" in row]
    assert len(memory) == 3 + 4
    assert all(memory)


def test_the_log_holds_what_was_shown(run: Path) -> None:
    text = (run / "log.txt").read_text(encoding="utf-8")
    first, second = text.split("\n--- ")  # the start, and the resume
    assert re.match(r"--- \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", first)
    for part in (first, second):
        assert "model     " in part
        assert re.search(r"^checking train +11/11 in \d+ s$", part, re.MULTILINE)
    assert re.search(r"^untouched model: valid WER ", first, re.MULTILINE)
    assert "resuming  at update " in second
    assert re.search(r"^epoch 2/2: training +3/3 in \d+ s  loss .* x real time, ", second, re.MULTILINE)
    assert "untouched against fine-tuned, normalised" in second
    assert "\x1b" not in text


def test_stages_are_on_the_page(run: Path) -> None:
    stages = read_jsonl(run / "stages.jsonl")
    names = ["loading and checking", "comparing thinned with dense", "encoding"]
    assert [row["stage"] for row in stages] == 2 * names
    table = report_on(read_run(run)).costs
    assert table is not None
    shown = {row[0]: row[1:] for row in table.rows}
    assert list(shown) == [*names, "training, 6 updates", "validation, 3 times", "test"]
    seconds = sum(row["seconds"] for row in stages if row["stage"] == "encoding")
    assert shown["encoding"][0] == f"{seconds:.1f} s"
    assert all(float(row[2]) > 0 for row in shown.values())
    assert "hours of audio an hour" in table.note


def test_the_version_and_the_commit(run: Path) -> None:
    found = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    assert found["whispertune"] == __version__
    root = Path(__file__).parents[2]
    if (root / ".git").exists():
        head = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        assert found["commit"].removesuffix("+") == head.stdout.strip()


def test_the_commit_of_an_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.whispertune, "__file__", str(tmp_path / "a" / "whispertune" / "__init__.py"))
    recorded = [
        '{"url": "https://x", "vcs_info": {"vcs": "git", "commit_id": "abc"}}',
        '{"url": "file:///x"}',
        "[",
        None,
    ]
    found = []
    for text in recorded:
        distribution = SimpleNamespace(read_text=lambda name, text=text: text)
        monkeypatch.setattr(environment, "distribution", lambda name, made=distribution: made)
        found.append(environment.commit())
    assert found == ["abc", None, None, None]


def test_a_refused_run_leaves_no_log(samples: Samples, tmp_path: Path) -> None:
    assert samples.train_run(tmp_path / "run", valid=samples.train) == 2
    assert not (tmp_path / "run" / "log.txt").exists()
    assert not (tmp_path / "run" / "stages.jsonl").exists()
