"""The outcome of a run: the model that is kept, the files of the test, the table at the end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from whispertune.checkpoints.checkpoint import load_checkpoint
from whispertune.evaluation.error_rates import compare
from whispertune.evaluation.evaluate import Evaluation
from whispertune.evaluation.significance import MatchedPairs, caveat, compare_rows
from whispertune.run.session import Session
from whispertune.run.stages import save_best
from whispertune.system.console import console, percent, results, wrapped
from whispertune.system.counts import counted
from whispertune.system.files import make_writable, read_jsonl, write_jsonl, write_text
from whispertune.system.memory import peak_memory
from whispertune.training.averaging import described
from whispertune.training.metrics import EvaluationRow
from whispertune.training.pace import peak_memory_gb


def choose_best(session: Session) -> MatchedPairs:
    """Put the baseline into best/ if it is better than the best epoch beyond chance (95 %, matched pairs)."""
    progress = session.progress
    baseline = read_jsonl(session.folder.validation(0))
    best = read_jsonl(session.folder.validation(progress.best_step, progress.best_model))
    comparison = compare_rows(baseline, best)
    if comparison.difference > 0:
        console.print(
            f"fine-tuning made it worse: the valid error rate rose by {100 * comparison.difference:.1f} points "
            f"(95 %: {comparison.bounds()}; {comparison.verdict()}); try a lower schedule.peak_lr",
            style="bold red",
        )
    if comparison.low > 0:
        console.print("best/ now holds the untouched model")
        save_best(session, load_checkpoint(session.recipe.model, base=session.recipe.base).weights, "baseline", 0)
        progress.best_step, progress.best_epoch, progress.best_model = 0, 0, "baseline"
    return comparison


@dataclass(frozen=True, slots=True)
class Tested:
    """One test set's rows of metrics.jsonl, those of the untouched model first, and the two models compared with the
    widest search."""

    name: str
    rows: Sequence[EvaluationRow]
    comparison: MatchedPairs


def record_test(session: Session, name: str, evaluations: Sequence[Evaluation]) -> Tested:
    """Log one test set; write its summary.json and the hypotheses (widest search) of the best and the pretrained
    model."""
    folder, progress = session.folder, session.progress
    summaries, rows = {}, []
    for found in evaluations:
        summary = found.summary()
        step, epoch = (progress.best_step, progress.best_epoch) if found.name == "best" else (0, 0)
        memory = peak_memory_gb(session.device)
        rows.append(
            EvaluationRow(
                step=step, epoch=epoch, split=name, model=found.name, frames="dense", memory_gb=memory, **summary
            )
        )
        session.log.write(rows[-1])
        summaries[f"{found.name}_{'greedy' if found.beam_size == 1 else 'beam'}"] = summary
    pretrained, chosen = evaluations[len(evaluations) // 2 - 1], evaluations[-1]
    comparison = compare(pretrained.score, chosen.score)
    difference = {"rate": pretrained.score.leading_name.lower(), **comparison.summary()}
    content = {
        **summary, "model": chosen.name, "frames": "dense", "difference": difference, "all": summaries,
    }  # fmt: skip
    make_writable(folder.test_of(name))
    figures = folder.test_of(name) / "summary.json"
    for path, of_model in ((folder.hypotheses(name), chosen), (folder.baseline_hypotheses(name), pretrained)):
        progress.kept[folder.name_of(path)] = write_jsonl(path, of_model.rows())
    progress.kept[folder.name_of(figures)] = write_text(figures, json.dumps(content, indent=2) + "\n")
    return Tested(name, rows, comparison)


def _with_interval(row: EvaluationRow, rate: str) -> str:
    """A rate of a row and its 95 % interval: `15.0 % (12.1 to 18.3)`."""
    value, (low, high) = (row.wer, row.wer_interval) if rate == "WER" else (row.cer, row.cer_interval)
    return f"{percent(value)} ({100 * low:.1f} to {100 * high:.1f})"


def _described(session: Session, valid: Sequence[EvaluationRow]) -> str:
    """What best/ holds, for people."""
    progress = session.progress
    if progress.best_model in ("epoch", "baseline"):
        return f"best epoch: {progress.best_epoch} of {max(row.epoch for row in valid)}"
    return f"best: {described(progress.best_model, progress.averaged)}"


def report(
    session: Session, tests: Sequence[Tested], comparison: MatchedPairs, seconds: float, opening: str,
    advice: Sequence[str],
) -> None:  # fmt: skip
    """Print the end of a run, in at most 78 columns except for paths and commands.

    opening: a sentence before the table. advice: what to do next, after it.
    """
    for line in wrapped(opening):
        results.print(line)
    progress, valid = session.progress, [row for row in session.log.evaluations if row.split == "valid"]
    before = valid[0]
    after = next(row for row in reversed(valid) if (row.step, row.model) == (progress.best_step, progress.best_model))
    over = {row.split: row.intervals_over for row in (before, *(row for test in tests for row in test.rows))}
    drawn = ", ".join(f"{of} ({split})" for split, of in over.items()) if len(set(over.values())) > 1 else over["valid"]
    title = f"untouched against fine-tuned, normalised, with 95 % intervals by a bootstrap over {drawn}"
    results.print("\n".join(wrapped(title)))
    table = Table(box=None, padding=(0, 1), pad_edge=False, collapse_padding=True)
    for heading in ("split", "search", "frames", "rate"):
        table.add_column(heading)
    for heading in ("before", "after"):
        table.add_column(heading, justify="right", no_wrap=True)
    halves = [(test.rows[: len(test.rows) // 2], test.rows[len(test.rows) // 2 :]) for test in tests]
    for old, new in [(before, after), *(pair for half in halves for pair in zip(*half, strict=True))]:
        where = [old.split, "greedy" if old.beam_size == 1 else f"beam {old.beam_size}", old.frames]
        for rate in ("CER", "WER") if before.leading == "CER" else ("WER", "CER"):
            table.add_row(*where, rate, *(_with_interval(row, rate) for row in (old, new)))
            where = ["", "", ""]
    results.print(table)
    if tests:  # explains why the rates of valid and test differ
        explained = (
            "greedy takes the most likely token at each step, beam keeps several hypotheses; thinned leaves out most "
            "of the silence, as training does; dense computes all of it, as the model will be used"
        )
        results.print("\n".join(wrapped(explained)))
    for row in (row for test in tests for row in test.rows):
        if row.capped:
            name = f"{row.split}, {row.model}, beam {row.beam_size}"
            results.print(f"{name}: {row.capped} ran into the bound on tokens (loops)")
    results.print("\n".join(wrapped(f"valid {before.leading} changed by {comparison.in_points()}")))
    for test in tests:
        style = "bold red" if test.comparison.low > 0 else None
        changed = f"{test.name} {test.rows[0].leading} changed by {test.comparison.in_points()}"
        results.print("\n".join(wrapped(changed)), style=style)
    results.print(f"{_described(session, valid)}; {counted(progress.skipped, 'update')} skipped")
    for split in (session.valid, *session.tests):
        warning = caveat(split.name, len(split.windows))
        if warning and not any(line.startswith(f"{split.name} has ") for line in advice):
            results.print("\n".join(wrapped(warning)), style="yellow")
    for line in advice:
        results.print("\n".join(wrapped(line, first="- ", later="  ")))
    results.print(f"{seconds:.0f} s, peak memory {peak_memory() / 1e9:.2f} GB")
    results.print(f"model: {session.folder.best}")
    if session.recipe.lora.rank:
        results.print(f"adapter: {session.folder.adapter}")
