"""What a run came to: the model that is kept, the files of the test, the table at the end."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.table import Table

from whispertune.checkpoints.checkpoint import load_checkpoint
from whispertune.evaluation.evaluate import Evaluation
from whispertune.evaluation.significance import PairedBootstrap, caveat, paired_bootstrap
from whispertune.run.next_step import evaluation_commands
from whispertune.run.session import Session
from whispertune.run.stages import save_best
from whispertune.system.console import console, peak_memory_gb, percent, results
from whispertune.system.files import read_jsonl, write_jsonl, write_text
from whispertune.training.resume import Progress
from whispertune.training.run_folder import BEST


def choose_best(session: Session, progress: Progress) -> PairedBootstrap:
    """Put the baseline into best/ if it is better than the best epoch beyond chance (95 %, paired bootstrap)."""
    baseline = read_jsonl(session.folder.validation(0))
    best = read_jsonl(session.folder.validation(progress.best_step))
    # A file may have become unreadable between the two.
    in_both = {row["id"] for row in baseline} & {row["id"] for row in best}
    baseline, best = ([row for row in rows if row["id"] in in_both] for rows in (baseline, best))
    by = ["character" if row["leads_with_cer"] else "word" for row in baseline]
    comparison = paired_bootstrap(
        [row[f"{unit}_errors"] for unit, row in zip(by, baseline, strict=True)],
        [row[f"{unit}_errors"] for unit, row in zip(by, best, strict=True)],
        [row[f"{unit}s"] for unit, row in zip(by, baseline, strict=True)],
    )
    if comparison.difference > 0:
        console.print(
            f"fine-tuning made it worse: the valid error rate rose by {100 * comparison.difference:.1f} points "
            f"(95 %: {100 * comparison.low:.1f} to {100 * comparison.high:.1f}; {comparison.verdict()}); try a lower "
            "schedule.peak_lr",
            style="bold red",
        )
    if comparison.low > 0:
        console.print("best/ now holds the untouched model")
        save_best(session, progress, load_checkpoint(session.recipe.model).weights, 0)
        progress.best_step = progress.best_epoch = 0
        progress.kept[BEST] = session.folder.best_digest()
    return comparison


def record_test(session: Session, progress: Progress, evaluations: Sequence[Evaluation]) -> None:
    """Write the test rows of metrics.jsonl, test/hypotheses.jsonl (best model, widest search) and summary.json."""
    folder = session.folder
    summary = {}
    for found in evaluations:
        best = found.name == "best"
        folder.append_metrics(
            {
                "step": progress.best_step if best else 0,
                "epoch": progress.best_epoch if best else 0,
                "split": "test",
                "model": found.name,
                "frames": "dense",
                **found.summary(),
            }
        )
        summary[f"{found.name}_{'greedy' if found.beam_size == 1 else 'beam'}"] = found.summary()
    chosen = evaluations[-1]
    hypotheses, figures = folder.test / "hypotheses.jsonl", folder.test / "summary.json"
    content = {**chosen.summary(), "model": chosen.name, "frames": "dense", "all": summary}
    progress.kept[folder.name_of(hypotheses)] = write_jsonl(hypotheses, chosen.rows())
    progress.kept[folder.name_of(figures)] = write_text(figures, json.dumps(content, indent=2) + "\n")


def report(
    session: Session,
    progress: Progress,
    evaluations: Sequence[Evaluation],
    comparison: PairedBootstrap,
    seconds: float,
) -> None:
    """The table at the end of a run."""
    rows = read_jsonl(session.folder.metrics)
    valid = [row for row in rows if row.get("split") == "valid"]
    before = valid[0]
    after = next(row for row in reversed(valid) if row["step"] == progress.best_step)
    table = Table(title="untouched against fine-tuned, normalised", title_justify="left")
    rates = ("CER", "WER") if before["leading"] == "CER" else ("WER", "CER")
    for heading in ("split", "search", "frames"):
        table.add_column(heading)
    for rate in rates:
        table.add_column(f"{rate} before", justify="right")
        table.add_column(f"{rate} after", justify="right")

    def add(split: str, search: str, frames: str, old: dict[str, float], new: dict[str, float]) -> None:
        figures = [percent(side[rate.lower()]) for rate in rates for side in (old, new)]
        table.add_row(split, search, frames, *figures)

    add("valid", "greedy", session.frames.selection, before, after)
    half = len(evaluations) // 2
    for old, new in zip(evaluations[:half], evaluations[half:], strict=True):
        search = "greedy" if old.beam_size == 1 else f"beam {old.beam_size}"
        add("test", search, "dense", old.summary(), new.summary())
    results.print(table)
    if evaluations:  # two rates of one model that are not alike
        results.print(
            "greedy takes the likeliest token each time, beam keeps several outputs side by side; thinned leaves out "
            "most of the silence, as training does; dense computes all of it, as the model will be used"
        )
    for found in evaluations:
        if found.capped:
            results.print(f"{found.name}, beam {found.beam_size}: {found.capped} ran into the most tokens (loops)")
    change, low, high = (100 * value for value in (comparison.difference, comparison.low, comparison.high))
    results.print(
        f"valid {before['leading']} changed by {change:+.1f} points (95 %: {low:+.1f} to {high:+.1f}), "
        f"{comparison.verdict()}, at epoch {progress.best_epoch}, the best of {session.recipe.epochs}; "
        f"{progress.skipped} updates skipped"
    )
    for split in (session.valid, session.test):
        if split is not None and (warning := caveat(split.name, len(split.windows))):
            results.print(warning, style="yellow")
    results.print(f"{seconds:.0f} s, peak memory {peak_memory_gb():.2f} GB")
    results.print(f"model: {session.folder.best}")
    for command in evaluation_commands(session.recipe):
        results.print(f"next:  {command}")
