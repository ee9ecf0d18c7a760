"""Sentences about a run: the one at the top of its page, and what to do next, both derived from the figures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from whispertune.evaluation.significance import MatchedPairs
from whispertune.report.before_after import BeforeAfter, leading_counts
from whispertune.report.error_analysis import Aligned, total_counts
from whispertune.report.runs import Row, Run, repeats
from whispertune.system.console import percent
from whispertune.system.counts import counted

RATES = {"WER": "word error rate", "CER": "character error rate", "MER": "error rate"}
OVERFITTED = 0.02
"""Relative rise of the error rate after the best validation from which a run counts as overfitted."""
GENERALISES = 1.5
"""Ratio of valid loss to training loss above which more training data is the best advice."""
SUSPICIOUS = 0.5
"""Error rate above which a transcript is suspicious if both models write the same other text."""
MOST_SUSPECTS = 5
FORGOTTEN = (
    ": the model lost some of this. A lower schedule.peak_lr or fewer epochs help, and so does training on data of "
    "this kind as well (--train 'A + B [weight=0.2]')"
)


def opening(run: Run, found: BeforeAfter | None) -> str:
    """The sentence at the top of the page, for readers without any background."""
    if found is None:
        if run.baseline is not None:
            rate = RATES[run.baseline["leading"]]
            return (
                f"The run has not been validated since training began; the pretrained model's {rate} is "
                f"{percent(run.baseline['leading_rate'])}."
            )
        if run.chosen is not None:
            return (
                "The pretrained model's validation is missing from metrics.jsonl, so there is nothing to compare with; "
                f"the fine-tuned model's {RATES[run.chosen['leading']]} is {percent(run.chosen['leading_rate'])}."
            )
        return "The run has not been validated yet, so there are no results."
    where = "unseen recording" if found.pair.split == "test" else "validation recording"
    rate, count = RATES[found.rate], counted(found.utterances, where)
    from_to = f"from {percent(found.before)} to {percent(found.after)}"
    subject = "So far, fine-tuning has" if run.finished is False else "Fine-tuning"
    if found.before == found.after:
        text = f"{subject} left the {rate} on {count} at {percent(found.after)}"
    else:
        text = f"{subject} {'cut' if found.change < 0 else 'raised'} the {rate} on {count} {from_to}"
    return f"{text}{_certainty(found)}."


def _certainty(found: BeforeAfter) -> str:
    test = found.test
    if test is None:
        return ""
    if found.before == found.after and test.p == 1.0:
        return ""
    if test.significant:
        return f"; the difference is statistically significant ({chance(test.p)})"
    text = f"; with {counted(found.utterances, 'utterance')} this is not yet conclusive and may be chance"
    if found.by_speaker:
        text = f"; with {found.speakers} speakers this is not yet conclusive and may be chance"
    if (seconds := found.more_seconds()) is not None:
        kind = "speech from more speakers" if found.by_speaker else f"{found.pair.split} speech"
        text += f"; about {more_time(seconds)} of {kind} would be enough to confirm a difference of this size"
    return text


def chance(p: float) -> str:
    """`p = 0.012`, `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def points(change: float) -> str:
    """A change of a rate, a fraction, as percentage points: `−1.2`."""
    return f"{100 * change:+.1f}".replace("-", "−")


def bounds(test: MatchedPairs) -> str:
    """The interval of a change, in points."""
    if not (math.isfinite(test.low) and math.isfinite(test.high)):
        return "no bounds: too little data"
    return f"{points(test.low)} to {points(test.high)}"


def more_time(seconds: float) -> str:
    """`20 more minutes`, `3 more hours`: rounded up, as it is an estimate."""
    if seconds < 90:
        return f"{max(10, 10 * math.ceil(seconds / 10))} more seconds"
    if seconds < 100 * 60:
        minutes = math.ceil(seconds / 60)
        return f"{minutes if minutes < 10 else 5 * math.ceil(minutes / 5)} more minutes"
    return f"{math.ceil(seconds / 3600)} more hours"


def suspects(pairs: Sequence[tuple[Row, Row]], aligned: tuple[Sequence[Aligned], Sequence[Aligned]]) -> list[str]:
    """Ids of clips for which both models write the same, but not the transcript: it may be wrong."""
    found = []
    for place, (_, after) in enumerate(pairs):
        errors, length = leading_counts(after)
        if length and errors >= 2 and errors / length >= SUSPICIOUS and aligned[0][place] == aligned[1][place]:
            found.append((errors / length, str(after["id"])))
    return [id_ for _, id_ in sorted(found, key=lambda entry: -entry[0])]


def advice(
    run: Run,
    found: BeforeAfter | None,
    results: Sequence[BeforeAfter],
    pairs: Sequence[tuple[Row, Row]],
    aligned: tuple[Sequence[Aligned], Sequence[Aligned]],
) -> list[str]:
    """What to do next, with the figures behind each piece of advice."""
    if run.finished is False:
        return ["The run has not finished: if it has stopped, resume it (the command is at the end of this page)."]
    lines = list(_of_training(run, found))
    for other in results:
        if other.pair.split in run.recipe.also_tests and other.test is not None and other.test.low > 0:
            lines.append(
                f"On {other.pair.split} the {RATES[other.rate]} rose from {percent(other.before)} to "
                f"{percent(other.after)}{FORGOTTEN}."
            )
    if found is not None:
        if found.few:
            lines.append(
                f"{found.pair.split} has {counted(found.utterances, 'utterance')}: with fewer than 30 the "
                "intervals are unreliable. Transcribe more test data before you choose between models."
            )
        if found.speakers > 0 and not found.by_speaker:
            named = "one speaker" if found.speakers == 1 else f"{found.speakers} speakers"
            lines.append(
                f"{found.pair.split} has {named}: the figures hold for these voices and say little about others. A "
                "difference can be significant by speaker only with six speakers or more."
            )
    lines += _of_errors(pairs, aligned)
    return lines or ["These figures show nothing that needs to be changed."]


def _of_training(run: Run, found: BeforeAfter | None) -> list[str]:
    lines = []
    trained = [row for row in run.valid if row.get("model") != "baseline"]
    chosen = run.chosen
    if run.kept_pretrained:
        lines.append(
            "Fine-tuning made the model significantly worse, so best/ holds the pretrained one: try a lower "
            "schedule.peak_lr, and check the data with whispertune check."
        )
    elif found is not None and found.change > 0:
        lines.append("The error rate rose: try a lower schedule.peak_lr, and check the data with whispertune check.")
    if chosen is not None and len(trained) > 1 and not run.kept_pretrained:
        last = trained[-1]
        rose = last["leading_rate"] - chosen["leading_rate"]
        if last is chosen and run.recipe.max_steps is None:
            lines.append(
                f"The last validation (epoch {last['epoch']}) was the best one: more epochs may help "
                f"(--epochs {2 * run.recipe.epochs})."
            )
        elif rose > OVERFITTED * chosen["leading_rate"] and last.get("loss", 0) > chosen.get("loss", 0):
            lines.append(
                f"After update {chosen['step']} valid {chosen['leading']} rose again, from "
                f"{percent(chosen['leading_rate'])} to {percent(last['leading_rate'])}, and the valid loss from "
                f"{chosen['loss']:.2f} to {last['loss']:.2f}: the run overfits. Fewer epochs are enough; more "
                "training data would help."
            )
    if run.recipe.freeze == "encoder" and not run.recipe.lora.rank and not run.kept_pretrained:
        lines.append(
            "The encoder was frozen. Training its upper layers as well (--freeze auto --epochs 2) takes about as long "
            "as four epochs with a frozen one and, on two languages, made 15 % fewer errors."
        )
    losses = [row["loss"] for row in run.updates if row.get("loss") is not None]
    if chosen is not None and len(losses) >= 20 and chosen.get("loss") is not None:
        final = fmean(losses[-max(10, len(losses) // 10) :])
        if final > 0 and chosen["loss"] > GENERALISES * final:
            lines.append(
                f"The training loss ended at {final:.2f} while the valid loss is {chosen['loss']:.2f}: the model fits "
                "its training clips much better than new ones. More training data, from more speakers, would help most."
            )
    skipped = sum(bool(row.get("skipped")) for row in run.updates)
    if skipped:
        lines.append(
            f"Of {counted(len(run.updates), 'update')}, {skipped:,} {'was' if skipped == 1 else 'were'} skipped, "
            "because of gradients that were not finite: lower schedule.peak_lr, or try --precision fp32."
        )
    if run.excluded:
        reason, _ = Counter(str(row.get("reason")) for row in run.excluded).most_common(1)[0]
        rows = "row was" if len(run.excluded) == 1 else "rows were"
        most = "because: " if len(run.excluded) == 1 else "most often because: "
        lines.append(f"{len(run.excluded):,} {rows} excluded, {most}{reason}. See Data below.")
    return lines


def _of_errors(
    pairs: Sequence[tuple[Row, Row]], aligned: tuple[Sequence[Aligned], Sequence[Aligned]]
) -> list[str]:  # fmt: skip
    lines = []
    if ids := suspects(pairs, aligned):
        named = ", ".join(ids[:MOST_SUSPECTS]) + (", …" if len(ids) > MOST_SUSPECTS else "")
        these = "this transcript" if len(ids) == 1 else f"these {len(ids)} transcripts"
        lines.append(f"Check {these} first, because both models write the same other text: {named}.")
    loops = sum(repeats(after) or not after.get("ended", True) for _, after in pairs)
    if loops:
        they = "1 output repeats itself or does" if loops == 1 else f"{loops} outputs repeat themselves or do"
        lines.append(f"{they} not end. Silence, or audio much longer than its text, often causes this.")
    counts = total_counts(aligned[1])
    units = {"characters" if after.get("leads_with_cer") else "words" for _, after in pairs}
    unit = " or ".join(sorted(units, reverse=True))
    if counts.errors >= 10 and counts.deletions > 0.6 * counts.errors:
        lines.append(
            f"{counts.deletions} of {counts.errors} errors are missing {unit}: look for transcripts that contain more "
            "than is said, and for speech that is very quiet or cut off."
        )
    if counts.errors >= 10 and counts.insertions > 0.6 * counts.errors:
        lines.append(
            f"{counts.insertions} of {counts.errors} errors are additional {unit}: look for transcripts that omit "
            "something, and for clips with long silences."
        )
    return lines
