"""`train --seeds`: a run for each, as if alone; interrupted and taken up again; compared."""

from __future__ import annotations

from pathlib import Path

import pytest
from training_samples import Moment, Runner, Samples, metrics, outcome

from whispertune import cli
from whispertune.errors import RecipeError
from whispertune.report.runs import seed_folders
from whispertune.run.flags import parse_fields
from whispertune.run.recipe import Recipe

FIELDS = {"epochs": 1, "seed": None}


@pytest.fixture(scope="module")
def output(samples: Samples, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("seeds") / "runs"


def test_each_run_is_as_if_alone(
    samples: Samples, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert samples.train_run(output, seeds="0,7", report="true", **FIELDS) == 0
    said = capsys.readouterr()
    assert seed_folders(output) == [output / "seed-0", output / "seed-7"]
    assert said.err.count("11 windows read from the store") == 1  # the second run encodes nothing
    assert samples.train_run(tmp_path / "alone", epochs=1, seed=7) == 0
    ours, theirs = outcome(output / "seed-7"), outcome(tmp_path / "alone")
    assert [ours[name] for name in ("metrics", "state")] == [theirs[name] for name in ("metrics", "state")]
    assert "2 seeds of one recipe: the word error rate on 4 validation recordings is " in " ".join(said.out.split())
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "2 runs compared" in page
    # Another report of the folder is one of its runs.
    capsys.readouterr()
    assert cli.main(["report", str(output)]) == 0
    assert capsys.readouterr().out == f"report: {output / 'report.html'}\n"


def test_more_seeds_later(samples: Samples, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {seed: (output / seed / "metrics.jsonl").read_bytes() for seed in ("seed-0", "seed-7")}
    assert samples.train_run(output, seeds="0,7,3", **FIELDS) == 0
    assert [folder.name for folder in seed_folders(output)] == ["seed-0", "seed-3", "seed-7"]
    assert {seed: (output / seed / "metrics.jsonl").read_bytes() for seed in before} == before
    assert "3 seeds of one recipe" in capsys.readouterr().out


def test_an_interrupted_one_is_resumed(samples: Samples, runner: Runner, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    arguments = samples.arguments(folder, seeds="1,2", **FIELDS)
    assert runner(arguments, Moment("whispertune.training.trainer", "Trainer.backward", 8)) == -9
    assert len(metrics(folder / "seed-1")) == 5
    assert runner(["resume", str(folder)]) == 0
    assert samples.train_run(tmp_path / "alone", epochs=1, seed=2) == 0
    assert outcome(folder / "seed-2")["metrics"] == outcome(tmp_path / "alone")["metrics"]


def test_another_folder_is_refused(samples: Samples, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert samples.train_run(tmp_path, seeds="0,1", **FIELDS) == 2
    assert "is neither empty nor holds runs of --seeds" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("seeds", ["", "a,b", "1,1", "1,-2", "1.5", "1,,2"])
def test_bad_seeds(seeds: str) -> None:
    flags = [f"--{name}=x" for name in ("model", "train", "valid", "output")]
    with pytest.raises(RecipeError, match="it takes different whole numbers, such as 0,1,2"):
        parse_fields(Recipe, {}, [*flags, f"--seeds={seeds}"], command="train")
    with pytest.raises(RecipeError, match="seed is 3, but seeds is given as well"):
        parse_fields(Recipe, {}, [*flags, "--seeds=1,2", "--seed=3"], command="train")
