"""Windows of several utterances, stitched with pauses."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from whispertune.augment.pipeline import generator_for
from whispertune.data.utterances import Utterance
from whispertune.dataset.options import WindowOptions
from whispertune.dataset.transcripts import TextSettings
from whispertune.dataset.windows import TIMESTAMP_TOKENS, Window, drawn, samples_of
from whispertune.features.log_mel import WINDOW_SAMPLES
from whispertune.system.lazy import Lazy
from whispertune.text.languages import WRITTEN_WITHOUT_SPACES
from whispertune.text.targets import Target

LONGEST_LEAD = 1.0
"""Most seconds of silence before the first utterance of a window with timestamps. Whisper's decoding allows no later
start, and a model that has only seen 0.00 there would always predict it."""
AUTO_SHARE = 0.15
"""`stitched_share: auto` if the rows are segments: enough to retain timestamps and long-form transcription
(docs/experiments.md)."""


class StitchedWindows(Lazy[Window]):
    """Stitched windows in columns, as there may be a million; each is made on access.

    firsts: the index of each window's first utterance. total_samples, timestamps: those of the windows.
    """

    def __init__(self, utterances: Sequence[Utterance], num_samples: Sequence[int]) -> None:
        super().__init__(0, self._at)
        self._utterances, self._num_samples = utterances, num_samples
        self._numbers, self._ends, self._members, self._pauses = array("q"), array("q", [0]), array("q"), array("d")
        self.total_samples, self.timestamps = array("q"), bytearray()

    def add(self, number: int, members: Sequence[int], pauses: Sequence[float], *, timestamps: bool) -> None:
        """Add a window of these utterances. pauses: before each."""
        self._numbers.append(number)
        self._members.extend(members)
        self._pauses.extend(pauses)
        self._ends.append(len(self._members))
        self.timestamps.append(timestamps)
        self.total_samples.append(sum(self._num_samples[i] for i in members) + sum(map(samples_of, pauses)))
        self._size += 1

    def remove_last(self) -> None:
        """Remove the window that was added last."""
        for column in (self._numbers, self._ends, self.timestamps, self.total_samples):
            column.pop()
        del self._members[self._ends[-1] :], self._pauses[self._ends[-1] :]
        self._size -= 1

    @property
    def firsts(self) -> list[int]:
        return [self._members[begin] for begin in self._ends[:-1]]

    def _at(self, place: int) -> Window:
        part = slice(self._ends[place], self._ends[place + 1])
        members, (lead, *pauses) = self._members[part], self._pauses[part]
        utterances = tuple(self._utterances[index] for index in members)
        lengths = tuple(self._num_samples[index] for index in members)
        name, timestamps = f"stitched-{self._numbers[place]}", bool(self.timestamps[place])
        return Window(name, utterances, tuple(pauses), lead, lengths, timestamps)


def stitched_windows(
    utterances: Sequence[Utterance],
    num_samples: Sequence[int],
    num_tokens: Sequence[int],
    options: WindowOptions,
    seed: int,
    *,
    max_tokens: int,
    most_tokens: Callable[[Utterance], int] | None = None,
    alike: Sequence[int] | None = None,
    fits: Callable[[Window], bool] = lambda window: True,
) -> StitchedWindows:
    """Windows of several utterances, making up `stitched_share` of all windows.

    num_samples, num_tokens: of each utterance. A window's first utterance is drawn from all, the others from those of
    its language, task and weight, without repetition, within 30 s and `max_tokens` of text and timestamps. A window
    with fewer than `min_utterances` is dropped (long recordings cannot be stitched). The caller resolves a share of
    `auto`; here it counts as 0.

    For millions of utterances: most_tokens returns an upper bound of `num_tokens` that is known sooner, and `alike`
    numbers those of one language, task and weight. Where the bounds do not suffice, `fits` has the last word.
    """
    share = 0.0 if options.stitched_share == "auto" else options.stitched_share
    windows = StitchedWindows(utterances, num_samples)
    wanted = round(len(utterances) * share / (1 - share))
    if not wanted:
        return windows
    groups = np.asarray(_numbered([(u.language, u.task, u.weight) for u in utterances]) if alike is None else alike)
    order, ends = np.argsort(groups, kind="stable"), np.cumsum(np.bincount(groups))
    generator = np.random.default_rng((seed, 0x57174))
    for number in range(wanted):
        target = int(generator.integers(options.min_utterances, options.max_utterances + 1))
        name = f"stitched-{number}"
        timestamps = drawn(options.timestamps, seed, f"{name}/timestamps")
        lead = _drawn_lead(options, seed, name) if timestamps else 0.0
        chosen: list[int] = []
        pauses: list[float] = []
        samples, bound, marks = samples_of(lead), 0, 0
        start = int(generator.integers(len(utterances)))
        group = groups[start]
        others = order[ends[group - 1] if group else 0 : ends[group]]
        draws = others[generator.integers(len(others), size=4 * target - 1)].tolist()
        for index in (start, *draws):
            pause = float(generator.uniform(options.min_pause, options.max_pause)) if chosen else 0.0
            new_samples = samples + num_samples[index]
            if new_samples > WINDOW_SAMPLES or index in chosen:
                continue
            new_samples += samples_of(pause)
            if new_samples > WINDOW_SAMPLES:
                continue
            row = utterances[index]
            new_marks = TIMESTAMP_TOKENS * max(1, len(row.segments)) if timestamps else 0
            new_bound = bound + (most_tokens(row) if most_tokens else num_tokens[index]) + new_marks
            if new_bound > max_tokens and (
                sum(num_tokens[i] for i in (*chosen, index)) + marks + new_marks > max_tokens
            ):
                continue
            samples, bound, marks = new_samples, new_bound, marks + new_marks
            chosen.append(index)
            pauses.append(pause)
            if len(chosen) == target:
                break
        if len(chosen) >= options.min_utterances:
            windows.add(number, chosen, [lead, *pauses[1:]], timestamps=timestamps)
            if bound > max_tokens and not fits(windows[-1]):
                windows.remove_last()
    return windows


def stitched_rows(
    singles: Sequence[Window],
    num_samples: Sequence[int],
    targets: Sequence[Target],
    kind_numbers: Callable[[], npt.NDArray[np.int32]],
    options: WindowOptions,
    text: TextSettings,
    seed: int,
) -> StitchedWindows:
    """`stitched_windows` of a split's rows. kind_numbers: returns a number for each row; those with one number differ
    neither in language, task and weight nor in their prompt."""
    if not options.stitched_share:
        return StitchedWindows((), ())
    kinds = kind_numbers()
    present, firsts = np.unique(kinds, return_index=True)
    rows = [singles[index].utterances[0] for index in firsts.tolist()]
    longest_prompt = max((len(text.prompt(singles[index])) for index in firsts.tolist()), default=0)
    # Where texts begin without a space, the space between two of them takes one more token (rarely two).
    written = [text.written_in(text.language_of(row), row.task) in WRITTEN_WITHOUT_SPACES for row in rows]
    spaces, alike = np.zeros((2, present[-1] + 1 if len(present) else 0), np.int32)
    spaces[present], alike[present] = written, _numbered([(row.language, row.task, row.weight) for row in rows])
    tokens = Lazy(len(singles), lambda i: len(targets[i].input_ids) - targets[i].prompt_length + int(spaces[kinds[i]]))
    return stitched_windows(
        Lazy(len(singles), lambda i: singles[i].utterances[0]), num_samples, tokens, options, seed,
        max_tokens=text.max_tokens - longest_prompt - 1, alike=alike[kinds],
        # A token has at least one byte, and a space may come before the first.
        most_tokens=lambda row: len(row.text.encode("utf-8", "replace")) + 2,
        fits=lambda w: text.surely_fits(w.text) or len(text.target(w).input_ids) <= text.max_tokens,
    )  # fmt: skip


def _numbered(keys: Sequence[tuple[object, ...]]) -> list[int]:
    """The same number for equal keys, in order of their first."""
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return [numbers[key] for key in keys]


def _drawn_lead(options: WindowOptions, seed: int, name: str) -> float:
    longest = min(options.max_pause, LONGEST_LEAD)
    return float(generator_for(seed, 0, f"{name}/lead").uniform(0, longest))
