"""What `evaluate` prints: figures that fit 80 columns, the kinds of errors, loops, the worst clips, a baseline."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import checkpoint_samples
import pytest
from cli_samples import Command, Workspace, write_manifest

from whispertune.checkpoints.huggingface import save_huggingface
from whispertune.commands.evaluate_report import comparison_summary, error_summary, print_report
from whispertune.decoding.rules import Hypothesis
from whispertune.evaluation.error_rates import compare, score_corpus
from whispertune.evaluation.evaluate import Evaluation
from whispertune.evaluation.significance import bootstrap_interval, matched_pairs

REFERENCES = ["il gatto dorme", "buongiorno a tutti", "il numero chiamato", "prego attendere"]


def evaluation(
    name: str, hypotheses: Sequence[str], *, copies: int = 1, looping: int | None = None, language: str = "it",
    speakers: Sequence[str | None] | None = None,
) -> Evaluation:  # fmt: skip
    """Scores of these outputs on REFERENCES, so many times over; one of them with tokens that repeat."""
    ids = [f"clip-{n}" for n in range(copies * len(hypotheses))]
    score = score_corpus(ids, REFERENCES * copies, list(hypotheses) * copies, [language] * len(ids), speakers)
    tokens = [tuple([5, 6, 7] * 40) if n == looping else (5, 6, 7) for n in range(len(ids))]
    return Evaluation(name, 8, score, [Hypothesis(found, -1.0) for found in tokens], loss=1.25, seconds=93.1)


GOOD = ["il gatto dorme", "buongiorno a tutti", "il numero chiamato", "prego attendere"]
SOME = ["il cane dorme qui", "buongiorno tutti", "il numero chiamato", "prego attendere"]
LOOP = ["il cane dorme qui", "buongiorno tutti", "il numero chiamato" + " è spento" * 20, "prego attendere"]


def printed(capsys: pytest.CaptureFixture[str], found: Evaluation, baseline: Evaluation | None = None) -> str:
    capsys.readouterr()
    difference = None if baseline is None else compare(baseline.score, found.score)
    print_report("test.csv", "dense", found, baseline, difference)
    return capsys.readouterr().out


def test_figures_stand_in_one_line_each_within_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, evaluation("runs/x", LOOP, looping=2), evaluation("runs/a", SOME))
    table = [line for line in out.splitlines() if line.startswith(("│", "┃", "┏", "└"))]
    assert table
    assert max(map(len, table)) <= 80
    assert "…" not in "".join(table)
    for heading in ("WER, normalised", "CER, normalised", "WER, raw", "CER, raw"):
        (line,) = [line for line in table if heading in line]
        assert line.count("%") == 2
        assert line.count(" to ") == 2


def test_errors_are_counted_by_kind_and_loops_named(capsys: pytest.CaptureFixture[str]) -> None:
    """1 substitution and 1 insertion, 1 deletion, 40 insertions of a loop: 43 errors in 11 words."""
    found = evaluation("runs/x", LOOP, looping=2)
    out = printed(capsys, found)
    assert "390.9 %" in out
    assert "WER: 1 substitution, 1 deletion, 41 insertions, in 11 words" in out
    assert "loops: 1 output with repetitions, 40 of the 43 errors (WER of the others: 37.5 %): clip-2" in out
    worst = out[out.index("clips with most errors") :].splitlines()[1:]
    assert [line.split(":")[0].strip() for line in worst[::2]] == ["clip-2", "clip-0", "clip-1"]
    assert worst[3].strip() == "il [gatto → cane] dorme [+ qui]"
    assert "4 utterances: too few" in out
    assert error_summary(found) == {"substitutions": 1, "deletions": 1, "insertions": 41, "words": 11, "loops": 1}


def test_a_model_without_errors_has_no_worst_clips(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, evaluation("runs/x", GOOD, copies=8))
    assert "most errors" not in out
    assert "loops" not in out
    assert "too few" not in out


def test_the_difference_is_that_of_matched_pairs_and_says_what_it_shows(capsys: pytest.CaptureFixture[str]) -> None:
    better, worse = evaluation("runs/x", GOOD, copies=10), evaluation("runs/a", SOME, copies=10)
    expected = matched_pairs([2, 1, 0, 0] * 10, [0] * 40, [3, 3, 3, 2] * 10)
    assert compare(worse.score, better.score) == expected
    line = f"WER differs by {100 * expected.difference:+.1f} points (95 %: {100 * expected.low:+.1f} to "
    assert line in printed(capsys, better, worse)
    assert "better than the baseline" in printed(capsys, better, worse)
    assert "worse than the baseline" in printed(capsys, worse, better)
    assert "not conclusive" in printed(capsys, worse, worse)
    few = printed(capsys, evaluation("runs/x", GOOD), evaluation("runs/a", SOME))
    assert "points (95 %: no bounds, too little data, matched pairs): not conclusive" in few


def test_intervals_and_tests_are_over_speakers_where_six_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"voice {place // 4}" for place in range(24)]
    found = evaluation("runs/x", SOME, copies=6, speakers=names)
    theirs = evaluation("runs/a", GOOD, copies=6, speakers=names)
    errors, lengths = [2, 1, 0, 0] * 6, [3, 3, 3, 2] * 6
    assert found.score.interval("words") == bootstrap_interval(errors, lengths, groups=names)
    assert compare(theirs.score, found.score) == matched_pairs([0] * 24, errors, lengths, groups=names)
    out = printed(capsys, found, theirs)
    assert "with 95 % intervals, by a bootstrap over speakers" in out
    assert "matched pairs over speakers): worse than the baseline" in out
    summary = found.summary()
    assert (summary["intervals_over"], summary["wer_interval"]) == ("speakers", list(found.score.interval("words")))
    fewer = evaluation("runs/x", SOME, copies=5, speakers=names[:20])  # five speakers are too few
    assert fewer.summary()["intervals_over"] == "utterances"
    assert "by a bootstrap over utterances" in printed(capsys, fewer)
    with pytest.raises(ValueError, match="one speaker per utterance: got 20 for 24"):
        evaluation("runs/x", SOME, copies=6, speakers=names[:20])


def test_a_difference_without_bounds_is_valid_json() -> None:
    found, theirs = evaluation("runs/x", GOOD), evaluation("runs/a", SOME)
    summary = comparison_summary(theirs, compare(theirs.score, found.score))
    assert summary["difference"]["interval"] == [None, None]


def test_languages_without_spaces_lead_with_characters(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, evaluation("m", SOME, language="ja"))
    assert out.index("CER, normalised") < out.index("WER, normalised")
    assert f"in {sum(len(text.replace(' ', '')) for text in REFERENCES)} characters" in out


def test_the_command_decodes_a_baseline_beside_the_model(
    workspace: Workspace, command: Command, tmp_path: Path
) -> None:
    """A copy of the model as its baseline: the same figures, and no difference."""
    copy = tmp_path / "copy"
    shutil.copytree(workspace.model, copy)
    output = tmp_path / "out"
    outcome = command(workspace.evaluate(f"--baseline={copy}", f"--output={output}"))
    assert outcome.status == 0, outcome.err
    assert "WER differs by +0.0 points" in outcome.out
    summary = json.loads((output / "summary.json").read_text("utf-8"))
    assert summary["baseline"]["wer"] == summary["wer"]
    assert summary["difference"] == {
        "rate": "wer",
        "value": 0.0,
        "interval": [0.0, 0.0],
        "significant": False,
        "p": 1.0,
    }
    theirs, ours = ((output / name).read_text("utf-8") for name in ("baseline/hypotheses.jsonl", "hypotheses.jsonl"))
    assert theirs == ours
    refused = command(workspace.evaluate(f"--baseline={tmp_path / 'absent'}"))
    assert (refused.status, "absent" in refused.error, "decoding" in refused.err) == (2, True, False)


def test_sources_and_a_glossary(workspace: Workspace, command: Command, tmp_path: Path) -> None:
    """Two manifests pooled: their rates beside the mean, and the recall of the terms."""
    first = write_manifest(workspace.folder / "data.csv", workspace.valid_rows)
    second = write_manifest(tmp_path / "second.csv", workspace.train_rows[:2])
    glossary, output = tmp_path / "names.txt", tmp_path / "out"
    glossary.write_text("# names\n" + workspace.train_rows[0]["text"].split()[0] + "\nTorino\n", "utf-8")
    pooled = [f"--data={first} + {second}", f"--baseline={workspace.model}", f"--output={output}"]
    outcome = command(workspace.evaluate(*pooled, f"--glossary={glossary}"))
    assert outcome.status == 0, outcome.err
    summary = json.loads((output / "summary.json").read_text("utf-8"))
    assert summary["by_source"]["groups"]["second.csv"]["utterances"] == 2
    assert "mean of 2" in outcome.out
    assert summary["glossary"]["occurrences"] == summary["baseline"]["glossary"]["occurrences"] >= 1
    assert " recognised, recall" in outcome.out
    assert "in no transcript: 1 of 2 terms" in outcome.out
    boosted = command(
        [*workspace.evaluate(*pooled[:1], "--beam_size=2"), f"--glossary={glossary}", "--glossary_boost=1"]
    )
    assert boosted.status == 0, boosted.err
    assert "beam 2" in boosted.out
    refused = command(workspace.evaluate(f"--glossary={tmp_path / 'absent.txt'}"))
    assert (refused.status, "absent.txt" in refused.error, "decoding" in refused.err) == (2, True, False)


def test_a_glossary_that_nothing_would_use_is_refused(workspace: Workspace, command: Command, tmp_path: Path) -> None:
    """Before any training or transcribing, which it would be too late after."""
    glossary = tmp_path / "names.txt"
    glossary.write_text("Torino\n", "utf-8")
    absent = tmp_path / "absent.txt"
    for arguments, what in (
        (workspace.train(f"--search.glossary={glossary}"), "search.glossary"),
        (workspace.train(f"--search.glossary={absent}", "--search.glossary_boost=1"), "absent.txt"),
        (["transcribe", f"--model={workspace.model}", f"--glossary={glossary}", "x.wav"], "glossary"),
    ):
        outcome = command(arguments)
        assert (outcome.status, what in outcome.error, "training" in outcome.err) == (2, True, False), outcome.err


def test_a_baseline_that_lacks_the_language_is_refused_before_anything_is_decoded(
    workspace: Workspace, command: Command, tmp_path: Path
) -> None:
    folder = tmp_path / "english"
    folder.mkdir()
    checkpoint = checkpoint_samples.sample(multilingual=False)
    save_huggingface(folder, checkpoint, checkpoint.weights, language=None, model_card=None)
    refused = command(workspace.evaluate(f"--baseline={folder}"))
    assert (refused.status, "English-only" in refused.error, "decoding" in refused.err) == (2, True, False)
