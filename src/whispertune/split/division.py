"""Divide the rows of a corpus into train, valid and test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from whispertune.check.sketches import mixed
from whispertune.data.utterances import Shared, Utterances
from whispertune.errors import AudioError, DataError
from whispertune.split.facts import SHORT, Facts, Seconds, durations, facts_of, overlapping, same_spans
from whispertune.split.groups import UNKNOWN, Groups, Sides, group_rows
from whispertune.split.sides import Sized, Sizes, choose_sides
from whispertune.split.wishes import SIDES, TEST, TRAIN, VALID, By, Texts, Wish

MOST_HEADERS = 20_000
"""Most files whose headers are read only to show hours."""
FAR_OFF = 0.5
"""Share of its wish by which a side may miss it before texts no longer tie recordings together (`texts` auto)."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked for. wishes: of each side that is wished for."""

    by: By
    texts: Texts
    seed: int
    wishes: Mapping[int, Wish]


@dataclass(frozen=True, slots=True)
class Division:
    """The n rows of a corpus, divided.

    sides: (n,) index into SIDES, -1 for those left out. reasons: why they are, by row. groups: (n,) number of each
    row's group, -1 for those left out. texts: how repeated texts were dealt with. num_kept: rows that have the side of
    an earlier split. facts: of the rows, then of the earlier split. seconds: (n,) NaN if unknown.
    """

    rows: Utterances
    sides: Sides
    reasons: dict[int, str]
    groups: np.ndarray
    texts: Texts
    num_kept: int
    facts: Facts
    seconds: Seconds


def divide(
    rows: Utterances,
    plan: Plan,
    source_name: Callable[[Shared], str],
    *,
    earlier: Sequence[tuple[int, Utterances]] = (),
    earlier_texts: Texts | None = None,
    excluded: Mapping[int, str] | None = None,
    workers: int = 2,
    advance: Callable[[int], None] = lambda _: None,
) -> Division:
    """Divide rows as planned.

    earlier: (side, rows) of the manifests of an earlier split with the same plan, whose rows keep their sides;
    earlier_texts: how it dealt with repeated texts. excluded: rows to leave out, and why.

    Raises:
        DataError: if a side cannot be filled at all, with the reason and what to do.
        AudioError: for a recording that cannot be read, if a duration is asked for.
    """
    in_seconds = any(wish.seconds is not None for wish in plan.wishes.values())
    seconds = durations(rows, workers, most_files=None if in_seconds else MOST_HEADERS)
    if in_seconds:
        _require_known(rows, seconds)
    facts = facts_of(
        [rows, *(those for _, those in earlier)], source_name, plan.seed, compare_texts=plan.texts != "free",
        advance=advance,
    )  # fmt: skip
    known = np.full(len(facts.draws), UNKNOWN, np.int8)
    known[len(rows) :] = np.repeat([side for side, _ in earlier], [len(those) for _, those in earlier])
    if earlier:
        spans = same_spans(facts)
        side_of = np.full(int(spans.max(initial=0)) + 1, UNKNOWN, np.int8)
        np.maximum.at(side_of, spans, known)  # test before valid before train
        known = side_of[spans]
    if plan.by == "speaker" and (facts.speakers[: len(rows)] < 0).all():
        raise DataError(
            "--by speaker: no row names its speaker (columns speaker, client_id); --by recording does not ask"
        )
    modes: list[Texts] = ["together", "apart"] if plan.texts == "auto" else [plan.texts]
    if earlier_texts is not None or plan.by == "text":
        modes = [earlier_texts or "together"]
    excluded = excluded or {}
    best = _divided(rows, facts, known, plan, modes[0], seconds, excluded)
    if best[0] > FAR_OFF and modes[1:]:
        best = min(best, _divided(rows, facts, known, plan, modes[1], seconds, excluded), key=lambda found: found[0])
    _, sides, groups, mode, reasons = best
    _require_all(plan, sides, facts, groups)
    kept = int(((known[: len(rows)] == sides) & (sides >= 0)).sum())
    return Division(rows, sides, reasons, groups.of[: len(rows)], mode, kept, facts, seconds)


