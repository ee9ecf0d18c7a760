"""`whispertune tune`: a search that is interrupted, shared, bounded, and confirmed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from training_samples import Moment, Runner, Samples, metrics

from whispertune import cli
from whispertune.commands import train
from whispertune.errors import Stopped
from whispertune.run.flags import parse_fields
from whispertune.run.recipe import Recipe
from whispertune.run.yaml_fields import load_yaml
from whispertune.training.metrics import EvaluationRow, Row

SPACE = ("--space=schedule.peak_lr=1e-5..1e-2 log", "--space=loss.label_smoothing=0|0.1")


def arguments(samples: Samples, output: Path, *more: str, **fields: object) -> list[str]:
    given = {"epochs": 1, "report": None, **fields}
    return ["tune", *samples.arguments(output, **given)[1:], *SPACE, *more]


def events(output: Path) -> list[dict[str, Any]]:
    """The journal; a trial is created by operation 4."""
    return [json.loads(line) for line in (output / "journal.log").read_text().splitlines()]


def summary(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "summary.json").read_text())
    return found


def outcomes(of: dict[str, Any]) -> list[Any]:
    """What trials came to, without the time that they took."""
    return [[trial[name] for name in ("trial", "state", "rate", "settings")] for trial in of["trials"]]


def test_killed_twice(samples: Samples, runner: Runner, tmp_path: Path) -> None:
    output = tmp_path / "search"
    command = arguments(samples, output, "--trials=4")
    # In the middle of the second trial, then of the third one, counting from each start.
    assert runner(command, Moment("whispertune.training.trainer", "Trainer.backward", 9)) == -9
    begun = metrics(output / "trial-0001")
    assert runner(command, Moment("whispertune.training.trainer", "Trainer.backward", 8)) == -9
    assert runner(command) == 0
    found = summary(output)
    assert [trial["trial"] for trial in found["trials"]] == [0, 1, 2, 3]
    assert metrics(output / "trial-0001")[: len(begun)] != []
    assert sum(event["op_code"] == 4 for event in events(output)) == 4  # trials: none was drawn anew
    done = [trial for trial in found["trials"] if trial["state"] == "complete"]
    best = min(done, key=lambda trial: (trial["rate"], trial["trial"]))["trial"]
    assert found.get("confirmed", {"winner": 0})["winner"] == best
    # Undisturbed, the search comes to the same trials.
    alone = tmp_path / "alone"
    assert runner(arguments(samples, alone, "--trials=4")) == 0
    assert outcomes(summary(alone)) == outcomes(found)
    # Disk: only the best trial's model is kept, and no state.
    assert not list(output.rglob("state.safetensors"))
    assert [path.parent.parent.name for path in output.glob("trial-*/best/config.json")] == [f"trial-{best:04d}"]
    # The recipe can be trained.
    recipe = parse_fields(Recipe, load_yaml(output / "best.yaml"), [], command="train")
    assert recipe.output == str(output / "tuned")


def test_a_run_that_a_sink_ends_saves_no_state(samples: Samples, tmp_path: Path) -> None:
    class Ends:
        def write(self, row: Row) -> None:
            if isinstance(row, EvaluationRow) and row.model == "epoch":
                raise Stopped("pruned")

    fields = dict(flag.removeprefix("--").split("=", 1) for flag in samples.arguments(tmp_path / "run")[1:])
    with pytest.raises(Stopped, match="pruned"):
        train.run(parse_fields(Recipe, fields, [], command="train"), [Ends()])
    assert [row["model"] for row in metrics(tmp_path / "run") if "split" in row] == ["baseline", "epoch"]
    assert not (tmp_path / "run" / "last" / "state.safetensors").exists()


def test_refusals(samples: Samples, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(command: list[str]) -> str:
        assert cli.main(command) == 2
        return capsys.readouterr().err.strip()

    (tmp_path / "thesis.txt").write_text("mine")
    assert refused(arguments(samples, tmp_path)) == (
        f"error: --output {tmp_path} is neither empty nor holds a search; choose another folder"
    )
    output = tmp_path / "search"
    assert "trials is 0; it must be at least 1" in refused(arguments(samples, output, "--trials=0"))
    assert "another --space sets" in refused(arguments(samples, output, SPACE[0]))
    # The recipe cannot be trained: the error is that of train, and the same command goes on once it is mended.
    missing = arguments(samples, output, train=tmp_path / "missing.csv")
    assert "missing.csv" in refused(missing)
    message = refused(arguments(samples, output))
    assert "holds a search of another recipe or space: train (" in message


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tune", "--help"]) == 0
    shown = capsys.readouterr().out
    for flag in ("--trials N", "--minutes NUMBER", "--space TEXT", "--train TEXT", "whispertune train --help"):
        assert flag in shown
    assert "--schedule.peak_lr NUMBER" not in shown  # the recipe's own fields are not repeated
