"""Manifests -> the windows of a split, every utterance looked at before any compute is spent on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from whispertune.data.audio import content_key, load_waveform
from whispertune.data.manifest import Utterance, read_manifest
from whispertune.errors import AudioError, DataError, RecipeError
from whispertune.features import SAMPLE_RATE, WINDOW_SAMPLES
from whispertune.targets import MAX_TOKENS, Target, make_target
from whispertune.text.languages import language_code
from whispertune.text.normalizer import normalizer_for
from whispertune.text.tokenizer import Tokenizer
from whispertune.windows import Window, WindowOptions, single_windows, stitched_windows


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Reading the data."""

    max_excluded: float = 0.05
    """Share of a split's rows that may be unusable before the run refuses to start."""

    workers: int = 2
    """Threads that decode audio and compute features; their number changes no result."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_excluded <= 1:
            raise RecipeError(f"data.max_excluded is {self.max_excluded}; it must lie between 0 and 1")
        if self.workers < 1:
            raise RecipeError(f"data.workers is {self.workers}; it must be at least 1")


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A row that is left out of the run, and why."""

    split: str
    id: str
    file: str
    row: int
    reason: str


@dataclass(frozen=True, slots=True)
class TextSettings:
    """How transcripts become targets."""

    tokenizer: Tokenizer
    language: str | None
    task: str
    prompt_loss: bool = False

    def language_of(self, utterance: Utterance) -> str:
        """Code of the row's own language, else of the run's; `en` for an English-only model given none.

        Raises:
            RecipeError: if it is unknown, or there is none.
        """
        named = utterance.language or self.language
        if named is None:
            if not self.tokenizer.multilingual:
                return "en"
            raise RecipeError("no language given: add --language, or a language column")
        return language_code(named)

    def prompt(self, window: Window) -> list[int]:
        """Prompt tokens of a window."""
        first = window.utterances[0]
        previous = first.prompt if len(window.utterances) == 1 else None
        language = self.language_of(first) if self.tokenizer.multilingual else None
        return self.tokenizer.prompt_tokens(language, first.task or self.task, previous_text=previous)

    def target(self, window: Window) -> Target:
        """Decoder input and labels of a window."""
        text = self.tokenizer.text_ids(window.text, self.language_of(window.utterances[0]))
        return make_target(
            self.prompt(window),
            text,
            self.tokenizer.eot,
            sot=self.tokenizer.sot,
            prompt_loss=self.prompt_loss,
        )


@dataclass(slots=True)
class Split:
    """One of train, valid and test, ready for use: parallel lists, one entry a window.

    num_samples: 16 kHz samples without augmentation. audio_keys: content hash -> first utterance with it.
    """

    name: str
    windows: list[Window]
    num_samples: list[int]
    targets: list[Target]
    languages: list[str]
    audio_keys: dict[str, Utterance]
    excluded: list[Exclusion]
    num_rows: int

    @property
    def hours(self) -> float:
        return sum(self.num_samples) / SAMPLE_RATE / 3600

    def longest_first(self) -> list[int]:
        """Window indices by falling duration."""
        return sorted(range(len(self.windows)), key=lambda i: (-self.num_samples[i], i))

    def add_stitched(self, options: WindowOptions, text: TextSettings, seed: int) -> int:
        """Add stitched windows behind the single ones; returns how many."""
        utterances = [window.utterances[0] for window in self.windows]
        tokens = [len(target.input_ids) - target.prompt_length for target in self.targets]
        longest_prompt = max((target.prompt_length for target in self.targets), default=0)
        windows = stitched_windows(
            utterances, self.num_samples, tokens, options, seed, max_tokens=MAX_TOKENS - longest_prompt - 1
        )
        lengths = dict(zip((u.id for u in utterances), self.num_samples, strict=True))
        for window in windows:
            samples = sum(lengths[u.id] for u in window.utterances)
            self.num_samples.append(samples + sum(round(pause * SAMPLE_RATE) for pause in window.pauses))
            self.windows.append(window)
            self.targets.append(text.target(window))
            self.languages.append(text.language_of(window.utterances[0]))
        return len(windows)


