"""The page of one run: every figure against metrics.jsonl and an independent computation; nothing is markup."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import time
from collections import Counter
from pathlib import Path

import jiwer
import numpy as np
import pytest
import report_samples
from page_reader import Page
from report_samples import PLAYERS, Report

from whispertune import cli
from whispertune.evaluation.significance import bootstrap_interval, matched_pairs
from whispertune.report.comparison import compare
from whispertune.report.plots import Curve, curves
from whispertune.report.run_page import RunReport, report_on
from whispertune.report.runs import read_run
from whispertune.system.files import read_jsonl, write_jsonl


def normalized(text: str) -> str:
    """Italian, as Whisper's basic normaliser takes it."""
    return " ".join(re.sub(r"[^\w\s]", " ", text.lower()).split())


def page_of(run: Path) -> Page:
    return Page(report_on(read_run(run)).page())


def texts_of(path: Path) -> tuple[list[str], list[str]]:
    rows = read_jsonl(path)
    return [normalized(row["reference"]) for row in rows], [normalized(row["hypothesis"]) for row in rows]


def test_the_headline(run: Path, page: Page) -> None:
    (test_row,) = (
        row for row in page.tables["Before and after"] if row[:2] == ["test", "beam 8"] and row[3] == "WER, normalised"
    )
    files = [run / "test" / name for name in ("hypotheses_baseline.jsonl", "hypotheses.jsonl")]
    wers = [jiwer.wer(*texts_of(path)) for path in files]
    metrics = [row for row in read_jsonl(run / "metrics.jsonl") if row.get("split") == "test" and row["beam_size"] == 8]
    assert [row["wer"] for row in metrics] == pytest.approx(wers)
    rows = [read_jsonl(path) for path in files]
    words, speakers = [row["words"] for row in rows[0]], [row["speaker"] for row in rows[0]]
    errors = [[row["word_errors"] for row in side] for side in rows]
    for cell, wer, of_side in zip(test_row[4:6], wers, errors, strict=True):
        low, high = bootstrap_interval(of_side, words, groups=speakers)
        assert cell == f"{100 * wer:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
    assert test_row[6] == f"{100 * (wers[1] - wers[0]):+.1f}".replace("-", "−")
    found = matched_pairs(*errors, words, groups=speakers)
    assert found.verdict() in test_row[7]
    assert f"{100 * found.low:+.1f} to {100 * found.high:+.1f}".replace("-", "−") in test_row[7]
    lead = f"from {100 * wers[0]:.1f}\u00a0% to {100 * wers[1]:.1f}\u00a0%"
    assert f"Fine-tuning cut the word error rate on 40 unseen recordings {lead}" in page.text
    assert "Intervals and tests are over the 8 speakers" in page.said


def test_every_row_of_the_headline_is_in_the_metrics(run: Path, page: Page) -> None:
    rows = read_jsonl(run / "metrics.jsonl")
    trained = [row for row in rows if row.get("split") == "valid" and row["epoch"]]
    best = min(reversed(trained), key=lambda row: row["wer"])
    before = {("valid", 1): next(row for row in rows if row.get("split") == "valid")}
    before |= {
        ("test", row["beam_size"]): row for row in rows if row.get("split") == "test" and row["model"] == "baseline"
    }
    after = {("valid", 1): best} | {("test", row["beam_size"]): row for row in rows if row.get("model") == "best"}
    shown = page.tables["Before and after"][1:]
    assert len(shown) == 9
    for split, search, frames, rate, old, new, change, _ in shown:
        key = (split, int(search.removeprefix("beam ").replace("greedy", "1")))
        field = {"WER, normalised": "wer", "CER, normalised": "cer", "WER, raw": "wer_raw"}[rate]
        assert frames == after[key]["frames"]
        values = [100 * side[key][field] for side in (before, after)]
        assert [old.split(" %")[0], new.split(" %")[0]] == [f"{value:.1f}" for value in values]
        assert change == f"{values[1] - values[0]:+.1f}".replace("-", "−")


