"""Hallucination: what a model writes where nothing is said, and how often it gets caught in a loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from whispertune.decoding.rules import Hypothesis
from whispertune.decoding.transcriber import Transcriber
from whispertune.evaluation.error_rates import score_corpus
from whispertune.evaluation.probes.sounds import SOUND_KINDS, generate_sound
from whispertune.features.log_mel import SAMPLE_RATE, WINDOW_SAMPLES
from whispertune.system.processes import ALONE, Processes

SOUND_SECONDS = 60
"""Of each kind: two windows."""
WINDOWS_A_KIND = SOUND_SECONDS * SAMPLE_RATE // WINDOW_SAMPLES


@dataclass(frozen=True, slots=True)
class SoundResult:
    """What was written for one kind of sound; words and characters are normalised, as error rates count them."""

    kind: str
    seconds: float
    words: int
    characters: int
    texts: list[str]

    @property
    def words_per_hour(self) -> float:
        return 3600 * self.words / self.seconds


@dataclass(frozen=True, slots=True)
class Hallucination:
    """Results by kind of sound. outputs: how many there are on these sounds; loops, capped: how many of them are so."""

    sounds: list[SoundResult]
    outputs: int
    loops: int
    capped: int

    @property
    def insertions_per_hour(self) -> float:
        """Words per hour, over all kinds."""
        return 3600 * sum(sound.words for sound in self.sounds) / sum(sound.seconds for sound in self.sounds)

    def summary(self) -> dict[str, Any]:
        """For summary.json."""
        return {
            "insertions_per_hour": self.insertions_per_hour,
            "repetition_rate": self.loops / self.outputs,
            "capped_rate": self.capped / self.outputs,
            "sounds": {
                sound.kind: {
                    "seconds": sound.seconds, "words": sound.words, "characters": sound.characters,
                    "insertions_per_hour": sound.words_per_hour, "texts": sound.texts,
                }
                for sound in self.sounds
            },
        }  # fmt: skip


def measure_hallucination(
    transcriber: Transcriber,
    prompt: Sequence[int],
    language: str,
    *,
    seed: int,
    advance: Callable[[int], None],
    processes: Processes = ALONE,
) -> Hallucination:
    """Decode generated silence and noise, 60 s of each kind, in windows of 30 s.

    prompt: of each window. language: whose normaliser is used. advance: called with the number of windows done.
    """
    sounds = {kind: generate_sound(kind, SOUND_SECONDS * SAMPLE_RATE, seed) for kind in SOUND_KINDS}
    windows = [
        sound[number * WINDOW_SAMPLES : (number + 1) * WINDOW_SAMPLES]
        for sound in sounds.values()
        for number in range(WINDOWS_A_KIND)
    ]
    found = transcriber.transcribe(windows.__getitem__, [prompt] * len(windows), advance=advance, processes=processes)
    texts = [transcriber.text(hypothesis) for hypothesis in found]
    results = []
    for number, kind in enumerate(SOUND_KINDS):
        said = texts[number * WINDOWS_A_KIND : (number + 1) * WINDOWS_A_KIND]
        scores = score_corpus([kind] * len(said), [""] * len(said), said, [language] * len(said)).utterances
        words, characters = (sum(counts) for counts in zip(
            *((score.words.insertions, score.characters.insertions) for score in scores), strict=True
        ))  # fmt: skip
        results.append(SoundResult(kind, float(SOUND_SECONDS), words, characters, said))
    return Hallucination(results, len(found), *count_stuck(found))


def count_stuck(hypotheses: Sequence[Hypothesis]) -> tuple[int, int]:
    """How many of these contain a loop, and how many were stopped by the bound on their tokens."""
    return sum(h.repeats for h in hypotheses), sum(h.capped for h in hypotheses)
