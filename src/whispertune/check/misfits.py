"""Detect clips whose audio does not match the text or the other clips: too much or too little text, wrong sample rate.

A clip is compared with those of its manifest, or of its speaker if there are enough, so results do not depend on what
else is checked. Errors also require an absolute bound, as something unusual in a set may still be normal speech.
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
"""Letters per digit, as a digit is spoken as a word."""
FAST_SPREADS, FAST_OCTAVES = 2.0, 0.45
"""A clip above both is much faster than the others."""
SHORT_LETTERS, SHORT_OCTAVES = 13, 0.6
"""Texts with fewer letters vary more in tempo, so they need this many octaves."""
FEWEST_LETTERS = 5
"""No conclusions are drawn from fewer letters: `août` and `ciao` are single syllables."""
LONG_LETTERS = 10
"""From this many letters on, an impossible rate is sufficient by itself."""
SLOWEST = 2.0
"""Letters per second, in clips over 3 s, below which much of the audio is not in the text."""


def misfits(
    sources: Sequence[Source], texts: TextFacts, audio: AudioFacts, valid: npt.NDArray[np.bool_]
) -> Iterator[Finding]:
    """Findings about the `valid` rows (n,), each compared with the valid rows of its own group."""
    for source in sources:
        rows = source.first + np.flatnonzero(valid[source.first : source.first + len(source.rows)])
        for script in np.unique(texts.scripts[rows]):
            members = rows[texts.scripts[rows] == script]
            for group in _by_speaker(members, texts.speakers[members]):
                yield from _misfits_of(group, NAMES[script], texts, audio)


def _by_speaker(rows: npt.NDArray[np.int64], speakers: npt.NDArray[np.int32]) -> Iterator[npt.NDArray[np.int64]]:
    """The rows of each speaker with enough rows, then all others together."""
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
