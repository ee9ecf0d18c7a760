"""The page that a run writes at its end, and what it prints, on real runs of a tiny model."""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training_samples import VALID_IDS, Samples, metrics, write_manifest

from whispertune import cli
from whispertune.commands import train
from whispertune.evaluation.significance import bootstrap_interval
from whispertune.report.comparison import compare
from whispertune.report.run_page import report_on
from whispertune.report.runs import read_run
from whispertune.system.files import read_jsonl
from whispertune.training.trainer import Trainer


@pytest.fixture(scope="module")
def run(samples: Samples, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("reported") / "run"
    assert samples.train_run(run, test=samples.test, report=None, epochs=1, search__beam_size=2) == 0
    return run


def test_a_run_ends_with_its_page(run: Path) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    made = report_on(read_run(run))
    assert made.run.finished
    rows = {row["model"]: row for row in metrics(run) if row.get("split") == "test" and row["beam_size"] == 2}
    for model in ("baseline", "best"):
        assert f"{100 * rows[model]['wer']:.1f} %" in page
    before, after = (read_jsonl(run / "test" / name) for name in ("hypotheses_baseline.jsonl", "hypotheses.jsonl"))
    for side, model in ((before, "baseline"), (after, "best")):
        errors, words = (sum(row[name] for row in side) for name in ("word_errors", "words"))
        assert errors / words == pytest.approx(rows[model]["wer"])
    assert [row["id"] for row in before] == [row["id"] for row in after]
    assert all(row["duration"] > 0 and row["language"] == "en" and 0 < row["confidence"] <= 1 for row in after)
    shown = {row[0]: row[2:] for table in made.data if table.title == "Data" for row in table.rows}
    assert shown["train"][:2] == ["11", "11"]
    assert float(shown["test"][2]) == pytest.approx(sum(row["duration"] for row in after) / 3600, abs=0.01)


def test_intervals_are_over_speakers_where_they_are_named(
    samples: Samples, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header, *rows = write_manifest(tmp_path / "valid.csv", "valid", VALID_IDS, times=2).read_text("utf-8").splitlines()
    named = [f"{header},speaker", *(f"{row},voice {place}" for place, row in enumerate(rows))]
    (tmp_path / "valid.csv").write_text("\n".join(named) + "\n", encoding="utf-8")
    run = tmp_path / "run"
    assert samples.train_run(run, valid=tmp_path / "valid.csv", test=samples.test, epochs=1, search__beam_size=1) == 0
    of_split = {row["split"]: row["intervals_over"] for row in metrics(run) if "split" in row}
    assert of_split == {"valid": "speakers", "test": "utterances"}
    for row in metrics(run):
        if row.get("split") == "valid":
            kept = read_jsonl(run / "valid" / f"step-{row['step']:07d}.jsonl")
            errors, words, names = ([one[name] for one in kept] for name in ("word_errors", "words", "speaker"))
            assert row["wer_interval"] == list(bootstrap_interval(errors, words, groups=names))
    out = capsys.readouterr().out
    said = " ".join(out.split())
    assert "with 95 % intervals by a bootstrap over speakers (valid), utterances (test)" in said
    lines = out[out.index("split ") :].splitlines()[:5]
    assert [line.split()[:4] for line in lines[1::2]] == [
        ["valid", "greedy", "thinned", "WER"], ["test", "greedy", "dense", "WER"]
    ]  # fmt: skip
    assert max(map(len, lines)) <= 78


def test_a_resumed_run_has_the_page_of_an_undisturbed_one(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in its second epoch and resumed: the same tables and curves, times aside."""
    pages = {}
    for name in ("whole", "stopped"):
        run = tmp_path / name
        if name == "stopped":
            with monkeypatch.context() as patch:
                patch.setattr(Trainer, "_run_step", stopping_at(4, Trainer._run_step))
                assert samples.train_run(run, report=None) == 1
            assert cli.main(["resume", str(run)]) == 0
        else:
            assert samples.train_run(run, report=None) == 0
        made = report_on(read_run(run))
        assert made.run.finished
        assert [row["step"] for row in made.run.updates] == [1, 2, 3, 4, 5, 6]
        curves = [(row["step"], row["loss"], row["grad_norm"]) for row in made.run.updates]
        valid = [(row["step"], row["wer"], row["loss"]) for row in made.run.valid]
        pages[name] = (made.errors, made.data, made.advice, curves, valid)
        assert "<svg" in (run / "report.html").read_text(encoding="utf-8")
    assert pages["whole"] == pages["stopped"]


def stopping_at(step: int, original: Callable[..., None]) -> Callable[..., None]:
    """A training step after which, at this number, the run is asked to end."""

    def stopping(self: Trainer, *given: Any) -> None:
        original(self, *given)
        if self.progress.step == step:
            signal.raise_signal(signal.SIGTERM)

    return stopping


def test_the_commands_run_as_printed(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    commands = [shlex.split(command) for command in re.findall("<code>(whispertune [^<]*)</code>", page)]
    assert [command[1] for command in commands] == ["evaluate", "transcribe", "export"]
    for command in commands:
        assert cli.main(command[1:]) == 0


def test_a_page_that_fails_fails_no_run(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(folder: object) -> None:
        raise ZeroDivisionError("a fault\nof the page")

    monkeypatch.setattr(train, "write_report", fail)
    run = tmp_path / "run"
    assert samples.train_run(run, report="true", epochs=1, max_steps=1) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert f"could not be written (a fault\\nof the page); try again with: whispertune report {run}" in said
    assert not (run / "report.html").exists()


def test_seeds_compared(run: Path, samples: Samples, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert samples.train_run(other, test=samples.test, epochs=1, search__beam_size=2, seed=1) == 0
    made = compare([read_run(run), read_run(other)])
    assert [table.title for table in made.tables] == ["Recipes", "Runs", "Settings that differ"]
    assert made.tables[0].rows[0][1] == "2"
    assert [row[0] for row in made.tables[2].rows] == ["seed"]