def test_kinds_of_errors_confusions_and_words_never_recognised(run: Path, page: Page) -> None:
    tables = page.tables
    for column, name in ((1, "hypotheses_baseline.jsonl"), (2, "hypotheses.jsonl")):
        found = jiwer.process_words(*texts_of(run / "test" / name))
        counts = {"substitutions": found.substitutions, "deletions": found.deletions, "insertions": found.insertions}
        counts["all"] = sum(counts.values())
        shown = {row[0]: int(row[column].split(" ")[0].replace(",", "")) for row in tables["Kinds of errors"][1:]}
        assert shown == counts
        assert counts["all"] == sum(row["word_errors"] for row in read_jsonl(run / "test" / name))
    references, hypotheses = texts_of(run / "test" / "hypotheses.jsonl")
    pairs: Counter[tuple[str, str]] = Counter()
    recognised, said = set(), Counter[str]()
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        said.update(reference.split())
        if not hypothesis:
            pairs.update((word, "(missing)") for word in reference.split())
            continue
        out = jiwer.process_words(reference, hypothesis)
        for chunk in out.alignments[0]:
            old = out.references[0][chunk.ref_start_idx : chunk.ref_end_idx]
            new = out.hypotheses[0][chunk.hyp_start_idx : chunk.hyp_end_idx]
            if chunk.type == "equal":
                recognised.update(old)
            else:
                size = max(len(old), len(new))
                pairs.update(
                    zip(old or ["(nothing)"] * size, new or ["(missing)"] * size, strict=True)
                )  # fmt: skip
    confused = {(row[0], row[1]): int(row[3]) for row in tables["Most frequent confusions"][1:]}
    assert confused == {pair: pairs[pair] for pair in confused}
    assert list(confused.values()) == sorted(pairs.values(), reverse=True)[: len(confused)]
    never = {word: times for word, times in said.items() if times > 1 and word not in recognised}
    assert {row[0]: int(row[1]) for row in tables.get("Never recognised", [[]])[1:]} == never


@pytest.mark.parametrize("title", ["Errors by speaker", "Errors by duration"])
def test_errors_by_group(run: Path, page: Page, title: str) -> None:
    before, after = (
        read_jsonl(run / "test" / name) for name in ("hypotheses_baseline.jsonl", "hypotheses.jsonl")
    )  # fmt: skip
    shown = page.tables[title][1:]
    assert sum(int(row[1]) for row in shown) == 40
    for name, clips, minutes, words, old, new, _ in shown:
        if title == "Errors by speaker":
            places = [place for place, row in enumerate(after) if row["speaker"] == name]
        else:
            low, high = (float(n) for n in re.findall(r"\d+", f"0 {name}" if "up to" in name else f"{name} 99")[:2])
            places = [place for place, row in enumerate(after) if low <= row["duration"] < high]
        assert int(clips) == len(places)
        assert minutes == f"{sum(after[place]['duration'] for place in places) / 60:.1f}"
        length = sum(after[place]["words"] for place in places)
        assert int(words) == length
        for cell, side in ((old, before), (new, after)):
            assert cell == f"{100 * sum(side[place]['word_errors'] for place in places) / length:.1f} %"


def test_errors_by_source_need_no_corpus(tmp_path: Path) -> None:
    """Each hypothesis names its source, so that the table is there on another machine too."""
    folder = report_samples.write_run(tmp_path / "run")
    for path in (folder.hypotheses(), folder.baseline_hypotheses("test")):
        rows = read_jsonl(path)
        write_jsonl(path, [{**row, "source": f"corpus-{place % 2}.csv"} for place, row in enumerate(rows)])
    for manifest in tmp_path.rglob("*.csv"):
        manifest.unlink()
    rows = read_jsonl(folder.hypotheses())
    (table,) = (table for table in report_on(read_run(folder.path)).tables if table.title == "Errors by source")
    assert {row[0] for row in table.rows} == {"corpus-0.csv", "corpus-1.csv"}
    assert sum(int(row[1]) for row in table.rows) == len(rows)
    for path in (folder.hypotheses(), folder.baseline_hypotheses("test")):  # a folder of subtitles, one a recording
        write_jsonl(path, [{**row, "source": f"{place}.srt"} for place, row in enumerate(read_jsonl(path))])
    assert all(table.title != "Errors by source" for table in report_on(read_run(folder.path)).tables)


