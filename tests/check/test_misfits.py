"""Clips that do not fit: what is found, what people can say, and that what is checked beside them changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whispertune.check.audio import AudioFacts
from whispertune.check.findings import ERRORS, Source
from whispertune.check.measures import STEPS_PER_OCTAVE, log_frequencies
from whispertune.check.misfits import misfits
from whispertune.check.outliers import human_spectrum, inhuman, inhumanly_fast
from whispertune.check.text import check_texts
from whispertune.data.utterances import Utterance, Utterances


@dataclass(frozen=True)
class Voice:
    """Clips of one voice, drawn at random. letters a second, Hz; octaves of spread of tempo."""

    count: int
    rate: float = 14.0
    hertz: float = 165.0
    spread: float = 0.12
    seed: int = 0
    speaker: str | None = None


@dataclass(frozen=True)
class Clips:
    texts: list[str]
    speech: np.ndarray
    pitch: np.ndarray
    spectra: np.ndarray
    speakers: list[str | None]

    def __add__(self, other: Clips) -> Clips:
        joined = (np.concatenate([getattr(self, n), getattr(other, n)]) for n in ("speech", "pitch", "spectra"))
        return Clips(self.texts + other.texts, *joined, self.speakers + other.speakers)

    def played(self, factor: float, rows: slice) -> Clips:
        """These rows with a header whose sample rate is `factor` times the true one."""
        speech, pitch, spectra = self.speech.copy(), self.pitch.copy(), self.spectra.copy()
        speech[rows] /= factor
        pitch[rows] *= factor
        spectra[rows] = moved(spectra[rows], np.log2(factor))
        return replace(self, speech=speech, pitch=pitch, spectra=spectra)

    def halved(self, rows: slice) -> Clips:
        speech = self.speech.copy()
        speech[rows] /= 2
        return replace(self, speech=speech)


def moved(spectra: np.ndarray, octaves: float) -> np.ndarray:
    axis = np.arange(len(log_frequencies()))
    return np.stack([np.interp(axis - octaves * STEPS_PER_OCTAVE, axis, row) for row in spectra])


def clips_of(voice: Voice) -> Clips:
    generator = np.random.default_rng(voice.seed)
    letters = generator.integers(15, 90, voice.count)
    speech = (0.2 + letters / voice.rate) * 2 ** generator.normal(0, voice.spread, voice.count)
    pitch = voice.hertz * 2 ** generator.normal(0, 0.1, voice.count)
    spectra = human_spectrum() + generator.normal(0, 2, (voice.count, len(human_spectrum())))
    return Clips(["a" * int(n) for n in letters], speech, pitch, spectra, [voice.speaker] * voice.count)


def found(*sets: Clips) -> list[tuple[int, str, str]]:
    """(number of the set, row in it, kind) of the errors, of sets that are checked together."""
    sources: list[Source] = []
    first = 0
    for number, clips in enumerate(sets):
        rows = [
            Utterance(id=str(i), audio=Path(f"{number}-{i}"), text=text, speaker=speaker)
            for i, (text, speaker) in enumerate(zip(clips.texts, clips.speakers, strict=True))
        ]
        sources.append(Source(Path(f"{number}.csv"), "", Utterances(rows), first))
        first += len(rows)
    _, texts = check_texts([source.rows for source in sources], lambda _: "it", None)
    speech, pitch, spectra = (np.concatenate([getattr(c, n) for c in sets]) for n in ("speech", "pitch", "spectra"))
    facts = AudioFacts(
        np.ones(first, bool), speech.astype(np.float32), speech.astype(np.float32), pitch.astype(np.float32),
        np.zeros((first, 2), np.uint64), spectra.astype(np.float16), np.zeros((first, 32), np.uint8),
    )  # fmt: skip
    errors = [f for f in misfits(sources, texts, facts, facts.readable) if f.kind in ERRORS]
    place = [(number, row) for number, clips in enumerate(sets) for row in range(len(clips.texts))]
    return [(*place[finding.row], finding.kind) for finding in errors]


def rows_of(findings: Sequence[tuple[int, int, str]], kind: str, number: int = 0) -> set[int]:
    return {row for at, row, what in findings if (at, what) == (number, kind)}


voices = st.builds(
    Voice,
    count=st.integers(5, 80), rate=st.floats(8, 19), hertz=st.floats(90, 300), spread=st.floats(0.02, 0.25),
    seed=st.integers(0, 99), speaker=st.sampled_from([None, "a", "b"]),
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(voices, st.lists(voices, max_size=2), st.sampled_from([0.5, 1.0, 1.5, 2.0]), st.booleans())
def test_what_is_checked_beside_a_set_changes_no_verdict(
    voice: Voice, others: list[Voice], factor: float, halved: bool
) -> None:
    ours = clips_of(voice).played(factor, slice(0, 4))
    ours = ours.halved(slice(4, 8)) if halved else ours
    beside = [clips_of(other) for other in others]
    assert [f for f in found(ours, *beside) if f[0] == 0] == found(ours)
    assert [(n - len(beside), *f) for n, *f in found(*beside, ours) if n == len(beside)] == found(ours)


def test_clear_spanish_is_no_error_in_any_company() -> None:
    # 14.6 letters a second among few, evenly speaking voices of 10.
    even = [clips_of(Voice(60, rate=10.5, spread=0.03, seed=seed)) for seed in range(3)]
    spanish = clips_of(Voice(6, rate=15.3, spread=0.02, seed=9))
    assert found(*even, spanish) == []
    assert found(even[0] + even[1] + even[2] + spanish) == []


def test_children_in_a_set_of_adults_are_no_error() -> None:
    adults = clips_of(Voice(100, rate=13.0, hertz=115.0))
    children = clips_of(Voice(10, rate=11.0, hertz=290.0, seed=1))
    children = replace(children, spectra=moved(children.spectra, 0.3))
    assert found(adults + children) == []
    assert found(children + clips_of(Voice(100, rate=18.5, hertz=260.0))) == []


@pytest.mark.parametrize("spread", [0.1, 0.2])
def test_halved_clips_are_found_though_one_in_ten_is_faulty(spread: float) -> None:
    # As many again at a wrong rate: what is fastest must not widen the spread that it is judged by.
    clips = clips_of(Voice(190, rate=14.0, spread=spread)).halved(slice(0, 10)).played(2.0, slice(10, 20))
    findings = found(clips)
    assert len(rows_of(findings, "too_fast") & set(range(10))) >= 9
    assert len(rows_of(findings, "wrong_sample_rate") & set(range(10, 20))) >= 9
    assert {row for _, row, _ in findings} <= set(range(20))


def test_a_speaker_is_compared_with_himself() -> None:
    slow = clips_of(Voice(60, rate=13.0, speaker="slow"))
    fast = clips_of(Voice(25, rate=25.0, spread=0.03, seed=1, speaker="fast"))
    assert found(slow + fast) == []
    halved = slow.halved(slice(0, 3)) + fast
    assert rows_of(found(halved), "too_fast") == {0, 1, 2}


def test_what_people_can_say() -> None:
    letters = np.array([5.0, 20.0, 60.0, 60.0])
    seconds = np.array([0.35, 0.9, 60 / 19, 60 / 26])
    assert inhumanly_fast(letters, seconds, 35.0).tolist() == [True, True, False, True]
    # 6 Han characters a second are usual, 10 nobody's.
    assert inhumanly_fast(np.array([30.0, 30.0]), np.array([5.0, 3.0]), 13.0).tolist() == [False, True]


@pytest.mark.parametrize("factor", [0.5, 2.0, 3.0])
def test_wrong_rates_are_no_persons(factor: float) -> None:
    clips = clips_of(Voice(40, hertz=200.0))
    wrong = clips.played(factor, slice(None))
    letters = np.array([len(text) for text in clips.texts], float)
    factors = np.full(40, factor)
    assert (inhuman(wrong.spectra, wrong.pitch, letters, wrong.speech, factors, 35.0) > 5).mean() > 0.9
    assert (inhuman(clips.spectra, clips.pitch, letters, clips.speech, factors, 35.0) < 0).all()
