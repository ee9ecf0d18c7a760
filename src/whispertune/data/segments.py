"""Neighbouring segments of one recording, joined into longer utterances that remember when each was said."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias, overload

import numpy as np
import numpy.typing as npt

from whispertune.data.utterances import Shared, TimedText, Utterance, Utterances

LONGEST_GAP = 2.0
"""Seconds of pause over which segments are still joined: what is said in a longer gap may have been left out."""


class JoinedSegments(Sequence[Utterance]):
    """Utterances made of rows in a row; each is joined when it is asked for.

    rows: the segments; begins: the first one of each utterance, and their number at the end; leads: seconds of the
    pause before a joined one that belong to it.
    """

    def __init__(self, rows: Utterances, begins: array[int], leads: array[float]) -> None:
        self._rows = rows
        self._begins = begins
        self._leads = leads
        self.fingerprint = rows.fingerprint
        self.has_segments = True

    def _at(self, index: int) -> Utterance:
        members = self._rows[self._begins[index] : self._begins[index + 1]]
        first = members[0]
        if len(members) == 1:
            return first
        start = first.start - self._leads[index]
        return replace(
            first,
            start=start,
            id=f"{first.id}+{len(members) - 1}",
            end=members[-1].end,
            text=" ".join(member.text for member in members if member.text),
            speaker=first.speaker if len({member.speaker for member in members}) == 1 else None,
            segments=tuple(
                TimedText(m.start - start + begin, m.start - start + end, text)
                for m in members
                for begin, end, text in m.segments or (TimedText(0.0, (m.end or 0.0) - m.start, m.text),)
            ),
        )

    @property
    def kinds(self) -> list[Shared]:
        """Everything that segments have in common; those of one utterance agree in all but the speaker."""
        return self._rows.kinds

    @property
    def kind_numbers(self) -> npt.NDArray[np.int32]:
        """(n,): the place in `kinds` of each utterance's first segment."""
        return self._rows.kind_numbers[np.asarray(self._begins[:-1], np.int64)]

    def strings(self, rows: range) -> tuple[list[str], list[str], list[str]]:
        """Ids, paths and texts of many utterances."""
        found = [self._at(index) for index in rows]
        return [row.id for row in found], [str(row.audio) for row in found], [row.text for row in found]

    def spans(self, rows: range) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Starts and ends in seconds; an end of -1 is that of the file."""
        chosen = np.asarray(rows, np.int64)
        begins = np.asarray(self._begins, np.int64)
        starts, ends = self._rows.spans(range(len(self._rows)))
        return starts[begins[chosen]] - np.asarray(self._leads)[chosen], ends[begins[chosen + 1] - 1]

    def place(self, index: int) -> tuple[str, tuple[int, int] | None]:
        """The file of a recording, and the bytes of it that hold it, if it is not the whole."""
        return self._rows.place(self._begins[index])

    def withins(self, rows: range) -> list[tuple[int, int] | None]:
        """The bytes of their files that hold recordings, where these are not the whole."""
        return [self._rows.within(self._begins[index]) for index in rows]

    @overload
    def __getitem__(self, index: int) -> Utterance: ...

    @overload
    def __getitem__(self, index: slice) -> list[Utterance]: ...

    def __getitem__(self, index: int | slice) -> Utterance | list[Utterance]:
        if isinstance(index, slice):
            return [self._at(i) for i in range(len(self))[index]]
        return self._at(range(len(self))[index])

    def __len__(self) -> int:
        return len(self._begins) - 1

    def __iter__(self) -> Iterator[Utterance]:
        return map(self._at, range(len(self)))


Rows: TypeAlias = Utterances | JoinedSegments
"""The rows of a split, as they are or joined."""


def merge_segments(utterances: Utterances, longest: float, usable: Callable[[Utterance], bool]) -> JoinedSegments:
    """Join each segment with those that follow it in the same recording, as long as it lasts `longest` seconds.

    Only in the order of time, over pauses of at most 2 s, within one language, task and channel, and as long as the
    joined text is `usable` (in dense scripts it soon has too many tokens). A joined utterance keeps the first one's id,
    with the number of those joined to it behind, as in `talk#3.0-5.0+2`. One whose text is not `usable` stays alone, to
    be left out alone: joined, its speech would be there and its words not.

    Where the pause before it is as short, half of that belongs to it as far as there is room: else a model trained with
    timestamps would learn that speech begins at 0.00.
    """
    begins, leads = array("q"), array("d")
    first: Utterance | None = None
    last: Utterance | None = None
    last_usable = False
    text, pause = "", 0.0

    def finish() -> None:
        if first is not None and last is not None:
            joined = last is not first and last.end is not None
            leads.append(min(pause / 2, longest - ((last.end or 0.0) - first.start)) if joined else 0.0)

    for number, utterance in enumerate(utterances):
        is_usable = usable(utterance)
        alone = not (is_usable and last_usable)
        text = " ".join(filter(None, (text, utterance.text)))
        if (
            alone
            or first is None
            or last is None
            or not _continues(first, last, utterance, longest)
            or not usable(replace(first, text=text))
        ):
            finish()
            pause = 0.0 if last is None else _pause_between(last, utterance)
            begins.append(number)
            first, text = utterance, utterance.text
        last, last_usable = utterance, is_usable
    finish()
    begins.append(len(utterances))
    return JoinedSegments(utterances, begins, leads)


def _pause_between(last: Utterance, new: Utterance) -> float:
    """Seconds of a pause in which nothing was left out; 0 where there is none, or it may have been."""
    if last.end is None or not same_recording(last, new):
        return 0.0
    pause = new.start - last.end
    return pause if 0 <= pause <= LONGEST_GAP else 0.0


def _continues(first: Utterance, last: Utterance, new: Utterance, longest: float) -> bool:
    if last.end is None or new.end is None or new.prompt is not None:
        return False
    if not 0 <= new.start - last.end <= LONGEST_GAP or new.end - first.start > longest:
        return False
    return same_recording(first, new) and first.weight == new.weight


def same_recording(a: Utterance, b: Utterance) -> bool:
    """Whether two utterances are said in one recording and channel, in one language and for one task."""
    return all(getattr(a, name) == getattr(b, name) for name in ("audio", "within", "channel", "language", "task"))
