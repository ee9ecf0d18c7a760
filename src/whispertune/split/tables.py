"""Say what a split did: a table for people, figures for split.json, and what could not be done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from whispertune.check.figures import as_duration
from whispertune.split.division import Division, Plan
from whispertune.split.facts import SHORT
from whispertune.split.wishes import SIDES, TRAIN
from whispertune.system.console import percent
from whispertune.system.counts import counted

NOTABLE = 0.1
"""Share of its wish by which a side misses it that is worth a line."""
MOST_STRATA = 12
"""Most languages and sources shown in the second table."""


def side_figures(found: Division, plan: Plan) -> dict[str, dict[str, Any]]:
    """For each side: utterances, share, seconds (None if unknown), speakers, recordings, and what was asked for."""
    total = max(1, int((found.sides >= 0).sum()))
    figures: dict[str, dict[str, Any]] = {}
    for side in (TRAIN, *sorted(plan.wishes)):
        rows = np.flatnonzero(found.sides == side)
        seconds = float(found.seconds[rows].sum())
        speakers = found.facts.speakers[rows]
        figures[SIDES[side]] = {
            "utterances": len(rows),
            "share": round(len(rows) / total, 6),
            "seconds": None if np.isnan(seconds) else round(seconds, 2),
            "speakers": len(np.unique(speakers[speakers >= 0])),
            "recordings": len(np.unique(found.facts.recordings[rows])),
            "asked": plan.wishes[side].text if side in plan.wishes else None,
        }
    return figures


def side_table(found: Division, plan: Plan) -> Table:
    """The sides, a row each."""
    figures = side_figures(found, plan)
    table = Table(title=f"{counted(len(found.rows), 'utterance')}, divided by {plan.by}", title_justify="left")
    table.add_column("", no_wrap=True)
    for name in ("rows", "share", "asked", "duration", "recordings", "speakers"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in figures.items():
        table.add_row(
            name, f"{row['utterances']:,}", percent(row["share"]), row["asked"] or "the rest",
            "?" if row["seconds"] is None else as_duration(row["seconds"]), f"{row['recordings']:,}",
            f"{row['speakers']:,}" if row["speakers"] else "?",
        )  # fmt: skip
    if found.reasons:
        table.add_row("left out", f"{len(found.reasons):,}")
    return table


def strata_table(found: Division) -> Table | None:
    """Utterances of each language and source on each side; None if there is only one of them, or too many to show."""
    strata = found.facts.strata[: len(found.rows)]
    names = found.facts.names
    present = np.unique(strata).tolist()
    if not 1 < len(present) <= MOST_STRATA:
        return None
    table = Table(title="of each language and source", title_justify="left")
    for column in ("language", "source"):
        table.add_column(column)
    for side in SIDES:
        table.add_column(side, justify="right")
    ends = [Path(names[stratum][1]).name for stratum in present]
    for stratum, end in zip(present, ends, strict=True):
        language, source = names[stratum]
        several = len({names[each][1] for each, other in zip(present, ends, strict=True) if other == end}) > 1
        counts = np.bincount(found.sides[strata == stratum] + 1, minlength=4)[1:].tolist()
        total = max(1, sum(counts))
        cells = [f"{count:,} ({percent(count / total)})" if count else "" for count in counts]
        table.add_row(language or "?", "/".join(Path(source).parts[-2:]) if several else end, *cells)
    return table


def remarks(found: Division, plan: Plan, earlier: int, planned_otherwise: bool) -> Iterator[str]:
    """What a user should know, a line each. earlier: rows of an earlier split that was continued."""
    if planned_otherwise:
        yield "the split that was there had other options, so this one is new: utterances may have changed sides"
    elif earlier:
        new = int((found.sides >= 0).sum()) - found.num_kept
        yield f"{counted(found.num_kept, 'utterance')} kept the side of the split that was there; {new:,} are new"
    rows = len(found.rows)
    figures = side_figures(found, plan)
    for side in sorted(plan.wishes, reverse=True):
        wish, got = plan.wishes[side], figures[SIDES[side]]
        held = got["utterances"] if wish.seconds is None else got["seconds"]
        target = (
            wish.share * sum(row["utterances"] for row in figures.values()) if wish.seconds is None else wish.seconds
        )
        if abs(held - target) <= max(NOTABLE * target, 1):
            continue
        of = found.groups[:rows]
        sizes = np.bincount(of[of >= 0])
        sizes = sizes[sizes > 0]
        shown = percent(got["share"]) if wish.seconds is None else as_duration(held)
        most = counted(int(sizes.max()), "utterance")
        why = f"there are {counted(len(sizes), 'group')} of {int(sizes.min()):,} to {most}"
        why += ", and a group stays on one side" + (", and earlier ones where they were" if earlier else "")
        yield f"{SIDES[side]} holds {shown} where {wish.text} was asked for: {why}"
    speakers, sides = found.facts.speakers[:rows], found.sides
    if plan.by == "speaker" and (unnamed := int((speakers < 0).sum())):
        yield f"{counted(unnamed, 'utterance')} without a speaker: each recording of theirs counts as one"
    elif plan.by != "speaker" and (shared := _on_several(speakers, sides)):
        total = len(np.unique(speakers[speakers >= 0]))
        yield f"{shared:,} of {counted(total, 'speaker')} on more than one side; --by speaker keeps each on one"
    if plan.by == "text" and (shared := _on_several(found.facts.recordings[:rows], sides)):
        yield f"{counted(shared, 'recording')} on more than one side, as --by text allows"
    yield from _about_texts(found, plan)


def _about_texts(found: Division, plan: Plan) -> Iterator[str]:
    rows = len(found.rows)
    texts, sides = found.facts.texts[:rows], found.sides
    if found.texts == "free":
        yield "texts were not compared"
        return
    if found.texts == "apart":
        if plan.texts == "auto":
            yield (
                "repeated texts would tie too many recordings together, so they do not (--texts apart): "
                f"what is in valid or test is left out of train, but for texts of fewer than {SHORT} letters"
            )
        if shared := _on_several(texts, sides):
            yield f"{counted(shared, 'short text')} on more than one side"
        return
    counts = np.bincount(texts[texts >= 0]) if (texts >= 0).any() else np.zeros(0, np.int64)
    if repeated := int((counts > 1).sum()):
        number = int(counts[counts > 1].sum())
        yield f"{counted(repeated, 'text')} in several rows, or nearly so ({number:,} rows), each on one side"


def _on_several(numbers: np.ndarray, sides: np.ndarray) -> int:
    """How many of these numbers are on more than one side."""
    used = (numbers >= 0) & (sides >= 0)
    pairs = np.unique(np.stack([numbers[used], sides[used]], axis=1), axis=0)
    return int((np.unique(pairs[:, 0], return_counts=True)[1] > 1).sum())
