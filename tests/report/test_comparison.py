"""Several runs compared: means, deviations, tests, and the formats for papers and programs."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import report_samples
from page_reader import Page
from report_samples import Report

from whispertune import cli
from whispertune.errors import DataError
from whispertune.evaluation.significance import matched_pairs
from whispertune.report.comparison import Comparison, compare
from whispertune.report.runs import read_run
from whispertune.report.tables import Table, as_text
from whispertune.system.files import read_jsonl, write_jsonl


@pytest.fixture(scope="module")
def compared(seeds: list[Path]) -> Comparison:
    return compare([read_run(path) for path in seeds])


def rows_of(run: Path) -> list[dict[str, object]]:
    return read_jsonl(run / "test" / "hypotheses.jsonl")


def test_seeds_are_one_row(seeds: list[Path], compared: Comparison) -> None:
    (table,) = (table for table in compared.tables if table.title == "Recipes")
    wers = [
        next(r for r in read_jsonl(run / "metrics.jsonl") if r.get("model") == "best" and r["beam_size"] == 8)["wer"]
        for run in seeds
    ]
    first, second = np.array(wers[:3]), np.array(wers[3:])
    assert [row[0] for row in table.rows] == ["a0 and 2 more of its recipe", "b0 and 1 more of its recipe"]
    for row, values in zip(table.rows, (first, second), strict=True):
        assert row[1] == str(len(values))
        assert row[3] == f"{100 * values.mean():.1f} ± {100 * values.std(ddof=1):.1f} %"
    errors = [[row["word_errors"] for row in rows_of(run)] for run in seeds]
    words, speakers = ([row[name] for row in rows_of(seeds[0])] for name in ("words", "speaker"))
    found = matched_pairs(
        np.mean(errors[:3], axis=0).tolist(), np.mean(errors[3:], axis=0).tolist(), words, groups=speakers
    )
    assert found.significant
    said = f"{100 * found.difference:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f}; p = {found.p:.3f})"
    assert table.rows[1][-1] == f"{said.replace('-', '−')}: better beyond chance"
    assert compared.opening.startswith("b0 and 1 more of its recipe has the lowest error: the word error rate on 60")


def test_each_run_against_the_first(seeds: list[Path], compared: Comparison) -> None:
    (table,) = (table for table in compared.tables if table.title == "Runs")
    assert [row[0] for row in table.rows] == ["a0", "a1", "a2", "b0", "b1"]
    assert table.rows[0][-1] == ""
    first, words, speakers = ([row[name] for row in rows_of(seeds[0])] for name in ("word_errors", "words", "speaker"))
    for run, row in zip(seeds[1:], table.rows[1:], strict=True):
        found = matched_pairs(first, [one["word_errors"] for one in rows_of(run)], words, groups=speakers)
        assert row[-1].startswith(f"{100 * found.difference:+.1f}".replace("-", "−"))
        assert row[-1].endswith(found.verdict())
    assert "matched pairs over the speakers" in table.note


def test_only_settings_that_differ(compared: Comparison) -> None:
    (table,) = (table for table in compared.tables if table.title == "Settings that differ")
    assert {row[0]: list(row[1:]) for row in table.rows} == {
        "seed": ["0", "1", "2", "0", "1"], "batch_size": ["8", "8", "8", "16", "16"]
    }  # fmt: skip


def test_the_page(compared: Comparison) -> None:
    page = Page(compared.page())
    assert page.elements["figure"] == 5
    assert "Utterances on which they differ most" in page.said
    spreads = [clip.order["spread"] for clip in compared.clips]
    assert spreads == sorted(spreads, reverse=True)
    assert [side.label for side in compared.clips[0].sides] == ["a0", "b0"]
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_seeds_of_one_recipe_alone(seeds: list[Path]) -> None:
    made = compare([read_run(path) for path in seeds[:3]])
    assert made.opening.startswith("3 seeds of one recipe: the word error rate on 60 unseen recordings is ")
    assert [table.title for table in made.tables] == ["Recipes", "Runs", "Settings that differ"]
    assert [side.label for side in made.clips[0].sides] == ["a0", "a1", "a2"]


def test_other_utterances_are_reported(seeds: list[Path], tmp_path: Path) -> None:
    other = report_samples.write_run(tmp_path / "other", rows=report_samples.prompts(50), speakers=8).path
    made = compare([read_run(seeds[0]), read_run(other)])
    assert made.all_clips == 50
    assert "the tests use the 50 that all did" in made.notes[0]
    ids = {row["id"] for row in rows_of(other)}
    rows = [row for row in rows_of(seeds[0]) if row["id"] in ids]
    rate = sum(int(str(row["word_errors"])) for row in rows) / sum(int(str(row["words"])) for row in rows)
    assert f"on 50 unseen recordings is {100 * rate:.1f} %" in made.opening or f"{100 * rate:.1f} % for" in made.opening
    for name in ("hypotheses.jsonl", "hypotheses_baseline.jsonl"):
        rows = read_jsonl(other / "test" / name)
        write_jsonl(other / "test" / name, [{**row, "id": f"x{row['id']}"} for row in rows])
    with pytest.raises(DataError, match="no utterance with the same id and transcript in common"):
        compare([read_run(seeds[0]), read_run(other)])


def test_a_run_without_validation_cannot_be_compared(
    seeds: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = report_samples.write_run(tmp_path / "begun", test=False)
    write_jsonl(begun.metrics, read_jsonl(begun.metrics)[:1])
    assert cli.main(["report", str(seeds[0]), str(begun.path)]) == 2
    assert (
        "begun: there are no outputs of the pretrained and the fine-tuned model to compare; wait"
        in capsys.readouterr().err
    )


def test_formats(seeds: list[Path], compared: Comparison, report: Report) -> None:
    shown = list(csv.reader(io.StringIO(report([*seeds, "--format", "csv"]))))
    tables = [[table.title, *row] for table in compared.tables for row in table.rows]
    assert [row for row in shown if row and row[0] != "table"] == tables
    markdown = as_text(compared.tables, "md", [compared.opening])
    assert markdown.startswith(compared.opening)
    assert markdown.count("\n### ") == 3
    assert "| batch\\_size | 8 | 8 | 8 | 16 | 16 |" in markdown
    latex = as_text(compared.tables, "latex")
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 3
    assert r"batch\_size & 8 & 8 & 8 & 16 & 16 \\" in latex
    assert r"$\pm$" in latex


def test_markup_in_cells() -> None:
    cell = "a|b & 5 % of $x_1$ <i> \x1b[2J {~^\\}"
    table = Table("T", ["h"], [[cell]])
    assert as_text([table], "md").splitlines()[-1] == "| a\\|b \\& 5 % of $x\\_1$ \\<i\\> \\\\x1b\\[2J \\{\\~^\\\\\\} |"
    latex = as_text([table], "latex")
    assert r"a\textbar{}b \& 5 \% of \$x\_1\$ \textless{}i\textgreater{} \textbackslash{}x1b[2J " in latex
    assert r"J \{\textasciitilde{}\textasciicircum{}" in latex
    assert list(csv.reader(io.StringIO(as_text([table], "csv"))))[1][1] == cell.replace("\x1b", "\\x1b")