def test_utterances_are_aligned_before_beside_after(run: Path, made: RunReport, page: Page) -> None:
    rows = {row["id"]: row for row in read_jsonl(run / "test" / "hypotheses.jsonl")}
    assert len(made.clips) == made.all_clips == 40
    assert [clip.sides[1].errors for clip in made.clips] == sorted(
        (row["word_errors"] for row in rows.values()), reverse=True
    )
    for clip in made.clips:
        row, (_, after) = rows[clip.id], clip.sides
        assert clip.reference == row["reference"]
        heard = [new for kind, _, new in after.pieces if kind != "delete"]
        written = [old for kind, old, _ in after.pieces if kind != "insert"]
        assert " ".join(heard) == normalized(row["hypothesis"])
        assert " ".join(written) == normalized(row["reference"])
        assert clip.address is None or clip.address.startswith("data:audio/mpeg;base64,")
    assert sum(clip.address is not None for clip in made.clips) == page.elements["audio"] == PLAYERS


def test_curves_hold_what_the_metrics_hold(run: Path, made: RunReport) -> None:
    names = ["valid-wer", "valid-cer", "loss", "learning-rate", "gradient-norm", "errors-by-kind", "errors-by-duration"]
    assert [plot.name for plot in made.plots] == names
    rows = read_jsonl(run / "metrics.jsonl")
    valid = [row for row in rows if row.get("split") == "valid"]
    for row in valid:
        assert f"{100 * row['wer']:.1f} % at update {row['step']}" in made.plots[0].alt
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    made.plots[0].draw(axes)
    assert axes.lines[0].get_ydata().tolist() == [100 * row["wer"] for row in valid]
    best = min(reversed(valid[1:]), key=lambda row: row["wer"])
    (chosen,) = (line for line in axes.lines if line.get_label() == "chosen")
    assert chosen.get_xydata().tolist() == [[best["step"], 100 * best["wer"]]]
    band = axes.collections[0].get_paths()[0].vertices[:, 1].round(6)
    assert set(band.tolist()) == {round(100 * bound, 6) for row in valid for bound in row["wer_interval"]}
    axes = Figure().add_subplot()
    made.plots[3].draw(axes)
    updates = [row for row in rows if "lr" in row]
    assert axes.lines[0].get_ydata().tolist() == [row["lr"] for row in updates]


def test_long_curves_are_drawn_as_means() -> None:
    from whispertune.report.plots import binned

    xs, ys = binned(list(range(1000)), np.arange(1000.0).tolist(), 10)
    assert (xs[0], ys[0], len(xs)) == (49.5, 49.5, 10)
    assert binned([1, 2], [3.0, 4.0], 10) == ([1, 2], [3, 4])


def test_time_data_settings_and_versions(run: Path, page: Page) -> None:
    rows = read_jsonl(run / "metrics.jsonl")
    for stage, of_stage in {
        "training, 60 updates": [row for row in rows if "split" not in row],
        "validation, 4 times": [row for row in rows if row.get("split") == "valid"],
        "test": [row for row in rows if row.get("split") == "test"],
    }.items():
        (shown,) = (row for row in page.tables["Time and memory"] if row[0] == stage)
        assert shown[1] == f"{sum(row['seconds'] for row in of_stage):.1f} s"
    assert [row[0] for row in page.tables["Data"][1:]] == ["train", "valid", "test"]
    assert page.tables["Data"][1][2:] == ["41", "40", "0.50", "1"]
    assert page.tables["Excluded, by reason"][1] == ["train", "31.2 s long, over 30 s", "1"]
    settings = {row[0]: row[1:] for row in page.tables["Settings that differ from the defaults"][1:]}
    assert settings["epochs"] == ["3", "4"]
    assert "seed" not in settings
    assert ["seed", "0"] in page.tables["Default settings"]
    assert ["torch", "2.13.0"] in page.tables["Versions and machine"]


HOSTILE = "<script>alert(1)</script> \"onerror=alert(2) '<img src=x> &amp; $x^2$ \x1b[2J {{ 7 * 7 }}"


