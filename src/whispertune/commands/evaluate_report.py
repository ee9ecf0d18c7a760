"""The output of `whispertune evaluate`: error rates, kinds of errors, the clips with most errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from whispertune.evaluation.error_rates import CorpusScore, Counted, ErrorCounts, UtteranceScore, alignment, total
from whispertune.evaluation.evaluate import Evaluation
from whispertune.evaluation.glossary import GlossaryRecall
from whispertune.evaluation.groups import group_summary, mean_rate
from whispertune.evaluation.significance import FEWEST_UTTERANCES, MatchedPairs
from whispertune.system.console import percent, printable, results
from whispertune.system.counts import counted

WORST = 3
"""Clips that are shown."""
MISSED = 8
"""Terms of the glossary that are shown."""
SHOWN = 200
"""Characters of an alignment."""
RATES: dict[str, Counted] = {
    "WER, normalised": "words",
    "CER, normalised": "characters",
    "WER, raw": "words_raw",
    "CER, raw": "characters_raw",
}


def error_summary(found: Evaluation, recall: GlossaryRecall | None = None) -> dict[str, Any]:
    """For summary.json: the kinds of word errors, normalised, how many outputs repeat themselves, rates by source and
    language where there are several, and the recall of the glossary's terms."""
    words = found.score.total("words")
    return {
        "substitutions": words.substitutions,
        "deletions": words.deletions,
        "insertions": words.insertions,
        "words": words.num_reference,
        "loops": len(found.repeating),
        **{f"by_{key}": group_summary(groups) for key, groups in found.groups.items()},
        **({} if recall is None else {"glossary": recall.summary()}),
    }


def comparison_summary(
    baseline: Evaluation, difference: MatchedPairs, recall: GlossaryRecall | None = None
) -> dict[str, Any]:
    """For summary.json: the baseline, and the leading rate's difference from it (95 %)."""
    return {
        "baseline": {"model": baseline.name, **baseline.summary(), **error_summary(baseline, recall)},
        "difference": {"rate": baseline.score.leading_name.lower(), **difference.summary()},
    }


def print_report(
    data: str,
    frames: str,
    found: Evaluation,
    baseline: Evaluation | None = None,
    difference: MatchedPairs | None = None,
    recalls: Sequence[GlossaryRecall] = (),
) -> None:
    """Print the figures, in at most 80 columns except for names. difference: model minus baseline. recalls: of the
    glossary's terms, by the model and the baseline."""
    search = "greedy" if found.beam_size == 1 else f"beam {found.beam_size}"
    count = len(found.hypotheses)
    results.print(f"{printable(found.name)} on {printable(data)}: {counted(count, 'utterance')}, {search}, {frames}")
    both = [found] if baseline is None else [found, baseline]
    if baseline is not None:
        results.print(f"baseline: {printable(baseline.name)}, decoded in the same way")
    results.print(_table(both))
    if count < FEWEST_UTTERANCES:
        results.print(
            f"{counted(count, 'utterance')}: too few for these intervals to mean much; test on at least "
            f"{FEWEST_UTTERANCES}"
        )
    if difference is not None:
        results.print(_describe(found.score, difference))
    for key in found.groups:
        results.print(_groups_table(both, key))
    for line in _glossary(recalls):
        results.print(line)
    for evaluation in both:
        for line in _errors(evaluation, "" if len(both) == 1 else "model, " if evaluation is found else "baseline, "):
            results.print(line)
    for line in _worst(found):
        results.print(line)


def _table(evaluations: list[Evaluation]) -> Table:
    over = evaluations[0].score.intervals_over
    table = Table(title=f"with 95 % intervals, by a bootstrap over {over}", title_justify="left")
    table.add_column("")
    for heading in ("model", "baseline")[: len(evaluations)]:
        table.add_column(heading, justify="right", no_wrap=True)
    leading, rates = evaluations[0].score.leading_name, RATES
    if leading == "CER":
        rates = {name: RATES[name] for name in ("CER, normalised", "WER, normalised", "CER, raw", "WER, raw")}
    elif leading == "MER":
        rates = {"MER, normalised": "leading", **RATES}
    for name, unit in rates.items():
        table.add_row(name, *(evaluation.score.rate_with_interval(unit) for evaluation in evaluations))
    table.add_row("loss, nats a token", *(f"{evaluation.loss:.3f}" for evaluation in evaluations))
    table.add_row("seconds", *(f"{evaluation.seconds:.1f}" for evaluation in evaluations))
    return table


