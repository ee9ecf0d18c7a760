"""From manifests to the windows of a split; every utterance is inspected before compute is spent on it."""

from __future__ import annotations

from array import array
from collections.abc import Callable, MutableSequence, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from unicodedata import unidata_version

import numpy as np
import numpy.typing as npt

from whispertune.augment.pipeline import WaveformAugmenter
from whispertune.data import timed_text
from whispertune.data.index import index_files, index_verdicts, indexed_files, indexed_verdicts, sources_of
from whispertune.data.marked import MarkedRows
from whispertune.data.options import DataOptions as DataOptions
from whispertune.data.segments import JoinedSegments, Rows, merge_segments, same_recording
from whispertune.data.utterances import Utterance, Utterances
from whispertune.dataset import transcripts
from whispertune.dataset.exclusions import Exclusion, Unreadable
from whispertune.dataset.inspection import Cached, Inspection, decode_rows, plain_languages, read_headers
from whispertune.dataset.options import WindowOptions
from whispertune.dataset.stitching import AUTO_SHARE, stitched_rows
from whispertune.dataset.transcripts import TextSettings
from whispertune.dataset.windows import (
    UtteranceError,
    Window,
    augmented_num_samples,
    drawn,
    single_windows,
    window_waveform,
    with_previous_texts,
)
from whispertune.errors import DataError
from whispertune.features.log_mel import SAMPLE_RATE
from whispertune.system.counts import counted
from whispertune.system.lazy import Lazy
from whispertune.system.processes import ALONE, Processes
from whispertune.text import normalizer, rules, targets
from whispertune.text.targets import Target

MOST_DECODED = 20_000
"""Largest number of rows of which `data.check_audio: auto` decodes every one."""
JUDGING: tuple[ModuleType, ...] = (transcripts, targets, normalizer, rules, timed_text)
"""The modules that decide whether a text can be a target; their results are cached in the index."""
MOST_INSPECTED = 20_000
"""Most rows that are read to distinguish segments of recordings from clips."""


class Arranged(NamedTuple):
    """Numbers of windows that are stitched, have timestamps, and have a previous text."""

    stitched: int
    timestamps: int
    previous_text: int


