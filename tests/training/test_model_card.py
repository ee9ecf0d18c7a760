"""The README of best/: what the Hub reads in it, and its figures."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from training_samples import Samples, metrics, write_manifest

from whispertune import cli
from whispertune.report.runs import read_run
from whispertune.report.summary import summarise
from whispertune.system.files import read_jsonl

OTHER_IDS = ("activated", "auth-incorrect")


@pytest.fixture(scope="module")
def run(samples: Samples, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("card") / "my run"
    other = write_manifest(run.parent / "other.csv", "test", OTHER_IDS)
    fields = {"test": samples.test, "also_test": f"other={other}", "card__license": "cc-by-4.0"}
    assert samples.train_run(run, epochs=1, search__beam_size=2, card__data_license="with consent", **fields) == 0
    return run


def test_the_hub_reads_the_figures(run: Path, samples: Samples) -> None:
    card = ModelCard.load(run / "best" / "README.md")
    assert card.data.license == "cc-by-4.0"
    assert card.data.language == "en"
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "automatic-speech-recognition")
    assert card.data.model_name == "my run"
    rows = [row for row in metrics(run) if row.get("model") == "best"]
    rows = [[row for row in metrics(run) if row.get("model") == "epoch"][-1], *rows]
    expected = [
        (row["split"], metric, round(100 * row[metric], 2),
         f"{metric.upper()}, normalised, {'greedy' if row['beam_size'] == 1 else 'beam 2'}, {row['frames']}")
        for row in rows
        for metric in ("wer", "cer")
    ]  # fmt: skip
    found = card.data.eval_results
    assert found is not None
    assert [(one.dataset_split, one.metric_type, one.metric_value, one.metric_name) for one in found] == expected
    assert {one.dataset_name for one in found} == {"valid (valid.csv)", "test (test.csv)", "other (other.csv)"}


def test_the_text(run: Path, samples: Samples) -> None:
    text = (run / "best" / "README.md").read_text(encoding="utf-8")
    summary = summarise(read_run(run))
    assert summary.opening in text
    assert "- train: 11 utterances, " in text
    assert "Licence of the data: with consent" in text
    assert "Licence of the model: cc-by-4.0" in text
    assert str(samples.train.parent) not in text  # folders of the user's are nobody else's business
    for row in metrics(run):
        if row.get("model") == "best" and row["split"] == "test":
            low, high = row["wer_interval"]
            assert f"{100 * row['wer']:.1f} % ({100 * low:.1f} to {100 * high:.1f})" in text
    for line in re.findall("```python\n(.*?)```", text, re.DOTALL):
        compile(line, "README.md", "exec")


def test_a_card_without_answers_says_so(samples: Samples, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert samples.train_run(run, epochs=1, max_steps=1) == 0
    card = ModelCard.load(run / "best" / "README.md")
    assert card.data.license is None
    assert "Licence of the model: not chosen yet" in card.text
    assert {one.dataset_split for one in card.data.eval_results or []} == {"valid"}


def test_exports_keep_the_card(run: Path, tmp_path: Path) -> None:
    card = (run / "best" / "README.md").read_bytes()
    for model in (run, run / "best"):
        output = tmp_path / model.name
        assert cli.main(["export", "--model", str(model), "--to", "huggingface", "--output", str(output)]) == 0
        assert (output / "README.md").read_bytes() == card
    assert cli.main(["export", "--model", str(run), "--to", "huggingface", "--output", str(tmp_path / "best")]) == 0


def test_a_run_ends_in_78_columns(samples: Samples, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert samples.train_run(run, test=samples.test, epochs=1, search__beam_size=2) == 0
    out = capsys.readouterr().out
    for line in out.splitlines():
        assert len(line) <= 78 or line.startswith(("model: ", "report: ", "next:  ")), line
    summary = summarise(read_run(run))
    assert out.startswith("\n".join(textwrap.wrap(summary.opening, 78, break_on_hyphens=False)) + "\n")
    said = " ".join(out.split())
    assert summary.advice
    for line in summary.advice:
        assert f"- {line}" in said
    (row,) = (row for row in metrics(run) if row.get("model") == "best" and row["beam_size"] == 2)
    assert f"{100 * row['wer']:.1f} %" in said
    assert len(read_jsonl(run / "test" / "hypotheses.jsonl")) == 3
