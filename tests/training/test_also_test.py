"""`--also_test`: further test sets, scored before and after, in metrics, files and the table."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from training_samples import Samples, metrics, outcome

from whispertune import cli
from whispertune.errors import RecipeError
from whispertune.evaluation.error_rates import compare
from whispertune.evaluation.significance import MatchedPairs, matched_pairs
from whispertune.report import before_after
from whispertune.run import outcome as run_outcome
from whispertune.run.flags import parse_fields
from whispertune.run.recipe import Recipe


def parsed(*also: str, **fields: object) -> Recipe:
    flags = [f"--{n}=x" for n in ("model", "train", "valid", "output")] + [f"--also_test={entry}" for entry in also]
    return parse_fields(Recipe, fields, flags, command="train")


def test_given_several_times_or_as_a_list() -> None:
    assert parsed("english=a.csv [language=en]", "phone = b=1.csv").also_tests == {
        "english": "a.csv [language=en]", "phone": "b=1.csv",
    }  # fmt: skip
    assert parsed(also_test=["english=a.csv", "phone=b.csv"]).also_tests == {"english": "a.csv", "phone": "b.csv"}
    assert parsed(also_test="english=a.csv").also_tests == {"english": "a.csv"}
    assert parsed().also_tests == {}


@pytest.mark.parametrize(
    ("also", "told"),
    [
        (["a.csv"], "write NAME=F"), (["=a.csv"], "write NAME=F"), (["english="], "write NAME=F"),
        (["test=a.csv"], "not train, valid or test"), (["../x=a.csv"], "letters, digits"),
        (["a=x.csv", "a=y.csv"], "one name to two test sets"),
    ],
)  # fmt: skip
def test_refused_in_one_line(also: list[str], told: str) -> None:
    with pytest.raises(RecipeError, match=told) as refused:
        parsed(*also)
    assert "also_test" in str(refused.value)


def test_scored_before_and_after(samples: Samples, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.csv"
    with samples.test.open(encoding="utf-8", newline="") as file:
        header, first, *_ = csv.reader(file)
    with other.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, first])
    rest = tmp_path / "rest.csv"
    rest.write_text(samples.test.read_text().replace(f"{','.join(first)}\n", ""))
    run = tmp_path / "run"
    given = {"epochs": 1, "test": rest, "search__beam_size": 2, "also_test": f"other={other}"}
    assert samples.train_run(run, **given) == 0
    rows = [row for row in metrics(run) if row.get("split") in ("test", "other")]
    assert [(row["split"], row["model"], row["beam_size"], row["utterances"]) for row in rows] == [
        ("test", "baseline", 1, 2), ("test", "baseline", 2, 2), ("test", "best", 1, 2), ("test", "best", 2, 2),
        ("other", "baseline", 1, 1), ("other", "best", 1, 1),
    ]  # fmt: skip
    summary = json.loads((run / "test/other/summary.json").read_text())
    assert summary["wer"] == rows[-1]["wer"]
    assert summary["model"] == "best"
    difference = rows[-1]["leading_rate"] - rows[-2]["leading_rate"]
    assert summary["difference"]["value"] == pytest.approx(difference)
    ids = [json.loads(line)["id"] for line in (run / "test/other/hypotheses.jsonl").read_text().splitlines()]
    assert ids == [first[0]]
    assert (run / "test/other/hypotheses_baseline.jsonl").exists()
    shown = capsys.readouterr().out
    assert f"other WER changed by {100 * difference:+.1f} points" in shown
    assert "other has 1 utterance:" in shown
    assert yaml.safe_load((run / "recipe.yaml").read_text())["also_test"] == [f"other={other}"]
    # Its files are verified by a resume, and longer training tests anew.
    (run / "test/other/summary.json").write_text("{}")
    assert cli.main(["resume", str(run), "--epochs", "2"]) == 2
    assert "test/other/summary.json: is not as it was written" in capsys.readouterr().err


def test_resumed_to_the_same_and_more_epochs_test_anew(samples: Samples, tmp_path: Path) -> None:
    also = {"also_test": f"other={samples.test}"}
    one, two = tmp_path / "one", tmp_path / "two"
    assert samples.train_run(two, epochs=2, **also) == 0
    assert samples.train_run(one, epochs=1, **also) == 0
    assert cli.main(["resume", str(one), "--epochs", "2"]) == 0
    ours, theirs = outcome(one), outcome(two)
    assert ours["state"] == theirs["state"]
    assert [row for row in ours["metrics"] if row.get("split") == "other"][-2:] == [
        row for row in theirs["metrics"] if row.get("split") == "other"
    ]


def test_the_same_audio_in_train_is_refused(
    samples: Samples, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert samples.train_run(tmp_path / "run", also_test=f"other={samples.train}") == 2
    assert "the same audio as row" in capsys.readouterr().err
    assert samples.train_run(tmp_path / "run", also_test="other=absent.csv") == 2
    assert "--also_test other absent.csv: no such file" in capsys.readouterr().err


def test_paths_beside_the_recipe(samples: Samples, tmp_path: Path) -> None:
    shutil.copy(samples.test, tmp_path / "beside.csv")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"also_test: ['other=beside.csv [language=en]']\nmodel: {samples.model}\n")
    assert samples.train_run(tmp_path / "ignored", model=None, train="absent.csv") == 2  # a run of its own
    arguments = samples.arguments(tmp_path / "run", model=None, epochs=1)
    assert cli.main([arguments[0], str(recipe), *arguments[1:]]) == 0
    assert [row["split"] for row in metrics(tmp_path / "run") if "split" in row][-2:] == ["other", "other"]


def test_what_was_forgotten_is_told(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A loss beyond chance on a further test set names what helps; the test itself is compared for real."""
    lost = MatchedPairs(difference=0.05, low=0.01, high=0.09, p=0.01, num_groups=3)
    monkeypatch.setattr(
        run_outcome, "compare", lambda before, after: lost if len(before.utterances) == 3 else compare(before, after)
    )
    monkeypatch.setattr(
        before_after, "matched_pairs",
        lambda *errors, groups: lost if len(errors[0]) == 3 else matched_pairs(*errors, groups=groups),
    )  # fmt: skip
    assert samples.train_run(tmp_path / "run", epochs=1, also_test=f"other={samples.test}") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "other WER changed by +5.0 points (95 %: +1.0 to +9.0), worse beyond chance" in shown
    assert re.search(r"On other the word error rate rose from [0-9.]+ % to [0-9.]+ %: the model lost some", shown)
    assert "--train 'A + B [weight=0.2]'" in shown
