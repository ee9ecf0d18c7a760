"""Utterances on a 30 s canvas: one a window, or several stitched with pauses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from whispertune.augment.pipeline import WaveformAugmenter, generator_for
from whispertune.data.audio import load_utterance
from whispertune.data.utterances import Utterance
from whispertune.errors import RecipeError
from whispertune.features import SAMPLE_RATE, WINDOW_SAMPLES

MOST_UTTERANCES = 100


@dataclass(frozen=True, kw_only=True)
class WindowOptions:
    """How training utterances share windows."""

    stitched_share: float = 0.0
    """Share of the training windows that hold several utterances in a row (0 to below 1)."""

    min_utterances: int = 3
    """Fewest utterances in a stitched window."""

    max_utterances: int = 10
    """Most utterances in a stitched window."""

    min_pause: float = 0.2
    """Shortest pause between stitched utterances, seconds."""

    max_pause: float = 1.0
    """Longest pause between stitched utterances, seconds."""

    def __post_init__(self) -> None:
        if not 0 <= self.stitched_share < 1:
            raise RecipeError(f"windows.stitched_share is {self.stitched_share}; it must be at least 0 and below 1")
        if not 2 <= self.min_utterances <= self.max_utterances <= MOST_UTTERANCES:
            raise RecipeError(
                f"windows.min_utterances is {self.min_utterances} and max_utterances {self.max_utterances}; "
                f"they must lie between 2 and {MOST_UTTERANCES} and be in order"
            )
        if not 0 <= self.min_pause <= self.max_pause <= 30:
            raise RecipeError(
                f"windows.min_pause is {self.min_pause} and max_pause {self.max_pause}; "
                "they must lie between 0 and 30 s and be in order"
            )


@dataclass(frozen=True, slots=True)
class Window:
    """One training or validation item: its utterances, and the pause (seconds) before each but the first."""

    id: str
    utterances: tuple[Utterance, ...]
    pauses: tuple[float, ...] = ()

    @property
    def text(self) -> str:
        """The transcript of the whole window."""
        return " ".join(text for utterance in self.utterances if (text := utterance.text.strip()))


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

    num_samples, num_tokens: of each utterance. A window holds utterances of one language and task, drawn
    without repetition, within 30 s and `max_tokens` of text; one that ends with fewer than `min_utterances`
    is dropped (long recordings cannot be stitched).
    """
    wanted = round(len(utterances) * options.stitched_share / (1 - options.stitched_share))
    generator = np.random.default_rng((seed, 0x57174))
    windows: list[Window] = []
    for number in range(wanted):
        target = int(generator.integers(options.min_utterances, options.max_utterances + 1))
        chosen: list[int] = []
        pauses: list[float] = []
        samples = tokens = 0
        for index in generator.integers(len(utterances), size=4 * target).tolist():
            candidate, first = utterances[index], utterances[chosen[0] if chosen else index]
            pause = float(generator.uniform(options.min_pause, options.max_pause)) if chosen else 0.0
            new_samples = samples + round(pause * SAMPLE_RATE) + num_samples[index]
            new_tokens = tokens + num_tokens[index]
            if (
                index in chosen
                or (candidate.language, candidate.task) != (first.language, first.task)
                or new_samples > WINDOW_SAMPLES
                or new_tokens > max_tokens
            ):
                continue
            samples, tokens = new_samples, new_tokens
            chosen.append(index)
            pauses.append(pause)
            if len(chosen) == target:
                break
        if len(chosen) >= options.min_utterances:
            members = tuple(utterances[index] for index in chosen)
            windows.append(Window(f"stitched-{number}", members, tuple(pauses[1:])))
    return windows


def window_waveform(
    window: Window, augmenter: WaveformAugmenter | None = None, *, seed: int = 0, view: int = 0
) -> np.ndarray:
    """The waveform (num_samples,) float32 of a window at 16 kHz, at most 480000 samples.

    With an augmenter each utterance is altered by draws that follow from (seed, view, window, utterance) alone.

    Raises:
        AudioError: if a file cannot be read.
    """
    waveforms = [load_utterance(utterance) for utterance in window.utterances]
    if augmenter is not None:
        total = sum(map(len, waveforms)) + _pause_samples(window)
        for index, utterance in enumerate(window.utterances):
            clean = waveforms[index]
            room = WINDOW_SAMPLES - total + len(clean)
            waveforms[index] = augmenter(clean, _draws(window, utterance, seed, view), max_samples=room)
            total += len(waveforms[index]) - len(clean)
    return join_waveforms(waveforms, window.pauses)


def augmented_num_samples(
    window: Window, num_samples: Sequence[int], augmenter: WaveformAugmenter, *, seed: int, view: int
) -> int:
    """The length of `window_waveform` with this augmenter, from those of its clean utterances, reading no audio."""
    total = sum(num_samples) + _pause_samples(window)
    for clean, utterance in zip(num_samples, window.utterances, strict=True):
        room = WINDOW_SAMPLES - total + clean
        total += augmenter.num_samples(clean, _draws(window, utterance, seed, view), max_samples=room) - clean
    return total


def _pause_samples(window: Window) -> int:
    return sum(round(pause * SAMPLE_RATE) for pause in window.pauses)


def _draws(window: Window, utterance: Utterance, seed: int, view: int) -> np.random.Generator:
    key = utterance.id if len(window.utterances) == 1 else f"{window.id}/{utterance.id}"
    return generator_for(seed, view, key)


def join_waveforms(waveforms: Sequence[np.ndarray], pauses: Sequence[float]) -> np.ndarray:
    """Waveforms (num_samples,) in a row with these pauses (seconds, one fewer) of digital silence between."""
    parts = [waveforms[0]]
    for waveform, pause in zip(waveforms[1:], pauses, strict=True):
        parts += [np.zeros(round(pause * SAMPLE_RATE), np.float32), waveform]
    return np.concatenate(parts)