def test_markup_in_texts_and_names_is_text(tmp_path: Path, page: Page) -> None:
    rows = report_samples.prompts(8)
    for place, row in enumerate(rows):
        row["id"] = f"{place} {HOSTILE}"
        row["text"] = f"{row['text']} {HOSTILE}"
    folder = tmp_path / "a <b onload='x'> $y$ run"
    report_samples.write_run(folder, rows=rows, outputs=lambda texts, *_: [f"{HOSTILE} {text}" for text in texts])
    for path in (folder / "test" / "hypotheses.jsonl", folder / "test" / "hypotheses_baseline.jsonl"):
        write_jsonl(path, [{**row, "speaker": HOSTILE, "language": HOSTILE} for row in read_jsonl(path)])
    write_jsonl(
        folder / "excluded.jsonl", [{"split": HOSTILE, "id": HOSTILE, "file": HOSTILE, "row": 1, "reason": HOSTILE}]
    )
    environment = json.loads((folder / "environment.json").read_text())
    (folder / "environment.json").write_text(json.dumps({**environment, "python": HOSTILE, "precision": HOSTILE}))
    ours, page = page, page_of(folder)
    assert not {"img", "b", "iframe"} & set(page.elements)
    for element in ("script", "style", "link", "body"):
        assert page.elements[element] == ours.elements[element]
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in page.said
    assert "{{ 7 * 7 }}" in page.said
    assert "\x1b" not in page.text
    other = shutil.copytree(folder, folder.with_name("other <img src=x>"))
    compared = Page(compare([read_run(folder), read_run(other)]).page())
    assert not {"img", "b", "iframe"} & set(compared.elements)
    assert compared.elements["script"] == ours.elements["script"]
    assert "$y$ run" in compared.text


def test_the_page_asks_nobody(page: Page) -> None:
    for element, name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "action", "poster", "srcset", "data"):
            assert value.startswith(("#", "data:")), (element, name, value[:80])
    assert "@import" not in page.text
    assert not re.search(r"url\((?!#)", page.text)
    policy = next(value for _, name, value in page.attributes if name == "content" and "default-src" in value)
    assert policy.startswith("default-src 'none'")


def test_everything_has_a_name(page: Page) -> None:
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    labelled = [value for _, name, value in page.attributes if name == "aria-labelledby"]
    assert set(labelled) <= set(ids)
    links = [value[1:] for element, name, value in page.attributes if (element, name) == ("a", "href")]
    assert set(links) <= set(ids)
    pictures = [value for element, name, value in page.attributes if (element, name) == ("div", "aria-label")]
    assert all(pictures)
    assert (
        sum((element, name) == ("audio", "aria-label") for element, name, _ in page.attributes)
        == (page.elements["audio"])
    )
    assert page.elements["caption"] == page.elements["table"]
    used = {value.removeprefix("#") for _, name, value in page.attributes if name == "xlink:href"}
    assert used <= set(ids)


def test_commands_are_of_what_is_there(run: Path, made: RunReport) -> None:
    commands = [shlex.split(command) for _, command in made.commands]
    assert [command[:2] for command in commands] == [
        ["whispertune", "evaluate"], ["whispertune", "transcribe"], ["whispertune", "export"]
    ]  # fmt: skip
    assert commands[0][2:4] == ["--model", str(run)]
    assert Path(commands[1][4]).is_file()
    # Where the data is gone nothing is printed that needs it.
    for path in run.parent.glob("rows-*.csv"):
        path.rename(path.with_suffix(".away"))
    try:
        left = [shlex.split(command)[1] for _, command in report_on(read_run(run)).commands]
    finally:
        for path in run.parent.glob("rows-*.away"):
            path.rename(path.with_suffix(".csv"))
    assert left == ["export", "report"]


def test_advice_comes_from_the_figures(tmp_path: Path) -> None:
    overfits = report_samples.write_run(tmp_path / "overfits", shares=(0.4, 0.15, 0.35)).path
    assert "the run overfits" in " ".join(report_on(read_run(overfits)).advice)
    learns = report_samples.write_run(tmp_path / "learns", shares=(0.4, 0.3, 0.1)).path
    assert "more epochs may help (--epochs 4)" in " ".join(report_on(read_run(learns)).advice)
    worse = report_samples.write_run(tmp_path / "worse", test_shares=(0.1, 0.5)).path
    made = report_on(read_run(worse))
    assert "raised the word error rate" in made.opening
    assert "The error rate rose: try a lower schedule.peak_lr" in " ".join(made.advice)
    few = report_samples.write_run(tmp_path / "few", rows=report_samples.prompts(12), test_shares=(0.4, 0.3)).path
    made = report_on(read_run(few))
    assert "test has 12 utterances" in " ".join(made.advice)
    wrong = report_samples.write_run(
        tmp_path / "wrong", outputs=lambda texts, *_: ["qualcosa di tutto diverso", *texts[1:]]
    ).path
    first = report_samples.prompts(1)[0]["id"]
    (line,) = (line for line in report_on(read_run(wrong)).advice if "Check this transcript first" in line)
    assert line.endswith(f": {first}.")