def _divided(
    rows: Utterances,
    facts: Facts,
    known: Sides,
    plan: Plan,
    mode: Texts,
    seconds: Seconds,
    excluded: Mapping[int, str],
) -> tuple[float, Sides, Groups, Texts, dict[int, str]]:
    """How far the worst side is from its wish (a share of it); sides, groups, the mode, and why rows are left out."""
    ties = {"span": overlapping(facts)} if plan.by == "text" else {"recording": facts.recordings}
    gone = np.isin(np.arange(len(known)), list(excluded))  # they tie nothing together
    if plan.by == "speaker":
        ties["speaker"] = np.where(gone, -1, facts.speakers)
    if mode == "together":
        ties["text"] = np.where(gone, -1, facts.texts)
    groups = group_rows(ties, known, facts.draws)
    groups.of[gone] = -1
    of, num_groups = groups.of[: len(rows)], len(groups.sides)
    usable = of >= 0
    counts: Sizes = np.bincount(of[usable], minlength=num_groups).astype(np.float64)
    present = np.flatnonzero(counts)
    sums = np.bincount(of[usable], np.nan_to_num(seconds[usable]), minlength=num_groups).astype(np.float64)
    draws = np.full(num_groups, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(draws, of[usable], facts.draws[: len(rows)][usable])
    draws = mixed(draws)  # as they are, large groups would come first
    strata = _main_strata(of[usable], facts.strata[: len(rows)][usable], num_groups)
    sized = Sized(counts[present], sums[present], strata[present], draws[present], groups.sides[present])
    chosen = np.full(num_groups + 1, UNKNOWN, np.int8)
    chosen[present] = choose_sides(sized, plan.wishes)
    sides = chosen[of]  # the last one for rows of no group
    reasons = {row: reason for row, reason in groups.reasons.items() if row < len(rows)} | dict(excluded)
    if mode == "apart":
        reasons |= _leave_out_repeats(sides, facts)
    misses = [
        abs(float(sized.sizes(wish)[chosen[present] == side].sum()) / (sized.target(wish) or 1.0) - 1.0)
        for side, wish in plan.wishes.items()
    ]
    if not all((sides == side).any() for side in (TRAIN, *plan.wishes)):
        misses.append(np.inf)
    return max(misses), sides, groups, mode, reasons


def _main_strata(groups: np.ndarray, strata: np.ndarray, num_groups: int) -> np.ndarray:
    """(num_groups,) the stratum of most of a group's rows."""
    pairs, counts = np.unique(np.stack([groups, strata], axis=1), axis=0, return_counts=True)
    order = np.lexsort((-pairs[:, 1], counts, pairs[:, 0]))
    found = np.zeros(num_groups, np.int64)
    found[pairs[order, 0]] = pairs[order, 1]  # the last one counts
    return found


def _leave_out_repeats(sides: Sides, facts: Facts) -> dict[int, str]:
    """Leave rows out of train whose text is in valid or test, and of valid if it is in test; says why, by row."""
    texts = np.where(facts.letters[: len(sides)] < SHORT, -1, facts.texts[: len(sides)])
    held = np.zeros((1 + int(texts.max(initial=0)), len(SIDES)), np.bool_)
    used = (texts >= 0) & (sides >= 0)
    held[texts[used], sides[used]] = True
    reasons: dict[int, str] = {}
    for side, others in ((TRAIN, (TEST, VALID)), (VALID, (TEST,))):
        for other in others:
            repeated = np.flatnonzero(used & (sides == side) & held[texts, other])
            reasons |= dict.fromkeys(
                repeated.tolist(), f"of {SIDES[side]}: (nearly) the same text is in {SIDES[other]}"
            )
            sides[repeated] = UNKNOWN
    return reasons


def _require_known(rows: Utterances, seconds: Seconds) -> None:
    unknown = np.flatnonzero(np.isnan(seconds))
    if len(unknown):
        row = rows[int(unknown[0])]
        raise AudioError(
            f"{row.source}, row {row.row}: {row.audio} cannot be read, so its duration is unknown; see whispertune "
            "check, or ask for shares instead of hours"
        )


def _require_all(plan: Plan, sides: Sides, facts: Facts, groups: Groups) -> None:
    """Raise DataError if a side that is wished for, or train, has no rows."""
    wanted = [TRAIN, *sorted(plan.wishes)]
    if all((sides == side).any() for side in wanted):
        return
    n = len(sides)
    of = groups.of[:n]
    what = {"speaker": facts.speakers, "recording": facts.recordings, "text": facts.texts}[plan.by][:n]
    number = len(np.unique(what[what >= 0]))
    groups_there = len(np.unique(of[of >= 0]))
    named = " and ".join(SIDES[side] for side in wanted)
    few = f"only one {plan.by}" if number == 1 else f"{number} {plan.by}s"
    tied = f", tied together by the same recordings or texts into {groups_there}" if groups_there < number else ""
    remedies = {
        "speaker": "--by recording lets a speaker be on several sides",
        "recording": "--by text divides recordings as well, at the bounds of utterances",
        "text": "record more, or ask for fewer sides (--test 0)",
    }
    if groups_there < number and plan.by != "text":
        remedy = "--texts apart leaves repeated texts out of train instead"
    else:
        remedy = remedies[plan.by]
    raise DataError(
        f"--by {plan.by}: there {'is' if number == 1 else 'are'} {few}{tied}, too few for {named}; {remedy}"
    )