@dataclass(slots=True)
class Split:
    """One of train, valid and test, ready for use: parallel lists with one entry per window.

    num_samples: 16 kHz samples without augmentation. audio_keys: content hash -> its first utterance (if decoded).
    languages: spoken. task: default for rows without one; tasks: those of rows.
    num_marked: rows among the excluded that the user marked. decoded: whether every recording was decoded.
    num_stitched: windows of several utterances, at the end. has_segments: whether utterances may have timed segments.
    weights: sampling weight of each window; draws: how often each is drawn per epoch on average (None: once).
    kind_numbers: returns a number for each row; rows with one number share language, task, weight and prompt.
    fingerprint: sha256 of what the rows were read from. unreadable: rows that could not be decoded when they were used.
    """

    name: str
    windows: Sequence[Window]
    num_samples: MutableSequence[int]
    targets: Sequence[Target]
    languages: list[str]
    audio_keys: dict[str, Utterance]
    excluded: list[Exclusion]
    num_rows: int
    num_marked: int = 0
    decoded: bool = True
    num_stitched: int = 0
    has_segments: bool = False
    weights: MutableSequence[float] = field(default_factory=list)
    task: str = "transcribe"
    tasks: set[str | None] = field(default_factory=set)
    kind_numbers: Callable[[], npt.NDArray[np.int32]] | None = field(default=None, compare=False)
    fingerprint: str = ""
    draws: npt.NDArray[np.float64] | None = None
    unreadable: Unreadable = field(default_factory=Unreadable, compare=False)

    @property
    def hours(self) -> float:
        return sum(self.num_samples) / SAMPLE_RATE / 3600

    def figures(self) -> dict[str, float]:
        """Numbers of rows read, of rows used and of stitched windows, and the hours of all windows."""
        return {
            "rows": self.num_rows,
            "utterances": self.num_utterances,
            "stitched": self.num_stitched,
            "hours": round(self.hours, 6),
        }

    @property
    def num_utterances(self) -> int:
        """Windows of a single utterance: one per usable row."""
        return len(self.windows) - self.num_stitched

    @property
    def text_languages(self) -> list[str]:
        """The language of each window's text: English where speech is translated."""
        if "translate" not in {self.task, *self.tasks}:
            return self.languages
        tasks = [window.utterances[0].task or self.task for window in self.windows]
        return ["en" if task == "translate" else code for task, code in zip(tasks, self.languages, strict=True)]

    def waveform(
        self, index: int, augmenter: WaveformAugmenter | None = None, *, seed: int = 0, view: int = 0
    ) -> tuple[npt.NDArray[np.float32], bool]:
        """`window_waveform` and True, or silence of the same length and False if it can't be decoded; the row is then
        added to `unreadable`."""
        window = self.windows[index]
        try:
            return window_waveform(window, augmenter, seed=seed, view=view), True
        except UtteranceError as error:
            self.unreadable.add(self.name, error.utterance, str(error))
        num_samples = self.num_samples[index]
        if augmenter is not None:
            lengths = window.num_samples or (num_samples,)
            num_samples = augmented_num_samples(window, lengths, augmenter, seed=seed, view=view)
        return np.zeros(num_samples, np.float32), False

    def clip(self, index: int, language: str) -> dict[str, Any]:
        """What a report groups errors by: the window's seconds, the language of its text, its speaker if known; and the
        transcript, where the rules of `text.*` changed it."""
        first = self.windows[index].utterances[0]
        speaker, transcript = first.speaker, first.transcript
        seconds = round(self.num_samples[index] / SAMPLE_RATE, 3)
        more = {"speaker": speaker} if speaker else {}
        return {"duration": seconds, "language": language, **more, **({"transcript": transcript} if transcript else {})}

    def part(self, indices: Sequence[int]) -> Split:
        """A split of these windows only, for decoding."""
        windows, num_samples = [self.windows[i] for i in indices], [self.num_samples[i] for i in indices]
        targets, languages = [self.targets[i] for i in indices], [self.languages[i] for i in indices]
        return Split(
            self.name, windows, num_samples, targets, languages, {}, [], len(windows), task=self.task, tasks=self.tasks,
            unreadable=self.unreadable,
        )  # fmt: skip

    def longest_first(self) -> list[int]:
        """Window indices by decreasing duration."""
        return sorted(range(len(self.windows)), key=lambda i: (-self.num_samples[i], i))

    def settled(self, options: WindowOptions, text: TextSettings) -> WindowOptions:
        """The options with `stitched_share: auto` resolved, which depends only on the rows before `arrange`."""
        if options.stitched_share != "auto":
            return options
        trainable = options.timestamps > 0 and text.tokenizer.has_timestamps
        return replace(options, stitched_share=AUTO_SHARE if trainable and self._of_recordings() else 0.0)

    def arrange(self, options: WindowOptions, text: TextSettings, seed: int) -> Arranged:
        """Make these the training windows that the options ask for; stitched ones follow the single ones."""
        singles, count = self.windows, len(self.windows)
        lengths = self.num_samples  # stitched windows are appended behind these
        options = self.settled(options, text)
        kinds = self.kind_numbers or (lambda: np.arange(count, dtype=np.int32))
        stitched = stitched_rows(singles, lengths, self.targets, kinds, options, text, seed)
        share = options.previous_text
        followed = with_previous_texts(stitched, share, seed) if share else stitched
        timed, prompted = bytearray(count), bytearray(count)  # drawn once, not on every access
        earlier: Utterance | None = None
        for i in range(count) if options.previous_text or (self.has_segments and options.timestamps) else ():
            row = singles[i].utterances[0]
            timed[i] = bool(row.segments) and drawn(options.timestamps, seed, f"{row.id}/timestamps")
            follows = earlier is not None and _follows(earlier, row)
            prompted[i] = follows and drawn(options.previous_text, seed, f"{row.id}/previous")
            earlier = row

        def window_at(i: int) -> Window:
            if i >= count:
                return followed[i - count]
            previous = singles[i - 1].text if prompted[i] else None
            if not timed[i] and previous is None:
                return singles[i]
            return replace(singles[i], num_samples=(lengths[i],), timestamps=bool(timed[i]), previous_text=previous)

        self.num_samples.extend(stitched.total_samples)
        self.languages.extend([self.languages[i] for i in stitched.firsts])
        self.weights.extend([self.weights[i] for i in stitched.firsts])
        self.num_stitched = len(stitched)
        self.windows = Lazy(count + len(stitched), window_at)
        self.targets = _targets(self.windows, text)
        return Arranged(
            len(stitched),
            sum(timed) + sum(stitched.timestamps),
            sum(prompted) + (sum(window.previous_text is not None for window in followed) if share else 0),
        )

    def _of_recordings(self) -> bool:
        """Whether most rows are spans of recordings with several (in any order), and not joined or timed already."""
        rows = [self.windows[i].utterances[0] for i in range(min(len(self.windows), MOST_INSPECTED))]
        begins: dict[tuple[Path, tuple[int, int] | None], set[float]] = {}
        for row in rows:
            begins.setdefault((row.audio, row.within), set()).add(row.start)
        segments = (row.end is not None and not row.segments and len(begins[row.audio, row.within]) > 1 for row in rows)
        return sum(segments) > len(rows) / 2


def _follows(earlier: Utterance, later: Utterance) -> bool:
    """Whether a row follows the one before it in the same recording, and has no prompt of its own."""
    if not earlier.text or earlier.end is None or later.prompt is not None:
        return False
    return earlier.start < later.start and same_recording(earlier, later)


def _targets(windows: Sequence[Window], text: TextSettings) -> Lazy[Target]:
    return Lazy(len(windows), lambda i: text.target(windows[i]))


def merged_rows(utterances: Utterances, text: TextSettings, options: DataOptions) -> Rows:
    """The rows, joined if `data.merge_segments` asks for it (those with unusable text are not joined)."""
    if options.merge_segments == 0:
        return utterances
    keep_empty = options.empty_text == "keep"
    return merge_segments(utterances, options.merge_segments, lambda row: text.is_usable(row, keep_empty=keep_empty))