def test_nothing_learnt(tmp_path: Path) -> None:
    run = report_samples.write_run(tmp_path / "run", outputs=lambda texts, *_: list(texts)).path
    made = report_on(read_run(run))
    assert made.opening == "Fine-tuning left the word error rate on 40 unseen recordings at 0.0 %."
    assert page_of(run).tables["Kinds of errors"][-1] == ["all", "0 (0.0 %)", "0 (0.0 %)"]


def test_one_utterance_and_no_words(tmp_path: Path) -> None:
    run = report_samples.write_run(tmp_path / "one", rows=report_samples.prompts(1)).path
    assert "on 1 unseen recording" in report_on(read_run(run)).opening
    assert ["recompute", "false"] in page_of(run).tables["Default settings"]
    rows = [{"id": f"u{n}", "audio": "none.wav", "text": ""} for n in range(3)]
    run = report_samples.write_run(tmp_path / "none", rows=rows, outputs=lambda texts, *_: ["ciao"] * len(texts)).path
    assert page_of(run).tables["Kinds of errors"][3][2].startswith("3 (")


def test_languages_without_spaces_are_judged_by_characters(tmp_path: Path) -> None:
    rows = [{"id": f"u{n}", "audio": "x.wav", "text": "今天天气很好。"} for n in range(4)]
    run = report_samples.write_run(
        tmp_path / "run", rows=rows, language="zh", outputs=lambda texts, *_: ["今天天汽很好", *texts[1:]]
    ).path
    made = report_on(read_run(run))
    assert "character error rate" in made.opening
    page = page_of(run)
    assert page.tables["Most frequent confusions"][1][:2] == ["气", "汽"]
    assert page.tables["Kinds of errors"][1][2] == f"1 ({100 / 24:.1f} %)"


def test_a_run_under_way_and_an_old_one(tmp_path: Path, run: Path) -> None:
    folder = report_samples.write_run(tmp_path / "run", test=False)
    rows = read_jsonl(folder.metrics)
    folder.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 61, "lo')
    page = page_of(folder.path)
    assert "1 line of metrics.jsonl cannot be read and is ignored here" in page.said
    assert "validation recordings" in page.said
    for path in folder.path.glob("valid/*"):  # an older version, or files that were not copied
        path.unlink()
    page = page_of(folder.path)
    assert "Where the errors are" not in page.said
    assert len(page.tables["Before and after"]) == 4
    write_jsonl(folder.metrics, rows[:5])
    assert "has not been validated since training began" in page_of(folder.path).said
    write_jsonl(folder.metrics, rows[1:5])
    assert "has not been validated yet" in page_of(folder.path).said