def _groups_table(evaluations: list[Evaluation], key: str) -> Table:
    """The leading rates of each source or language, and their mean."""
    groups = [evaluation.groups[key] for evaluation in evaluations]
    name = evaluations[0].score.leading_name
    table = Table(title=f"{name} by {key}, with 95 % intervals", title_justify="left")
    table.add_column(key)
    table.add_column("clips", justify="right", no_wrap=True)
    for heading in ("model", "baseline")[: len(evaluations)]:
        table.add_column(heading, justify="right", no_wrap=True)
    for group, score in groups[0].items():
        others = [scores[group] for scores in groups[1:]]
        rates = [other.rate_with_interval() for other in (score, *others)]
        table.add_row(printable(group), str(len(score.utterances)), *rates)
    table.add_row(f"mean of {len(groups[0])}", "", *(percent(mean_rate(scores)) for scores in groups))
    return table


def _glossary(recalls: Sequence[GlossaryRecall]) -> list[str]:
    """The recall of the glossary's terms, and those that the model misses most."""
    if not recalls:
        return []
    found = recalls[0]
    if not found.occurrences:
        return [f"glossary: no term occurs in the transcripts ({counted(len(found.terms), 'term')})"]
    lines = []
    for of, recall in zip(("", "baseline, "), recalls, strict=False):
        low, high = recall.interval
        lines.append(
            f"{of}glossary: {recall.recognised} of {counted(recall.occurrences, 'occurrence')} recognised, recall "
            f"{percent(recall.recall)} ({100 * low:.1f} to {100 * high:.1f}); {recall.false} written where not said"
        )
    if missed := found.least_recognised():
        shown = ", ".join(f"{count.term} ({count.recognised} of {count.occurrences})" for count in missed[:MISSED])
        lines.append(f"missed: {printable(shown)}" + (", …" if len(missed) > MISSED else ""))
    if absent := found.absent:
        lines.append(f"in no transcript: {len(absent)} of {counted(len(found.terms), 'term')}")
    return lines


def _describe(score: CorpusScore, difference: MatchedPairs) -> str:
    verdict = "not conclusive"
    if difference.significant:
        verdict = "better than the baseline" if difference.high < 0 else "worse than the baseline"
    name, over = score.leading_name, "" if score.groups is None else " over speakers"
    change = f"{100 * difference.difference:+.1f} points (95 %: {difference.bounds()}, matched pairs{over})"
    return f"{name} differs by {change}: {verdict}"


def _errors(found: Evaluation, of: str) -> list[str]:
    """The kinds of errors, and the share of loops in them."""
    scores, name = found.score.utterances, found.score.leading_name
    unit = {"WER": "words", "CER": "characters"}.get(name, "words or characters")
    counts = found.score.total()
    lines = [
        f"{of}{name}: {counted(counts.substitutions, 'substitution')}, {counted(counts.deletions, 'deletion')}, "
        f"{counted(counts.insertions, 'insertion')}, in {counts.num_reference:,} {unit}"
    ]
    if looping := found.repeating:
        errors = sum(scores[place].leading.errors for place in looping)
        others = total(score.leading for place, score in enumerate(scores) if place not in set(looping))
        ids = ", ".join(scores[place].id for place in looping[:WORST]) + (", …" if len(looping) > WORST else "")
        lines.append(
            f"{of}loops: {counted(len(looping), 'output')} with repetitions, {errors} of the "
            f"{counted(counts.errors, 'error')} ({name} of the others: {percent(others.rate)}): {printable(ids)}"
        )
    if found.capped:
        lines.append(f"{of}stopped at the most tokens that the decoder has room for: {counted(found.capped, 'output')}")
    return lines


def _worst(found: Evaluation) -> list[str]:
    """The clips with most errors, each aligned with its reference."""
    scores = [score for score in found.score.utterances if score.leading.errors]
    scores.sort(key=lambda score: (-score.leading.errors, -score.leading.rate))
    lines = ["the clips with most errors, [reference → output]:"] if scores else []
    for score in scores[:WORST]:
        lines.append(f"  {printable(score.id)}: {_kinds(score)}")
        text = printable(_aligned(score))
        lines.append("    " + (text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"))
    return lines


def _kinds(score: UtteranceScore) -> str:
    counts: ErrorCounts = score.leading
    kinds = {"substituted": counts.substitutions, "deleted": counts.deletions, "inserted": counts.insertions}
    said = ", ".join(f"{number} {kind}" for kind, number in kinds.items() if number)
    return f"{percent(counts.rate)}, {said}"


def _aligned(score: UtteranceScore) -> str:
    if score.leads_with_cer:  # no words to align: show both texts
        return f"[{score.reference_normalized} → {score.hypothesis_normalized}]"
    return alignment(score.reference_normalized, score.hypothesis_normalized)
