"""Utterances: spans of audio files and their transcripts, stored compactly (a million in a few hundred megabytes)."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from whispertune.data.reading import Reading
from whispertune.data.remote import as_path
from whispertune.data.timed_text import TimedText as TimedText
from whispertune.data.timed_text import parse_times, plain_text, write_times
from whispertune.errors import ManifestError


@dataclass(frozen=True, kw_only=True, slots=True)
class Utterance:
    """A span of an audio file and its transcript."""

    id: str
    audio: Path
    text: str
    """As written, without surrounding white space and timestamp tokens (`timed_text`); "" if the row has none."""
    start: float = 0.0
    """Seconds."""
    end: float | None = None
    """Seconds; None is the end of the file."""
    language: str | None = None
    task: str | None = None
    speaker: str | None = None
    prompt: str | None = None
    channel: int | None = None
    """The channel to use, from 0; None is the mean of all."""
    within: tuple[int, int] | None = None
    """Offset and number of bytes of this recording, where `audio` holds more than one (a tar)."""
    weight: float = 1.0
    """Sampling weight in training."""
    source: str = ""
    """The manifest."""
    row: int = 0
    """The line in the manifest where the row starts, from 1 (a CSV's header is line 1)."""
    segments: tuple[TimedText, ...] = ()
    """The segments it was joined from (`data.merge_segments`) or that its timestamp tokens mark, in order of time."""
    transcript: str | None = None
    """The text as the source has it, where the rules of `text.*` changed it."""


class Shared(NamedTuple):
    """Values that many utterances share."""

    folder: str
    source: str
    language: str | None
    task: str | None
    speaker: str | None
    prompt: str | None
    channel: int | None
    weight: float


Kind = tuple[str, str | None, str | None, str | None, str | None]
"""Folder (with a trailing slash), language, task, speaker and prompt, as a row of a manifest gives them."""


class Utterances(Sequence[Utterance]):
    """Utterances in the order they were added, stored as columns; each object is made on access.

    fingerprint: sha256 of what they were read from. follows_from_files: whether paths depend on which files exist.
    readings: reading options of each source, by its path. faults: those of skipped rows; None: readers raise them.
    """

    def __init__(self, utterances: Iterable[Utterance] = (), *, faults: list[ManifestError] | None = None) -> None:
        self.fingerprint, self.faults, self.follows_from_files = "", faults, False
        self.readings: dict[str, Reading] = {}
        self._texts = bytearray()  # id, file name and text of each, each terminated by a NUL
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
        """Set the id prefix, default language and weight of the rows that are added from now on."""
        self._prefix, self._language, self._weight = prefix, language, weight
        self._known: dict[str, dict[Kind, int]] = {}  # for each manifest, a fast lookup of the index

    def report(self, fault: ManifestError) -> None:
        """Append the fault of a row that is skipped; raise it if faults are not collected."""
        if self.faults is None:
            raise fault
        self.faults.append(fault)

    def append(self, one: Utterance) -> None:
        """Add an utterance."""
        self.add(
            id=one.id, audio=str(one.audio), text=write_times(one.segments) or one.text, start=one.start, end=one.end,
            language=one.language, task=one.task, speaker=one.speaker, prompt=one.prompt, channel=one.channel,
            within=one.within, weight=one.weight, source=one.source, row=one.row,
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
        if within is not None:
            self._places[len(self._kinds)] = within
        self._kinds.append(self._number(shared))
        # File names may hold bytes that are not UTF-8, which Python keeps as lone surrogates.
        self._texts += f"{self._prefix}{id}\0{name}\0{text}\0".encode("utf-8", "surrogateescape")
        self._text_ends.append(len(self._texts))
        self._starts.append(start)
        self._ends.append(-1.0 if end is None else end)
        self._rows.append(row)

    def add_all(
        self,
        *,
        ids: Sequence[str],
        names: Sequence[str],
        texts: Sequence[str],
        source: str,
        rows: Sequence[int],
        starts: Sequence[float],
        ends: Sequence[float],
        kinds: Sequence[Kind],
    ) -> None:
        """`add` for many rows at once, none of which holds a NUL.

        names: of files, without their folder. ends: -1 is the end of the file.
        """
        known = self._known.setdefault(source, {})
        for kind in [kind for kind in dict.fromkeys(kinds) if kind not in known]:
            folder, language, task, speaker, prompt = kind
            known[kind] = self._number(
                Shared(folder, source, language or self._language, task, speaker, prompt, None, self._weight)
            )
        self._kinds.extend(map(known.__getitem__, kinds))
        if self._prefix:
            ids = [self._prefix + id_ for id_ in ids]
        strings = chain.from_iterable(zip(ids, names, texts, strict=True))
        encoded = ("\0".join(strings) + "\0").encode("utf-8", "surrogateescape")
        ends_of_texts = np.flatnonzero(np.frombuffer(encoded, np.uint8) == 0)[2::3] + 1
        self._text_ends.frombytes((ends_of_texts + len(self._texts)).astype(np.int64).tobytes())
        self._texts += encoded
        self._starts.extend(starts)
        self._ends.extend(ends)
        self._rows.extend(rows)

    def _number(self, shared: Shared) -> int:
        number = self._numbers.setdefault(shared, len(self._shared))
        if number == len(self._shared):
            self._shared.append(shared)
        return number

    def _strings(self, index: int) -> list[str]:
        """Id, file name and text."""
        begin = self._text_ends[index - 1] if index else 0
        return self._texts[begin : self._text_ends[index] - 1].decode("utf-8", "surrogateescape").split("\0", 2)

    def strings(self, rows: range) -> tuple[list[str], list[str], list[str]]:
        """Ids, paths and texts of many rows; faster than one by one."""
        if not rows:
            return [], [], []
        begin = self._text_ends[rows[0] - 1] if rows[0] else 0
        part = self._texts[begin : self._text_ends[rows[-1]]]
        fields = part.decode("utf-8", "surrogateescape").split("\0")
        if len(fields) != 3 * (rows[-1] - rows[0] + 1) + 1:  # a text that the caller made holds a NUL
            fields = [field for row in range(rows[0], rows[-1] + 1) for field in self._strings(row)]
        if b"<|" in part:
            fields[2::3] = map(plain_text, fields[2::3])
        step = 3 * rows.step
        ids, names, texts = (fields[field : 3 * (rows[-1] - rows[0] + 1) : step] for field in range(3))
        folders = map(self._shared.__getitem__, self._kinds[rows[0] : rows[-1] + 1 : rows.step])
        return ids, [shared.folder + name for shared, name in zip(folders, names, strict=True)], texts

    @property
    def has_segments(self) -> bool:
        """Whether texts may hold timestamp tokens."""
        return b"<|" in self._texts

    @property
    def kinds(self) -> list[Shared]:
        """The distinct combinations of values that utterances share."""
        return self._shared

    @property
    def kind_numbers(self) -> npt.NDArray[np.int32]:
        """(n,) index into `kinds` of each utterance."""
        return np.array(self._kinds, np.int32)

    def spans(self, rows: range) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Starts and ends in seconds; an end of -1 is the end of the file."""
        part = slice(rows.start, rows.stop, rows.step)
        return np.array(self._starts[part]), np.array(self._ends[part])

    def numbers(self, rows: range) -> list[int]:
        """Rows of their manifests that utterances start in."""
        return self._rows[rows.start : rows.stop : rows.step].tolist()

    def place(self, index: int) -> tuple[str, tuple[int, int] | None]:
        """The file of a recording, and its `within`."""
        return self._shared[self._kinds[index]].folder + self._strings(index)[1], self._places.get(index)

    def origin(self, index: int) -> tuple[str, str, int]:
        """Id, manifest and row of an utterance."""
        return self._strings(index)[0], self._shared[self._kinds[index]].source, self._rows[index]

    def within(self, index: int) -> tuple[int, int] | None:
        """Offset and number of bytes of a recording in its file; None if it is the whole file."""
        return self._places.get(index)

    def withins(self, rows: range) -> list[tuple[int, int] | None]:
        """`within` of many rows."""
        return list(map(self._places.get, rows)) if self._places else [None] * len(rows)

    def _at(self, index: int) -> Utterance:
        shared, end = self._shared[self._kinds[index]], self._ends[index]
        id_, name, text = self._strings(index)
        text, segments = parse_times(text)
        return Utterance(
            id=id_, audio=as_path(shared.folder + name), text=text, start=self._starts[index],
            end=None if end < 0 else end, language=shared.language, task=shared.task, speaker=shared.speaker,
            prompt=None if shared.prompt is None else plain_text(shared.prompt), channel=shared.channel,
            within=self._places.get(index), weight=shared.weight, source=shared.source, row=self._rows[index],
            segments=segments,
        )  # fmt: skip

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
        """The distinct sampling weights."""
        return {shared.weight for shared in self._shared}

    def repeated_id(self) -> tuple[int, int] | None:
        """The first two utterances with the same id; None if all differ."""
        return next(self.repeated_ids(), None)

    def repeated_ids(self) -> Iterator[tuple[int, int]]:
        """Index pairs (first utterance with an id, one that repeats it), in order of the latter."""
        begins = (0, *self._text_ends[:-1])
        with memoryview(self._texts) as view:
            find = self._texts.find
            ids = (bytes(view[begin : find(0, begin)]) for begin in begins)
            hashes = np.fromiter((hash(id_) for id_ in ids), np.int64, len(self))
        ordered = np.sort(hashes)
        suspects = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
        first: dict[str, int] = {}
        for index in np.flatnonzero(np.isin(hashes, list(suspects))).tolist():
            earlier = first.setdefault(self._strings(index)[0], index)
            if earlier != index:
                yield earlier, index

    def digest(self) -> str:
        """sha256 of everything but the folders of the files."""
        found = hashlib.sha256(self._texts)
        for numbers in (self._text_ends, self._kinds, self._starts, self._ends):
            found.update(numbers.tobytes())
        shared = [(*kind[2:],) for kind in self._shared]
        found.update(repr((shared, sorted(self._places.items()))).encode("utf-8", "backslashreplace"))
        return found.hexdigest()

    def columns(self) -> dict[str, npt.NDArray[Any]]:
        """All columns as arrays; the inverse of `from_columns`."""
        shared = json.dumps([list(kind) for kind in self._shared]).encode()
        places = [[index, *place] for index, place in self._places.items()]
        return {
            "texts": np.frombuffer(self._texts, np.uint8),
            "text_ends": np.frombuffer(self._text_ends, np.int64),
            "kinds": np.frombuffer(self._kinds, np.int32),
            "starts": np.frombuffer(self._starts, np.float64),
            "ends": np.frombuffer(self._ends, np.float64),
            "rows": np.frombuffer(self._rows, np.int64),
            "shared": np.frombuffer(shared, np.uint8),
            "places": np.array(places, np.int64).reshape(len(places), 3),
        }

    @classmethod
    def from_columns(cls, columns: dict[str, npt.NDArray[Any]]) -> Utterances:
        """Utterances from `columns`, each of which is taken out as it is copied: together they may take a gigabyte."""
        made = cls()
        made._texts = bytearray(columns.pop("texts").data)
        for name, numbers in (
            ("text_ends", made._text_ends), ("kinds", made._kinds), ("starts", made._starts),
            ("ends", made._ends), ("rows", made._rows),
        ):  # fmt: skip
            numbers.frombytes(columns.pop(name).tobytes())
        for kind in json.loads(columns["shared"].tobytes()):
            made._number(Shared(*kind))
        made._places = {index: (first, size) for index, first, size in columns["places"].tolist()}
        return made