def _inspect(utterance: Utterance, text: TextSettings) -> tuple[str | None, int, str]:
    """(why the row can't be used or None, its number of samples, its content key)."""
    try:
        language = text.language_of(utterance)
        if not normalizer_for(language)(utterance.text).strip():
            reason = "empty text" if not utterance.text.strip() else "text is empty after normalisation"
            return f"{reason}: {utterance.text[:40]!r}", 0, ""
        target = text.target(single_windows([utterance])[0])
        if len(target.input_ids) > MAX_TOKENS:
            return f"text and prompt are {len(target.input_ids)} tokens; Whisper takes {MAX_TOKENS}", 0, ""
        waveform = load_waveform(utterance.audio, utterance.start, utterance.end)
    except (AudioError, RecipeError) as error:
        return str(error), 0, ""
    if len(waveform) > WINDOW_SAMPLES:
        seconds = len(waveform) / SAMPLE_RATE
        return f"audio lasts {seconds:.1f} s; a window holds 30 s (cut it, with start and end columns)", 0, ""
    return None, len(waveform), content_key(waveform)


def read_rows(name: str, manifest: Path) -> list[Utterance]:
    """The rows of a split's manifest.

    Raises:
        ManifestError: if the manifest can't be used.
        DataError: if it has no rows.
    """
    utterances = read_manifest(manifest)
    if not utterances:
        raise DataError(f"{manifest}: no rows under the header; --{name} needs at least one utterance")
    return utterances


def load_split(
    name: str,
    utterances: Sequence[Utterance],
    text: TextSettings,
    options: DataOptions,
    *,
    advance: Callable[[int], None],
) -> Split:
    """Read the audio of every row of a manifest; rows that can't be used are listed in `excluded`.

    advance: called with 1 after each row.
    """
    split = Split(name, [], [], [], [], {}, [], len(utterances))

    def inspect(utterance: Utterance) -> tuple[str | None, int, str]:
        found = _inspect(utterance, text)
        advance(1)
        return found

    with ThreadPoolExecutor(options.workers, "audio") as pool:
        inspected = list(pool.map(inspect, utterances))
    for utterance, (reason, num_samples, key) in zip(utterances, inspected, strict=True):
        if reason is not None:
            exclusion = Exclusion(name, utterance.id, utterance.source, utterance.row, reason)
            split.excluded.append(exclusion)
            continue
        (window,) = single_windows([utterance])
        split.windows.append(window)
        split.num_samples.append(num_samples)
        split.targets.append(text.target(window))
        split.languages.append(text.language_of(utterance))
        split.audio_keys.setdefault(key, utterance)
    return split


def require_usable(splits: Sequence[Split], options: DataOptions, *, flag: str = "--data.max_excluded") -> None:
    """Refuse a run whose data is at fault as a whole.

    flag: what allows more exclusions.

    Raises:
        DataError: too many rows of a split excluded, none left, or the same audio in train and another split.
    """
    for split in splits:
        if len(split.excluded) > options.max_excluded * split.num_rows or not split.windows:
            first = split.excluded[0]
            found = f"{first.file}: {len(split.excluded)} of {split.num_rows} rows cannot be used"
            reason = f"the first is row {first.row}: {first.reason}"
            if not split.windows:
                raise DataError(f"{found}, which leaves none; {reason}")
            raise DataError(
                f"{found}, more than {options.max_excluded:.0%}; {reason}; mend them, or allow more with {flag}"
            )
    train = next((split for split in splits if split.name == "train"), None)
    for other in splits:
        if train is None or other is train:
            continue
        shared = [key for key in other.audio_keys if key in train.audio_keys]
        if shared:
            ours, theirs = train.audio_keys[shared[0]], other.audio_keys[shared[0]]
            raise DataError(
                f"{theirs.source}, row {theirs.row}, field 'audio': the same audio as row {ours.row} of "
                f"{ours.source} ({len(shared)} such in {other.name}); scores on heard audio mean nothing: remove "
                f"them from train or {other.name}"
            )


def excluded_summary(excluded: Sequence[Exclusion]) -> list[str]:
    """One line for each split and kind of reason, most frequent first."""
    kinds = Counter((e.split, e.reason.split(":")[0] if "empty" in e.reason else e.reason) for e in excluded)
    return [f"{split}: {count} left out: {reason}" for (split, reason), count in kinds.most_common(5)]
