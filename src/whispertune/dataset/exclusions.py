"""Rows that are excluded from a split: before the run, and during it if their audio turns out to be damaged."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from whispertune.data.utterances import Utterance


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A row that is excluded from the run, and why."""

    split: str
    id: str
    file: str
    row: int
    reason: str


def excluded_summary(excluded: Sequence[Exclusion]) -> list[str]:
    """One line per split and kind of reason, most frequent first."""
    kinds = Counter((e.split, e.reason.split(":")[0] if "empty" in e.reason else e.reason) for e in excluded)
    return [f"{split}: {count} left out: {reason}" for (split, reason), count in kinds.most_common(5)]


class Unreadable:
    """Rows of a split whose audio could not be decoded when it was needed, although it had passed the inspection.

    They are only counted and listed here. Whether a window takes part is decided each time by decoding it, so that a
    resumed run has the same windows as one that was never stopped, and a file that was unreachable for a moment is used
    again. Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[str, Exclusion] = {}
        self._known: dict[str, Exclusion] = {}

    def __len__(self) -> int:
        """Rows known to all processes."""
        return len(self._known)

    @property
    def known(self) -> list[Exclusion]:
        """Rows known to all processes, in the order in which they were found."""
        return list(self._known.values())

    def add(self, split: str, utterance: Utterance, reason: str) -> None:
        """Record a row that this process could not decode."""
        with self._lock:
            if utterance.id not in self._known:
                found = Exclusion(split, utterance.id, utterance.source, utterance.row, reason)
                self._found.setdefault(utterance.id, found)

    def take(self) -> list[Exclusion]:
        """Return the rows recorded here since the last call."""
        with self._lock:
            found, self._found = list(self._found.values()), {}
        return found

    def learn(self, found: Iterable[Exclusion]) -> list[Exclusion]:
        """Add the rows that all processes have found; returns the new ones, in the order of their rows."""
        new = {exclusion.id: exclusion for exclusion in found if exclusion.id not in self._known}
        self._known |= new
        return sorted(new.values(), key=lambda exclusion: (exclusion.file, exclusion.row, exclusion.id))
