"""How far a clip's tempo, pitch and spectrum lie from those of its set, and from those of people."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from whispertune.check.measures import STEPS_PER_OCTAVE, Array, log_frequencies

NEIGHBOURS = 61
"""Clips of about the same number of letters that a clip's tempo is compared with."""
FEWEST = 20
"""Clips below which a set says nothing about one of them."""
USUAL_RATES = (8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
LEAST_SHIFT = 0.4
"""Octaves between two sample rates that can be told from a voice: 16 kHz as 22.05 kHz are 0.46."""
SPREADS = (0.12, 0.25, 0.3)
"""Octaves: of the spectrum's shift, of pitch and of tempo among sound clips of one speaker."""
MOST_EVIDENCE = 6.0
"""Nats that one of the three may add: a creaky or a whispered clip has no pitch worth the name."""
MOST_AGAINST = -0.4
"""Nats: where tempo speaks against it as clearly as this, the rate is right."""
OVERWHELMING = 10.0
"""Nats of spectrum and pitch together (12 at most), from which on tempo does not matter: one word may be drawn out."""
ENOUGH_EVIDENCE = 8.5
"""Nats: more than any one of them can give."""
SPREAD_QUANTILE, SIGMAS = 0.7, 0.524
"""Of the residuals in a normal distribution. Higher ones are those of the faulty where a tenth is faulty."""
SMALLEST_SPREAD = 0.12
"""Octaves. Below it a set is too uniform for its own spread to be believed."""
HUMAN_HZ = 165.0
"""Median pitch: between the usual 120 of men, 210 of women, 260 of children."""
HUMAN_SPREADS = (0.25, 0.45, 0.35)
"""Octaves, between people: of the spectrum (formants), of pitch and of tempo."""
HUMAN_EVIDENCE = 5.0
"""Nats: nearly as much as one of the three can give (6), so that two must agree."""
FASTEST, TYPICAL = 22 / 35, 16 / 35
"""Of the letters a second that nobody speaks over an utterance: 22 letters of an alphabet a second are 9 syllables,
which is faster than the fastest of 17 languages are read on average (8 syllables: Pellegrino et al. 2019); 16 are
usual."""
FASTEST_PAUSE, TYPICAL_PAUSE = 0.15, 0.3
"""Seconds that an utterance takes besides: its last syllable is drawn out."""
SPEECH_LEVELS = {
    63: 38.6, 80: 43.5, 100: 54.4, 125: 57.7, 160: 56.8, 200: 60.2, 250: 60.3, 315: 59.0, 400: 62.1, 500: 62.1,
    630: 60.5, 800: 56.8, 1000: 53.7, 1250: 53.0, 1600: 52.0, 2000: 48.7, 2500: 48.1, 3150: 46.8, 4000: 45.6,
    5000: 44.5, 6300: 44.3, 8000: 43.7,
}  # fmt: skip
"""dB by third of an octave (Hz): the average spectrum of speech in 12 languages, which differ little (Byrne et al.
1994)."""


Float = npt.NDArray[np.float64]


def tempo(num_letters: npt.ArrayLike, seconds: npt.ArrayLike) -> tuple[Float, Float]:
    """How much faster (octaves) each clip is spoken than others of its length, and the same in spreads.

    num_letters, seconds: (n,), of sound clips. Short texts take longer a letter and vary more, so what is expected
    is a + b letters, then the running median of the residual over the clips nearest in length; the spread is that
    of the faster half alone (the slower half holds pauses), and of its slower part: the faulty clips are the fastest.
    """
    letters, time = np.asarray(num_letters, float), np.maximum(np.asarray(seconds, float), 0.02)
    if len(letters) < FEWEST:
        return np.zeros(len(letters)), np.zeros(len(letters))
    a, b = _robust_line(letters, time)
    residual = np.log2((a + b * letters) / time)
    order = np.argsort(letters, kind="stable")
    size = min(NEIGHBOURS, len(order))
    starts = np.clip(np.arange(len(order)) - size // 2, 0, len(order) - size)
    windows = np.lib.stride_tricks.sliding_window_view(residual[order], size)
    quantiles = np.quantile(windows, [0.5, SPREAD_QUANTILE], axis=1)
    middle, upper = quantiles[0][starts], quantiles[1][starts]
    faster, spread = np.empty_like(residual), np.empty_like(residual)
    faster[order] = residual[order] - middle
    spread[order] = np.maximum((upper - middle) / SIGMAS, SMALLEST_SPREAD)
    return faster, faster / spread


def _robust_line(x: Float, y: Float) -> tuple[float, float]:
    """a, b of y = a + b x with the least sum of |relative deviations|, by reweighting; both positive."""
    weights = 1 / y
    a, b = 0.1, float(np.median(y / np.maximum(x, 1)))
    for _ in range(20):
        design = np.stack([weights, weights * x], axis=1)
        a, b = np.linalg.lstsq(design, weights * y, rcond=None)[0]
        a, b = max(float(a), 0.02), max(float(b), 1e-3)
        relative = np.abs(y - a - b * x) / (a + b * x)
        weights = 1 / (a + b * x) / np.sqrt(np.maximum(relative, 0.02))
    return a, b


def spectral_shift(spectra: Array, reference: Array, most: int = 24) -> Float:
    """Octaves by which each spectrum (n, F), dB on a logarithmic axis, lies above the reference (F,).

    The shift with the highest correlation over the part of the axis that both cover.
    """
    shifts = range(-most, most + 1)
    scores = np.empty((len(shifts), len(spectra)))
    size = len(reference)
    for row, shift in enumerate(shifts):
        theirs = spectra[:, max(0, shift) : size + min(0, shift)].astype(float)
        ours = reference[max(0, -shift) : size + min(0, -shift)].astype(float)
        theirs = theirs - theirs.mean(axis=1, keepdims=True)
        ours = ours - ours.mean()
        norm = np.sqrt(np.square(theirs).sum(axis=1) * np.square(ours).sum())
        scores[row] = theirs @ ours / np.maximum(norm, 1e-9)
    octaves: Float = (np.argmax(scores, axis=0) - most) / STEPS_PER_OCTAVE
    return octaves


def wrong_rates(shift: Float, pitch: Float, faster: Float) -> tuple[Float, Float]:
    """(factor by which each clip plays too fast, evidence in nats); the factor is 1 where nothing else is likelier.

    shift, pitch, faster: (n,) octaves above the set's own, of spectrum, pitch and tempo; nan where unknown. All
    three move together if the header's sample rate is wrong, each for itself otherwise. Each is taken as normal
    around 0, or around the logarithm of the factor, with bounded evidence.
    """
    ratios = {
        b / a for a in USUAL_RATES for b in USUAL_RATES if abs(np.log2(b / a)) >= LEAST_SHIFT and 1 / 3 <= b / a <= 3
    }
    octaves = np.log2(sorted(ratios))
    features = (shift, pitch, faster)
    spreads = [max(least, _spread(values)) for values, least in zip(features, SPREADS, strict=True)]
    witnesses = np.zeros((3, len(octaves), len(shift)))
    for witness, values, spread in zip(witnesses, features, spreads, strict=True):
        here = _surprise(values, spread)
        for row, octave in enumerate(octaves):
            witness[row] = np.nan_to_num(here - _surprise(values - octave, spread))
    evidence = witnesses.sum(axis=0)
    best, clips = evidence.argmax(axis=0), np.arange(len(shift))
    strength = evidence[best, clips]
    # Words full of s lie lower in spectrum and pitch, but are spoken as fast as others.
    overwhelming = witnesses[0, best, clips] + witnesses[1, best, clips] > OVERWHELMING
    against = (witnesses[2, best, clips] < MOST_AGAINST) & ~overwhelming
    strength = np.where(against, 0.0, strength)
    strength = np.where(overwhelming, np.maximum(strength, OVERWHELMING), strength)
    return np.where(strength > 0, 2 ** octaves[best], 1.0), strength


def inhumanly_fast(num_letters: Float, seconds: Float, nobody: float) -> npt.NDArray[np.bool_]:
    """(n,) whether so many letters in so many seconds of speech are faster than people speak.

    nobody: letters a second of their script that nobody speaks over an utterance (`scripts.FASTEST`).
    """
    faster: npt.NDArray[np.bool_] = seconds < FASTEST_PAUSE + num_letters / (FASTEST * nobody)
    return faster


def inhuman(spectra: Array, hertz: Float, num_letters: Float, seconds: Float, factors: Float, nobody: float) -> Float:
    """(n,) nats by which each clip is likelier to be a person's if it is played `factors` times as slowly.

    As `wrong_rates`, but against what is known of people, whatever else is in the set. spectra: (n, F) dB. hertz: (n,)
    median pitch, nan where unknown. nobody: as in `inhumanly_fast`.
    """
    typical = TYPICAL_PAUSE + num_letters / (TYPICAL * nobody)
    features = (
        spectral_shift(spectra, human_spectrum()),
        np.log2(hertz / HUMAN_HZ),
        np.log2(typical / np.maximum(seconds, 0.02)),
    )
    evidence = np.zeros(len(factors))
    for values, spread in zip(features, HUMAN_SPREADS, strict=True):
        evidence += np.nan_to_num(_surprise(values, spread) - _surprise(values - np.log2(factors), spread))
    return evidence


@cache
def human_spectrum() -> Array:
    """(F,) dB on the logarithmic axis: the average spectrum of speech."""
    hertz = np.array(list(SPEECH_LEVELS), float)
    density = np.array(list(SPEECH_LEVELS.values())) - 10 * np.log10(hertz)
    levels: Array = np.interp(np.log(log_frequencies()), np.log(hertz), density).astype(np.float32)
    return levels


def _surprise(values: Float, spread: float) -> Float:
    surprise: Float = np.minimum(np.square(values / spread) / 2, MOST_EVIDENCE)
    return surprise


def _spread(values: Float) -> float:
    """Standard deviation of the bulk, by the median absolute deviation."""
    known = values[np.isfinite(values)]
    return float(1.4826 * np.median(np.abs(known - np.median(known)))) if len(known) else 0.0
