"""Rows that are left out of a split: before a run, and those whose audio proves to be damaged while it is under way."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from whispertune.data.utterances import Utterance


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A row that is left out of the run, and why."""

    split: str
    id: str
    file: str
    row: int
    reason: str


def excluded_summary(excluded: Sequence[Exclusion]) -> list[str]:
    """One line for each split and kind of reason, most frequent first."""
    kinds = Counter((e.split, e.reason.split(":")[0] if "empty" in e.reason else e.reason) for e in excluded)
    return [f"{split}: {count} left out: {reason}" for (split, reason), count in kinds.most_common(5)]


class Unreadable:
    """Rows of one split whose audio could not be decoded when it was needed, though it had passed the look before.

    It serves to count and to list them. Whether a window takes part is not decided here but by its own decoding, each
    time anew: so a resumed run meets the same windows as one that was never stopped, and a file that was out of reach
    for a moment only is used again. Safe to use from several threads.
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
        """Rows known to all processes, in the order in which they were met."""
        return list(self._known.values())

    def add(self, split: str, utterance: Utterance, reason: str) -> None:
        """One was met here."""
        with self._lock:
            if utterance.id not in self._known:
                found = Exclusion(split, utterance.id, utterance.source, utterance.row, reason)
                self._found.setdefault(utterance.id, found)

    def take(self) -> list[Exclusion]:
        """Those met here since the last time."""
        with self._lock:
            found, self._found = list(self._found.values()), {}
        return found

    def learn(self, found: Iterable[Exclusion]) -> list[Exclusion]:
        """Take note of what all processes have met; those that are new, in the order of their rows."""
        new = {exclusion.id: exclusion for exclusion in found if exclusion.id not in self._known}
        self._known |= new
        return sorted(new.values(), key=lambda exclusion: (exclusion.file, exclusion.row, exclusion.id))