def load_split(
    name: str,
    utterances: Sequence[Utterance],
    text: TextSettings,
    options: DataOptions,
    *,
    advance: Callable[[int], None],
    processes: Processes = ALONE,
    marked: MarkedRows | None = None,
) -> Split:
    """Inspect the text and audio of every row of a manifest; unusable rows are listed in `excluded`.

    marked: rows to exclude whatever they hold. advance: called with the number of rows done. Each of several processes
    inspects its share; all get the results.
    """
    rows = utterances if isinstance(utterances, Utterances | JoinedSegments) else Utterances(utterances)
    decoded = options.check_audio == "all" or (options.check_audio == "auto" and len(rows) <= MOST_DECODED)
    world_size, share = processes.world_size, range(processes.rank, len(rows), processes.world_size)
    keep_empty = options.empty_text == "keep"

    def inspection() -> Inspection:
        if decoded:
            return decode_rows(rows, text, options.workers, advance, keep_empty=keep_empty, share=share)
        # Joined segments depend on more than the manifest, so nothing is cached for them.
        kept = rows if isinstance(rows, Utterances) else None
        cached, judged = Cached(), "" if kept is None else _judged(kept, text)
        if kept is not None:
            cached = Cached(indexed_files(kept), indexed_verdicts(kept, judged))
        before = cached.files, cached.valid
        found = read_headers(rows, text, options.workers, advance, keep_empty=keep_empty, share=share, cached=cached)
        if kept is not None and world_size == 1 and cached.files is not None and cached.valid is not None:
            if before[0] is None or not np.array_equal(before[0].headers, cached.files.headers):
                index_files(kept, cached.files)
            if before[1] is None:
                index_verdicts(kept, judged, cached.valid)
        return found

    inspections = processes.share(inspection)
    num_samples = np.zeros(len(rows), np.int64)
    reasons: dict[int, str] = {}
    for rank, found in enumerate(inspections):
        num_samples[rank::world_size] = found.num_samples
        reasons.update((rank + world_size * place, reason) for place, reason in found.reasons.items())
    marks = {} if marked is None else marked.reasons(rows)
    reasons |= marks
    excluded = [
        Exclusion(name, row.id, row.source, row.row, reasons[index])
        for index in sorted(reasons)
        for row in (rows[index],)
    ]
    kept = np.delete(np.arange(len(rows), dtype=np.int32), list(reasons))
    keys: dict[str, Utterance] = {}
    for index in kept.tolist() if decoded else ():
        keys.setdefault(inspections[index % world_size].keys[index // world_size], rows[index])
    kinds = rows.kind_numbers[kept]
    present = set(np.unique(kinds).tolist())
    codes = [text.language_code_of(kind.language) if n in present else "" for n, kind in enumerate(rows.kinds)]
    windows = Lazy(len(kept), lambda i: single_windows([text.rewritten(rows[int(kept[i])])])[0])
    return Split(
        name, windows, array("q", num_samples[kept].tobytes()), _targets(windows, text),
        list(map(codes.__getitem__, kinds)), keys, excluded, len(rows), len(marks),
        decoded=decoded, has_segments=rows.has_segments,
        weights=array("d", np.array([kind.weight for kind in rows.kinds], np.float64)[kinds].tobytes()), task=text.task,
        tasks={rows.kinds[kind].task for kind in present}, kind_numbers=lambda: rows.kind_numbers[kept],
        fingerprint=rows.fingerprint,
    )  # fmt: skip


def _judged(rows: Utterances, text: TextSettings) -> str:
    """Everything that decides, beside the rows, which of their texts are valid targets."""
    languages = plain_languages(rows, text)
    judged = [languages, sha256(rows.kind_numbers.tobytes()).hexdigest(), sources_of(JUDGING), unidata_version]
    if text.rules is not None:
        judged.append(sha256(repr(text.rules).encode("utf-8", "surrogatepass")).hexdigest())
    return repr(judged)


def require_usable(splits: Sequence[Split], options: DataOptions, *, flag: str = "--data.max_excluded") -> None:
    """Call `require_enough` for each split."""
    for split in splits:
        require_enough(split, options, flag=flag)


def require_enough(split: Split, options: DataOptions, *, flag: str = "--data.max_excluded") -> None:
    """Refuse a split with too many excluded rows, before or during a run. flag: the option that allows more.

    Raises:
        DataError: if more than options.max_excluded, not counting marked rows, or all are excluded.
    """
    num_excluded = len(split.excluded) - split.num_marked + len(split.unreadable)
    none_left = not split.windows or len(split.unreadable) >= split.num_utterances
    if num_excluded <= options.max_excluded * split.num_rows and not none_left:
        return
    first = (split.excluded or split.unreadable.known)[0]
    found = f"{first.file}: {num_excluded:,} of {counted(split.num_rows, 'row')} cannot be used"
    reason = f"the first is row {first.row}: {first.reason}"
    if none_left:
        raise DataError(f"{found}, which leaves none; {reason}")
    raise DataError(f"{found}, more than {options.max_excluded:.0%}; {reason}; fix them, or allow more with {flag}")
