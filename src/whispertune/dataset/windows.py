"""30 s windows of one utterance, or of several stitched with pauses, and the timed text in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from whispertune.augment.pipeline import WaveformAugmenter, generator_for
from whispertune.data.audio.waveforms import load_utterance
from whispertune.data.utterances import TimedText, Utterance
from whispertune.errors import AudioError
from whispertune.features.log_mel import SAMPLE_RATE, WINDOW_SAMPLES

LOOK_BACK = 10
"""How many earlier windows are searched for one that shares no utterance with the current one."""
TIMESTAMP_TOKENS = 2
"""Per segment: its start and its end."""


@dataclass(frozen=True, slots=True)
class Window:
    """A training or validation item: its utterances, and the pause (seconds) before each but the first.

    lead: silence (seconds) before the first. num_samples: 16 kHz samples of each utterance without augmentation, if
    known. timestamps: whether its target has them (num_samples is then known). previous_text: its prompt.
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
        """16 kHz samples of the whole window, if those of its utterances are known."""
        return sum(self.num_samples) + _pause_samples(self)

    def segments(self, num_samples: Sequence[int] | None = None) -> list[TimedText]:
        """The window's timed text, in order of time: each segment of joined utterances, other utterances as a whole.

        num_samples: of each utterance after augmentation; segments of joined ones follow its speed.
        """
        found: list[TimedText] = []
        begin = samples_of(self.lead)
        altered = self.num_samples if num_samples is None else num_samples
        pauses = (0.0, *self.pauses)
        for utterance, clean, num, pause in zip(self.utterances, self.num_samples, altered, pauses, strict=True):
            begin += samples_of(pause)
            whole = TimedText(0.0, clean / SAMPLE_RATE, utterance.text)
            for start, end, text in utterance.segments or (whole,):
                first, last = (begin / SAMPLE_RATE + min(time, whole.end) * num / clean for time in (start, end))
                if text.strip():
                    found.append(TimedText(first, last, text.strip()))
            begin += num
        return found


def single_windows(utterances: Sequence[Utterance]) -> list[Window]:
    """One window per utterance."""
    return [Window(utterance.id, (utterance,)) for utterance in utterances]


def drawn(share: float, seed: int, key: str) -> bool:
    """Whether an item belongs to a random share; depends only on seed and key."""
    return share > 0 and bool(generator_for(seed, 0, key).random() < share)


def with_previous_texts(windows: Sequence[Window], share: float, seed: int) -> list[Window]:
    """The windows, a share of them with the text of another one of their language and task as previous text.

    The other one shares no utterance with it: a prompt that holds the target would teach the model to copy.
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
            # Negative indices wrap around: the first window of a kind gets the text of the last.
            candidates = (others[place - back] for back in range(1, min(len(others), 1 + LOOK_BACK)))
            before = next((w for w in candidates if own.isdisjoint(u.id for u in w.utterances)), None)
            if before is not None:
                window = replace(window, previous_text=before.text)
        found.append(window)
    return found


def _kind(window: Window) -> tuple[str | None, str | None]:
    return window.utterances[0].language, window.utterances[0].task


class UtteranceError(AudioError):
    """The audio of `utterance` can't be decoded."""

    utterance: Utterance


def window_waveform(
    window: Window, augmenter: WaveformAugmenter | None = None, *, seed: int = 0, view: int = 0
) -> np.ndarray:
    """The waveform (num_samples,) float32 of a window at 16 kHz, at most 480000 samples.

    With an augmenter each utterance is altered by draws that depend only on (seed, view, window, utterance).

    Raises:
        UtteranceError: if an utterance can't be decoded.
            AudioError: if the noise to be mixed in can't.
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
    """Number of samples of `window_waveform` with this augmenter, from those without; reads no audio."""
    lengths = augmented_lengths(window, num_samples, augmenter, seed=seed, view=view)
    return sum(lengths) + _pause_samples(window)


def augmented_lengths(
    window: Window, num_samples: Sequence[int], augmenter: WaveformAugmenter, *, seed: int, view: int
) -> list[int]:
    """Number of samples of each utterance in `window_waveform` with this augmenter; reads no audio."""
    total = sum(num_samples) + _pause_samples(window)
    lengths = []
    for clean, utterance in zip(num_samples, window.utterances, strict=True):
        room = WINDOW_SAMPLES - total + clean
        lengths.append(augmenter.num_samples(clean, _draws(window, utterance, seed, view), max_samples=room))
        total += lengths[-1] - clean
    return lengths


def _pause_samples(window: Window) -> int:
    return sum(map(samples_of, (window.lead, *window.pauses)))


def samples_of(seconds: float) -> int:
    """Samples at 16 kHz."""
    return round(seconds * SAMPLE_RATE)


def _draws(window: Window, utterance: Utterance, seed: int, view: int) -> np.random.Generator:
    key = utterance.id if len(window.utterances) == 1 else f"{window.id}/{utterance.id}"
    return generator_for(seed, view, key)


def join_waveforms(waveforms: Sequence[np.ndarray], pauses: Sequence[float], lead: float = 0.0) -> np.ndarray:
    """Concatenate waveforms (num_samples,) with pauses (seconds, one fewer) of digital silence between them.

    lead: the pause before the first.
    """
    parts = []
    for waveform, pause in zip(waveforms, (lead, *pauses), strict=True):
        parts += [np.zeros(samples_of(pause), np.float32), waveform]
    return np.concatenate(parts)
