"""Join neighbouring segments of a recording into longer utterances that keep the time of each segment."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias, overload

import numpy as np
import numpy.typing as npt

from whispertune.data.utterances import Shared, TimedText, Utterance, Utterances

LONGEST_GAP = 2.0
"""Longest pause in seconds between joined segments; a longer gap may hold speech that was not transcribed."""


class JoinedSegments(Sequence[Utterance]):
    """Utterances made of consecutive rows, joined on access.

    rows: the segments. begins: (n + 1,) index of the first segment of each utterance, and the number of segments.
    leads: (n,) seconds of the pause before each utterance that are included in it.
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
        """The values that segments share; those of one utterance differ in the speaker at most."""
        return self._rows.kinds

    @property
    def kind_numbers(self) -> npt.NDArray[np.int32]:
        """(n,) index into `kinds` of each utterance's first segment."""
        return self._rows.kind_numbers[np.asarray(self._begins[:-1], np.int64)]

    def strings(self, rows: range) -> tuple[list[str], list[str], list[str]]:
        """Ids, paths and texts of many utterances."""
        found = [self._at(index) for index in rows]
        return [row.id for row in found], [str(row.audio) for row in found], [row.text for row in found]

    def spans(self, rows: range) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Starts and ends in seconds; an end of -1 is the end of the file."""
        chosen = np.asarray(rows, np.int64)
        begins = np.asarray(self._begins, np.int64)
        starts, ends = self._rows.spans(range(len(self._rows)))
        return starts[begins[chosen]] - np.asarray(self._leads)[chosen], ends[begins[chosen + 1] - 1]

    def place(self, index: int) -> tuple[str, tuple[int, int] | None]:
        """The file of a recording, and its offset and number of bytes there if it is only a part of the file."""
        return self._rows.place(self._begins[index])

    def withins(self, rows: range) -> list[tuple[int, int] | None]:
        """Offset and number of bytes of each recording in its file; None where it is the whole file."""
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
"""The rows of a split, as read or joined."""


def merge_segments(utterances: Utterances, longest: float, usable: Callable[[Utterance], bool]) -> JoinedSegments:
    """Join each segment with those that follow it in the same recording, up to `longest` seconds.

    Segments are joined in order of time, over pauses of at most 2 s, within one language, task and channel, and while
    the joined text is `usable` (in dense scripts it soon has too many tokens). A joined utterance has the first one's
    id and the number of segments joined to it, as in `talk#3.0-5.0+2`. A segment whose text is not `usable` is never
    joined, so that it can be excluded without leaving its speech in an utterance that lacks its words.

    Half of a short pause before a joined utterance is included in it, as far as there is room; otherwise a model
    trained with timestamps would learn that speech always begins at 0.00.
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
    """Seconds of silence between two utterances; 0 if they overlap or untranscribed speech may lie between them."""
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
    """Whether two utterances share recording, channel, language and task."""
    return all(getattr(a, name) == getattr(b, name) for name in ("audio", "within", "channel", "language", "task"))
