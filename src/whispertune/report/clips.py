"""The utterances on a page: those with most errors, those that changed most, those with the lowest confidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from whispertune.check.players import PLAYED_SECONDS, Players
from whispertune.data.utterances import Utterance
from whispertune.report.before_after import leading_counts
from whispertune.report.error_analysis import Aligned
from whispertune.report.runs import Row, repeats

MOST_CLIPS = 300
"""Most utterances on a page; up to this number all are shown."""
MOST_PLAYERS = 40
MOST_AUDIO_BYTES = 5_000_000
"""Total size of all players on a page: ten minutes of speech and more."""
MOST_SECONDS = 200.0
"""Total duration of all players: encoding it as MP3 takes a second or two."""
MOST_UNITS = 150
"""Most words or characters of an alignment that are shown."""


@dataclass(frozen=True, slots=True)
class Side:
    """One model's output: its errors, and the alignment as (kind, reference, output) texts."""

    label: str
    errors: int
    pieces: list[tuple[str, str, str]]
    cut: bool


@dataclass(frozen=True, slots=True)
class Clip:
    """An utterance on the page. address: its audio as a data URL. sides: before and after, or one for each run.

    order: the sort key of each way of sorting; the largest comes first.
    """

    id: str
    reference: str
    language: str
    about: str
    length: int
    unit: str
    sides: list[Side]
    address: str | None
    order: dict[str, float]


SORTED_BY = {
    "errors": "most errors",
    "worse": "got worse",
    "better": "got better",
    "unsure": "least confident",
    "longest": "longest",
}
"""Ways to sort clips of one run, and what they are called."""


def orders(before: Row, after: Row) -> dict[str, float]:
    """The sort keys of an utterance."""
    old, new = leading_counts(before)[0], leading_counts(after)[0]
    found = {"errors": float(new), "worse": float(new - old), "better": float(old - new)}
    if "confidence" in after:
        found["unsure"] = -float(after["confidence"])
    if "duration" in after:
        found["longest"] = float(after["duration"])
    return found


def chosen_places(keys: Sequence[Mapping[str, float]], most: int = MOST_CLIPS) -> list[int]:
    """Places of the utterances to show, those with most errors first: all, or the first ones in each order."""
    every = range(len(keys))
    by_errors = sorted(every, key=lambda place: -keys[place]["errors"])
    if len(keys) <= most:
        return by_errors
    names = _ranking_orders(keys)
    taken: set[int] = set()
    for name in names:
        ranked = sorted(every, key=lambda place: -keys[place].get(name, 0.0))
        taken.update(ranked[: most // len(names)])
    return [place for place in by_errors if place in taken]


def _ranking_orders(keys: Sequence[Mapping[str, float]]) -> list[str]:
    """The orders whose first utterances are worth showing."""
    return [name for name in keys[0] if name != "longest"] if keys else []


def audio_addresses(
    places: Sequence[int], keys: Sequence[Mapping[str, float]], utterance: Callable[[int], Utterance | None]
) -> dict[int, str]:
    """Audio addresses of the utterances that come first in some order, as far as the page has room."""
    ranked = [sorted(places, key=lambda place: -keys[place].get(name, 0.0)) for name in _ranking_orders(keys)]
    turns = [place for turn in zip(*ranked, strict=True) for place in turn]
    players, found, left = Players(MOST_AUDIO_BYTES), {}, MOST_SECONDS
    for place in list(dict.fromkeys(turns))[:MOST_PLAYERS]:
        row = utterance(place)
        if row is not None and left > 0 and (address := players.address(row)) is not None:
            found[place] = address
            left -= min(keys[place].get("longest", PLAYED_SECONDS), PLAYED_SECONDS)
    return found


def side(label: str, row: Row, aligned: Aligned) -> Side:
    """One model's output for the page."""
    pieces, left = [], MOST_UNITS
    joint = "" if aligned.spaceless else " "
    for piece in aligned.pieces:
        if left <= 0:
            break
        pieces.append((piece.kind, joint.join(piece.reference[:left]), joint.join(piece.hypothesis[:left])))
        left -= max(len(piece.reference), len(piece.hypothesis))
    return Side(label, leading_counts(row)[0], pieces, left < 0)


def about(row: Row) -> str:
    """A line with what is known about an utterance."""
    known = []
    if "duration" in row:
        known.append(f"{row['duration']:.1f} s")
    if row.get("speaker"):
        known.append(f"speaker {row['speaker']}")
    if "confidence" in row:
        known.append(f"confidence {100 * row['confidence']:.0f} %")
    if repeats(row):
        known.append("repeats itself")
    elif not row.get("ended", True):
        known.append("reached the limit of tokens")
    return ", ".join(known)


def clip(row: Row, sides: list[Side], address: str | None, order: dict[str, float], known: str) -> Clip:
    """An utterance for the page: row: of one of its outputs; known: the line about it."""
    return Clip(
        row["id"], row["reference"], str(row.get("language") or ""), known, leading_counts(row)[1],
        "characters" if row.get("leads_with_cer") else "words", sides, address, order,
    )  # fmt: skip


def clips_of(
    pairs: Sequence[tuple[Row, Row]],
    aligned: tuple[Sequence[Aligned], Sequence[Aligned]],
    utterances: Mapping[str, Utterance],
) -> list[Clip]:
    """The clips of one run's page, before beside after."""
    keys = [orders(*pair) for pair in pairs]
    places = chosen_places(keys)
    audio = audio_addresses(places, keys, lambda place: utterances.get(pairs[place][1]["id"]))
    made = []
    for place in places:
        before, after = pairs[place]
        sides = [side("before", before, aligned[0][place]), side("after", after, aligned[1][place])]
        made.append(clip(after, sides, audio.get(place), keys[place], about(after)))
    return made
