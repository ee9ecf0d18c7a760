"""Clips whose audio does not fit the text or the other clips: too much or too little text, a wrong sample rate.

A clip is compared with those of its own manifest, and of its own speaker if that has enough of them: what else is
checked beside them changes nothing. An error needs an absolute bound besides: what is unusual in a set may be usual
among people.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from whispertune.check.audio import AudioFacts
from whispertune.check.findings import Finding, Source
from whispertune.check.outliers import (
    ENOUGH_EVIDENCE,
    FEWEST,
    HUMAN_EVIDENCE,
    inhuman,
    inhumanly_fast,
    spectral_shift,
    tempo,
    wrong_rates,
)
from whispertune.check.scripts import FASTEST, NAMES
from whispertune.check.text import TextFacts

LETTERS_A_DIGIT = 4
"""A digit is spoken as a word."""
FAST_SPREADS, FAST_OCTAVES = 2.0, 0.45
"""From both on, a clip is much faster than the others."""
SHORT_LETTERS, SHORT_OCTAVES = 13, 0.6
"""Below so many letters, where words differ more in how their letters sound, it takes so many octaves."""
FEWEST_LETTERS = 5
"""`Août` and `Ciao` are one syllable: of fewer letters nothing is concluded."""
LONG_LETTERS = 10
"""Letters from which on the rate that nobody speaks is enough by itself."""
SLOWEST = 2.0
"""Letters a second, over 3 s and more, below which much of the audio is not in the text."""


def misfits(
    sources: Sequence[Source], texts: TextFacts, audio: AudioFacts, valid: npt.NDArray[np.bool_]
) -> Iterator[Finding]:
    """Findings of the `sound` rows (n,), each compared with the sound rows of its own group."""
    for source in sources:
        rows = source.first + np.flatnonzero(valid[source.first : source.first + len(source.rows)])
        for script in np.unique(texts.scripts[rows]):
            members = rows[texts.scripts[rows] == script]
            for group in _by_speaker(members, texts.speakers[members]):
                yield from _misfits_of(group, NAMES[script], texts, audio)


def _by_speaker(rows: npt.NDArray[np.int64], speakers: npt.NDArray[np.int32]) -> Iterator[npt.NDArray[np.int64]]:
    """The rows of each speaker who has enough of them, then all others together."""
    names, numbers = np.unique(speakers, return_inverse=True)
    sizes = np.bincount(numbers)
    order = np.argsort(numbers, kind="stable")
    parts = np.split(order, np.cumsum(sizes)[:-1]) if len(names) > 1 else [order]
    yield from (rows[part] for part in parts if len(part) >= FEWEST)
    if len(others := np.concatenate([part for part in parts if len(part) < FEWEST] or [order[:0]])):
        yield rows[np.sort(others)]


def _misfits_of(rows: npt.NDArray[np.int64], script: str, texts: TextFacts, audio: AudioFacts) -> Iterator[Finding]:
    letters = (texts.letters[rows] + (LETTERS_A_DIGIT - 1) * texts.digits[rows]).astype(float)
    seconds, speech = audio.seconds[rows].astype(float), np.maximum(audio.speech[rows].astype(float), 0.02)
    nobody = FASTEST.get(script, FASTEST[""])
    faster, spreads = tempo(letters, speech)
    factors, wrong = np.ones(len(rows)), np.zeros(len(rows), bool)
    if len(rows) >= FEWEST:
        spectra = audio.spectra[rows].astype(np.float32)
        usual = np.median(spectra - spectra.mean(axis=1, keepdims=True), axis=0)
        hertz = np.where(audio.pitch[rows] > 0, audio.pitch[rows], np.nan).astype(float)
        pitch = np.log2(hertz / np.nanmedian(hertz)) if np.isfinite(hertz).any() else hertz
        factors, evidence = wrong_rates(spectral_shift(spectra, usual), pitch, faster)
        wrong = evidence > ENOUGH_EVIDENCE
        wrong &= inhuman(spectra, hertz, letters, speech, factors, nobody) > HUMAN_EVIDENCE
    unusual = (spreads > FAST_SPREADS) & (faster > np.where(letters < SHORT_LETTERS, SHORT_OCTAVES, FAST_OCTAVES))
    too_fast = unusual & inhumanly_fast(letters, speech, nobody) & (letters >= FEWEST_LETTERS)
    too_fast |= (letters / speech > nobody) & (letters >= LONG_LETTERS)
    slow = (seconds > 3) & (letters / np.maximum(seconds, 0.02) < SLOWEST)
    for i in np.flatnonzero(wrong | unusual | too_fast | slow).tolist():
        detail = f"{letters[i]:.0f} letters in {speech[i]:.2f} s of speech"
        times = f", {2 ** faster[i]:.1f} times as many as usual in this set" if faster[i] > 0 else ""
        if wrong[i]:
            yield Finding(int(rows[i]), "wrong_sample_rate", f"plays {factors[i]:.2g} times as fast as the others")
        elif too_fast[i]:
            yield Finding(int(rows[i]), "too_fast", detail + times)
        elif unusual[i]:
            yield Finding(int(rows[i]), "fast", detail + times)
        else:
            yield Finding(int(rows[i]), "slow", f"{letters[i]:.0f} letters in {seconds[i]:.1f} s")