def test_the_command(run: Path, report: Report, tmp_path: Path) -> None:
    assert report([run]) == f"report: {run / 'report.html'}\n"
    assert Page((run / "report.html").read_text(encoding="utf-8")).elements["figure"] == 7
    target = tmp_path / "new" / "tables.md"
    report([run, "--output", target, "--plots", tmp_path / "plots", "--format", "md"])
    assert target.read_text(encoding="utf-8").startswith("Fine-tuning cut the word error rate")
    names = {path.name for path in (tmp_path / "plots").iterdir()}
    assert {"loss.svg", "loss.png", "loss.pdf", "valid-wer.pdf", "errors-by-duration.png"} <= names
    assert len(names) == 21
    assert (tmp_path / "plots" / "loss.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "plots" / "loss.pdf").read_bytes()[:5] == b"%PDF-"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the run folder is missing"),
        (["{tmp}/none"], "no run here"),
        (["{run}", "{run}/."], "given twice"),
        (["{run}", "--output", "{tmp}"], "is a folder; name a file in it"),
        (["{run}", "--format", "pdf"], "format is 'pdf'; it takes html, md, csv or latex"),
    ],
)
def test_mistakes(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert cli.main(["report", *(argument.format(tmp=tmp_path, run=run) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_files_of_the_user_are_kept(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own.csv").write_text("audio,text\na.wav,ciao\n")
    (tmp_path / "link.html").symlink_to(tmp_path / "new.html")
    for name, kind in (("own.csv", "csv"), ("own.csv", "html"), ("link.html", "html")):
        assert cli.main(["report", str(run), "--output", str(tmp_path / name), "--format", kind]) == 2
        assert f"{name} would be overwritten, but `whispertune report` did not write it" in capsys.readouterr().err
    assert cli.main(["report", str(run), "--output", str(run / "metrics.jsonl"), "--format", "md"]) == 2
    plots = tmp_path / "plots"
    plots.mkdir()
    (plots / "loss.png").write_bytes(b"my own")
    assert cli.main(["report", str(run), "--plots", str(plots), "--output", str(tmp_path / "a.html")]) == 2
    assert [path.name for path in plots.iterdir()] == ["loss.png"]
    (plots / "loss.png").unlink()
    for kind in ("html", "md", "csv", "latex"):  # what a report wrote is replaced
        for _ in range(2):
            written = ["--output", str(tmp_path / f"a.{kind}"), "--format", kind, "--plots", str(plots)]
            assert cli.main(["report", str(run), *written]) == 0
    (tmp_path / "file").touch()
    assert cli.main(["report", str(run), "--plots", str(tmp_path / "file")]) == 2
    assert "--plots: cannot write to" in capsys.readouterr().err


def test_hypotheses_that_cannot_be_read(tmp_path: Path) -> None:
    folder = report_samples.write_run(tmp_path / "run")
    rows = read_jsonl(folder.hypotheses())
    broken = [{**rows[0], "word_errors": None}, {"id": rows[1]["id"]}, {**rows[2], "reference": 3}, *rows[3:]]
    folder.hypotheses().write_text("".join(json.dumps(row) + "\n" for row in broken) + '{"id": "u')
    made = report_on(read_run(folder.path))
    assert made.all_clips == len(rows) - 3
    assert "4 lines of the hypotheses cannot be read" in " ".join(made.notes)
    write_jsonl(folder.metrics, [row for row in read_jsonl(folder.metrics) if row.get("model") != "baseline"])
    assert "The pretrained model's validation is missing" in page_of(folder.path).said


def test_texts_from_right_to_left(tmp_path: Path) -> None:
    rows = [{"id": f"u{n}", "audio": "none.wav", "text": "مرحبا بالعالم"} for n in range(4)]
    page = page_of(report_samples.write_run(tmp_path / "run", rows=rows, language="ar").path)
    # The direction of a paragraph follows from its first letter outside of elements that have one of their own.
    assert page.elements["audio"] == 0
    assert "The recordings could not be read from here" in page.said
    paragraphs = re.findall(r'<p class="said" dir="auto".*?</p>', page.text, re.DOTALL)
    assert len(paragraphs) == 3 * 4
    for paragraph in paragraphs:
        own = re.sub(r'<span[^>]*dir="ltr">.*?</span>', "", paragraph, flags=re.DOTALL)
        assert not re.search("[a-z]", re.sub("<[^>]*>", "", own))


def test_names_of_runs_in_plots() -> None:
    valid = [{"step": 0, "wer": 0.2, "cer": 0.1, "loss": 1.0}]
    updates = [{"step": step, "loss": float("nan"), "lr": 0.1, "grad_norm": float("inf")} for step in range(1, 60)]
    for name in ("_first", "普通话", "caf\udce9", "\x1b[2J"):
        for plot in curves([Curve(name, updates, valid, 0), Curve("second", updates, [], None)]):
            drawn = plot.svg()
            assert "second" in drawn
            assert ("_first" in drawn) == (name == "_first")


@pytest.mark.slow
def test_20_000_utterances(tmp_path: Path) -> None:
    run = report_samples.write_run(tmp_path / "run", rows=report_samples.prompts(20_000), speakers=300, steps=3000)
    report_on(read_run(report_samples.write_run(tmp_path / "warm").path)).page()
    began = time.process_time()
    page = report_on(read_run(run.path)).page()
    assert time.process_time() - began < 10
    assert len(page.encode()) < 15_000_000
