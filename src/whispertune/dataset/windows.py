"""Utterances on a 30 s canvas: one a window, or several stitched with pauses; and what is said in it when."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from whispertune.augment.pipeline import WaveformAugmenter, generator_for
from whispertune.data.audio.waveforms import load_utterance
from whispertune.data.utterances import TimedText, Utterance
from whispertune.dataset.options import WindowOptions
from whispertune.errors import AudioError
from whispertune.features.log_mel import SAMPLE_RATE, WINDOW_SAMPLES

LONGEST_LEAD = 1.0
"""Seconds of silence, at most, before the first utterance of a window with timestamps: Whisper's own decoding begins no
later, and a model that has only seen 0.00 there would always say it."""
AUTO_SHARE = 0.15
"""`stitched_share: auto`, where the rows have times of their own: enough for timestamps and long form to stay
(docs/experiments.md)."""
LOOK_BACK = 10
"""Windows among which one is looked for that shares no utterance with the next."""
TIMESTAMP_TOKENS = 2
"""Of each segment: its start and its end."""


@dataclass(frozen=True, slots=True)
class Window:
    """One training or validation item: its utterances, and the pause (seconds) before each but the first.

    lead: silence (seconds) before the first. num_samples: 16 kHz samples of each utterance as it is, where they are
    known. timestamps: whether its target has them (num_samples is known then). previous_text: what it is prompted with.
    """

    id: str
    utterances: tuple[Utterance, ...]
    pauses: tuple[float, ...] = ()
    lead: float = 0.0
    num_samples: tuple[int, ...] = ()
    timestamps: bool = False
    previous_text: str | None = None

    @property
    def text(self) -> str:
        """The transcript of the whole window."""
        return " ".join(text for utterance in self.utterances if (text := utterance.text.strip()))

    @property
    def total_samples(self) -> int:
        """16 kHz samples of the whole window, where those of its utterances are known."""
        return sum(self.num_samples) + _pause_samples(self)

    def segments(self, num_samples: Sequence[int] | None = None) -> list[TimedText]:
        """What is said when, in the order of time: joined utterances' segments each, others as a whole.

        num_samples: of each utterance once it is augmented; a joined one's segments move with its speed.
        """
        found: list[TimedText] = []
        begin = _samples_of(self.lead)
        altered = self.num_samples if num_samples is None else num_samples
        pauses = (0.0, *self.pauses)
        for utterance, clean, num, pause in zip(self.utterances, self.num_samples, altered, pauses, strict=True):
            begin += _samples_of(pause)
            whole = TimedText(0.0, clean / SAMPLE_RATE, utterance.text)
            for start, end, text in utterance.segments or (whole,):
                first, last = (begin / SAMPLE_RATE + min(time, whole.end) * num / clean for time in (start, end))
                if text.strip():
                    found.append(TimedText(first, last, text.strip()))
            begin += num
        return found


def single_windows(utterances: Sequence[Utterance]) -> list[Window]:
    """One window for each utterance."""
    return [Window(utterance.id, (utterance,)) for utterance in utterances]


def stitched_windows(
    utterances: Sequence[Utterance],
    num_samples: Sequence[int],
    num_tokens: Sequence[int],
    options: WindowOptions,
    seed: int,
    *,
    max_tokens: int,
) -> list[Window]:
    """Windows of several utterances, so many that they are `stitched_share` of all windows.

    num_samples, num_tokens: of each utterance. A window's first utterance is drawn from all, the others from those of
    its language, task and weight, without repetition, within 30 s and `max_tokens` of text and timestamps; one that
    ends with fewer than `min_utterances` is dropped (long recordings cannot be stitched). A share of `auto` is
    none: what it stands for is the caller's to find out.
    """
    share = 0.0 if options.stitched_share == "auto" else options.stitched_share
    wanted = round(len(utterances) * share / (1 - share))
    generator = np.random.default_rng((seed, 0x57174))
    alike: dict[tuple[str | None, str | None, float], array[int]] = {}
    for index, utterance in enumerate(utterances if wanted else ()):
        alike.setdefault((utterance.language, utterance.task, utterance.weight), array("q")).append(index)
    windows: list[Window] = []
    for number in range(wanted):
        target = int(generator.integers(options.min_utterances, options.max_utterances + 1))
        name = f"stitched-{number}"
        timestamps = drawn(options.timestamps, seed, f"{name}/timestamps")
        lead = _drawn_lead(options, seed, name) if timestamps else 0.0
        chosen: list[int] = []
        pauses: list[float] = []
        samples, tokens = _samples_of(lead), 0
        start = int(generator.integers(len(utterances)))
        first = utterances[start]
        others = alike[first.language, first.task, first.weight]
        draws = generator.integers(len(others), size=4 * target - 1).tolist()
        for index in (start, *map(others.__getitem__, draws)):
            pause = float(generator.uniform(options.min_pause, options.max_pause)) if chosen else 0.0
            new_samples = samples + _samples_of(pause) + num_samples[index]
            new_tokens = tokens + num_tokens[index]
            if timestamps:
                new_tokens += TIMESTAMP_TOKENS * max(1, len(utterances[index].segments))
            if index in chosen or new_samples > WINDOW_SAMPLES or new_tokens > max_tokens:
                continue
            samples, tokens = new_samples, new_tokens
            chosen.append(index)
            pauses.append(pause)
            if len(chosen) == target:
                break
        if len(chosen) >= options.min_utterances:
            members = tuple(utterances[index] for index in chosen)
            lengths = tuple(num_samples[index] for index in chosen)
            windows.append(Window(name, members, tuple(pauses[1:]), lead, lengths, timestamps))
    return windows


def drawn(share: float, seed: int, key: str) -> bool:
    """Whether a window is among a share of them; follows from seed and key alone."""
    return share > 0 and bool(generator_for(seed, 0, key).random() < share)


def _drawn_lead(options: WindowOptions, seed: int, name: str) -> float:
    longest = min(options.max_pause, LONGEST_LEAD)
    return float(generator_for(seed, 0, f"{name}/lead").uniform(0, longest))


def with_previous_texts(windows: Sequence[Window], share: float, seed: int) -> list[Window]:
    """Stitched windows, a share of them with the text of another one of their language and task.

    One that has none of its utterances: a prompt that holds what is said teaches to copy it.
    """
    alike: dict[tuple[str | None, str | None], list[Window]] = {}
    for window in windows:
        alike.setdefault(_kind(window), []).append(window)
    places: Counter[tuple[str | None, str | None]] = Counter()
    found = []
    for window in windows:
        others, place = alike[_kind(window)], places[_kind(window)]
        places[_kind(window)] += 1
        if drawn(share, seed, f"{window.id}/previous"):
            own = {utterance.id for utterance in window.utterances}
            # The first of a kind gets the last one's.
            candidates = (others[place - back] for back in range(1, min(len(others), 1 + LOOK_BACK)))
            before = next((w for w in candidates if own.isdisjoint(u.id for u in w.utterances)), None)
            if before is not None:
                window = replace(window, previous_text=before.text)
        found.append(window)
    return found


def _kind(window: Window) -> tuple[str | None, str | None]:
    return window.utterances[0].language, window.utterances[0].task


class UtteranceError(AudioError):
    """The audio of `utterance` cannot be decoded."""

    utterance: Utterance


def window_waveform(
    window: Window, augmenter: WaveformAugmenter | None = None, *, seed: int = 0, view: int = 0
) -> np.ndarray:
    """The waveform (num_samples,) float32 of a window at 16 kHz, at most 480000 samples.

    With an augmenter each utterance is altered by draws that follow from (seed, view, window, utterance) alone.

    Raises:
        UtteranceError: if an utterance cannot be decoded.
        AudioError: if the noise that is to be mixed in cannot.
    """
    waveforms = [_waveform(utterance) for utterance in window.utterances]
    if augmenter is not None:
        total = sum(map(len, waveforms)) + _pause_samples(window)
        for index, utterance in enumerate(window.utterances):
            clean = waveforms[index]
            room = WINDOW_SAMPLES - total + len(clean)
            waveforms[index] = augmenter(clean, _draws(window, utterance, seed, view), max_samples=room)
            total += len(waveforms[index]) - len(clean)
    return join_waveforms(waveforms, window.pauses, window.lead)


def _waveform(utterance: Utterance) -> np.ndarray:
    try:
        return load_utterance(utterance, max_samples=WINDOW_SAMPLES)
    except AudioError as error:
        failed = UtteranceError(str(error))
        failed.utterance = utterance
        raise failed from None


def augmented_num_samples(
    window: Window, num_samples: Sequence[int], augmenter: WaveformAugmenter, *, seed: int, view: int
) -> int:
    """The length of `window_waveform` with this augmenter, from those of its clean utterances, reading no audio."""
    lengths = augmented_lengths(window, num_samples, augmenter, seed=seed, view=view)
    return sum(lengths) + _pause_samples(window)


def augmented_lengths(
    window: Window, num_samples: Sequence[int], augmenter: WaveformAugmenter, *, seed: int, view: int
) -> list[int]:
    """Samples of each utterance of a window in `window_waveform` with this augmenter, reading no audio."""
    total = sum(num_samples) + _pause_samples(window)
    lengths = []
    for clean, utterance in zip(num_samples, window.utterances, strict=True):
        room = WINDOW_SAMPLES - total + clean
        lengths.append(augmenter.num_samples(clean, _draws(window, utterance, seed, view), max_samples=room))
        total += lengths[-1] - clean
    return lengths


def _pause_samples(window: Window) -> int:
    return sum(map(_samples_of, (window.lead, *window.pauses)))


def _samples_of(seconds: float) -> int:
    return round(seconds * SAMPLE_RATE)


def _draws(window: Window, utterance: Utterance, seed: int, view: int) -> np.random.Generator:
    key = utterance.id if len(window.utterances) == 1 else f"{window.id}/{utterance.id}"
    return generator_for(seed, view, key)


def join_waveforms(waveforms: Sequence[np.ndarray], pauses: Sequence[float], lead: float = 0.0) -> np.ndarray:
    """Waveforms (num_samples,) in a row with these pauses (seconds, one fewer) of digital silence between.

    lead: such a pause before the first.
    """
    parts = []
    for waveform, pause in zip(waveforms, (lead, *pauses), strict=True):
        parts += [np.zeros(_samples_of(pause), np.float32), waveform]
    return np.concatenate(parts)
