"""Utterances: spans of audio files and what is said in them, a million of them in a few hundred megabytes."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np


class Segment(NamedTuple):
    """What is said from `start` to `end` (seconds from the start of what it is a part of)."""

    start: float
    end: float
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Utterance:
    """A span of an audio file and what is said in it."""

    id: str
    audio: Path
    text: str
    """As written, surrounding white space removed; "" if the row has none."""
    start: float = 0.0
    """Seconds."""
    end: float | None = None
    """Seconds; None is the end of the file."""
    language: str | None = None
    task: str | None = None
    speaker: str | None = None
    prompt: str | None = None
    channel: int | None = None
    """The channel to take, from 0; None takes the mean of all."""
    within: tuple[int, int] | None = None
    """Where `audio` holds more than this recording (a tar): its first byte and its number of bytes."""
    weight: float = 1.0
    """How much more often than others it is drawn in training."""
    source: str = ""
    """The manifest."""
    row: int = 0
    """The line in the manifest where the row starts, as an editor counts (a CSV's header is line 1)."""
    segments: tuple[Segment, ...] = ()
    """What it was joined from (`data.merge_segments`), in the order of time; columns (below) do not hold it."""


class Shared(NamedTuple):
    """What many utterances have in common."""

    folder: str
    source: str
    language: str | None
    task: str | None
    speaker: str | None
    prompt: str | None
    channel: int | None
    weight: float


class Brief(NamedTuple):
    """What tells whether an utterance can be used."""

    audio: str
    within: tuple[int, int] | None
    start: float
    end: float | None
    text: str
    language: str | None
    task: str | None
    prompt: str | None
    weight: float


class Utterances(Sequence[Utterance]):
    """Utterances in the order they were added, kept in columns; each is made when it is asked for.

    fingerprint: sha256 of what they were read from.
    """

    def __init__(self, utterances: Iterable[Utterance] = ()) -> None:
        self.fingerprint = ""
        self._texts = bytearray()  # id, file name and text of each, a NUL between and the next one's behind
        self._text_ends = array("q")
        self._shared: list[Shared] = []
        self._numbers: dict[Shared, int] = {}
        self._kinds = array("i")  # of each utterance, the index into _shared
        self._starts, self._ends, self._rows = array("d"), array("d"), array("q")
        self._places: dict[int, tuple[int, int]] = {}
        self.begin_source()
        for utterance in utterances:
            self.append(utterance)

    def begin_source(self, *, prefix: str = "", language: str | None = None, weight: float = 1.0) -> None:
        """What holds for the rows that are added from now on: before each id, and where a row names none."""
        self._prefix, self._language, self._weight = prefix, language, weight

    def append(self, utterance: Utterance) -> None:
        """Add one."""
        self.add(
            id=utterance.id, audio=str(utterance.audio), text=utterance.text, start=utterance.start,
            end=utterance.end, language=utterance.language, task=utterance.task, speaker=utterance.speaker,
            prompt=utterance.prompt, channel=utterance.channel, within=utterance.within,
            weight=utterance.weight, source=utterance.source, row=utterance.row,
        )  # fmt: skip

    def add(
        self,
        *,
        id: str,
        audio: str,
        text: str,
        source: str,
        row: int,
        start: float = 0.0,
        end: float | None = None,
        language: str | None = None,
        task: str | None = None,
        speaker: str | None = None,
        prompt: str | None = None,
        channel: int | None = None,
        within: tuple[int, int] | None = None,
        weight: float | None = None,
    ) -> None:
        """Add the utterance with these fields; `audio` is a path."""
        folder, slash, name = audio.rpartition("/")
        shared = Shared(
            folder + slash, source, language or self._language, task, speaker, prompt, channel,
            self._weight if weight is None else weight,
        )  # fmt: skip
        number = self._numbers.get(shared)
        if number is None:
            number = self._numbers[shared] = len(self._shared)
            self._shared.append(shared)
        if within is not None:
            self._places[len(self._kinds)] = within
        self._kinds.append(number)
        # File names may hold bytes that are not UTF-8, which Python keeps as lone surrogates.
        self._texts += f"{self._prefix}{id}\0{name}\0{text}".encode("utf-8", "surrogateescape")
        self._text_ends.append(len(self._texts))
        self._starts.append(start)
        self._ends.append(-1.0 if end is None else end)
        self._rows.append(row)

    def _strings(self, index: int) -> list[str]:
        """Id, file name and text."""
        begin = self._text_ends[index - 1] if index else 0
        return self._texts[begin : self._text_ends[index]].decode("utf-8", "surrogateescape").split("\0", 2)

    def shared(self, index: int) -> Shared:
        """What an utterance has in common with others."""
        return self._shared[self._kinds[index]]

    def brief(self, index: int) -> Brief:
        """What a look at the headers needs, quicker than a whole utterance."""
        shared, end = self._shared[self._kinds[index]], self._ends[index]
        _, name, text = self._strings(index)
        return Brief(
            shared.folder + name, self._places.get(index), self._starts[index], None if end < 0 else end,
            text, shared.language, shared.task, shared.prompt, shared.weight,
        )  # fmt: skip

    def _at(self, index: int) -> Utterance:
        shared, end = self._shared[self._kinds[index]], self._ends[index]
        id_, name, text = self._strings(index)
        return Utterance(
            id=id_,
            audio=Path(shared.folder + name),
            text=text,
            start=self._starts[index],
            end=None if end < 0 else end,
            language=shared.language,
            task=shared.task,
            speaker=shared.speaker,
            prompt=shared.prompt,
            channel=shared.channel,
            within=self._places.get(index),
            weight=shared.weight,
            source=shared.source,
            row=self._rows[index],
        )

    @overload
    def __getitem__(self, index: int) -> Utterance: ...

    @overload
    def __getitem__(self, index: slice) -> list[Utterance]: ...

    def __getitem__(self, index: int | slice) -> Utterance | list[Utterance]:
        if isinstance(index, slice):
            return [self._at(i) for i in range(len(self))[index]]
        return self._at(range(len(self))[index])

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Utterance]:
        return map(self._at, range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(ours == theirs for ours, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    @property
    def inside_archives(self) -> bool:
        """Whether any recording is a part of a larger file, such as a tar."""
        return bool(self._places)

    @property
    def weights(self) -> set[float]:
        """All weights that occur."""
        return {shared.weight for shared in self._shared}

    def repeated_id(self) -> tuple[int, int] | None:
        """The first two utterances with the same id; None if all differ."""
        ids = (self._strings(index)[0] for index in range(len(self)))
        hashes = np.fromiter((hash(id_) for id_ in ids), np.int64, len(self))
        ordered = np.sort(hashes)
        suspects = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
        if not suspects:
            return None
        first: dict[str, int] = {}
        for index in np.flatnonzero(np.isin(hashes, list(suspects))).tolist():
            earlier = first.setdefault(self._strings(index)[0], index)
            if earlier != index:
                return earlier, index
        return None

    def digest(self) -> str:
        """sha256 over everything but where the files lie."""
        found = hashlib.sha256(self._texts)
        for numbers in (self._text_ends, self._kinds, self._starts, self._ends):
            found.update(numbers.tobytes())
        shared = [(*kind[2:],) for kind in self._shared]
        found.update(repr((shared, sorted(self._places.items()))).encode("utf-8", "backslashreplace"))
        return found.hexdigest()
