"""How far a clip's tempo, pitch and spectrum are from those of its set, and from normal speech."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from whispertune.check.measures import STEPS_PER_OCTAVE, Array, log_frequencies

NEIGHBOURS = 61
"""Number of clips with a similar number of letters that a clip's tempo is compared with."""
FEWEST = 20
"""Fewest clips in a set for comparing one of them with the others."""
USUAL_RATES = (8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
LEAST_SHIFT = 0.4
"""Smallest detectable ratio of sample rates in octaves: 16 kHz played as 22.05 kHz is 0.46."""
SPREADS = (0.12, 0.25, 0.3)
"""Standard deviations in octaves of spectral shift, pitch and tempo among good clips of one speaker."""
MOST_EVIDENCE = 6.0
"""Most nats that one of the three may add, as the pitch of creaky or whispered clips is unreliable."""
MOST_AGAINST = -0.4
"""Nats; if the evidence of tempo is below this, the rate is right."""
OVERWHELMING = 10.0
"""Nats of spectrum and pitch together (at most 12) above which tempo is ignored, as a single word may be drawn out."""
ENOUGH_EVIDENCE = 8.5
"""Nats; more than a single one of them can give."""
SPREAD_QUANTILE, SIGMAS = 0.7, 0.524
"""Quantile of the residuals in a normal distribution; faulty clips, up to a tenth of the set, lie above it."""
SMALLEST_SPREAD = 0.12
"""Octaves; a smaller measured spread is not trusted."""
HUMAN_HZ = 165.0
"""Median pitch: between the usual 120 of men, 210 of women, 260 of children."""
HUMAN_SPREADS = (0.25, 0.45, 0.35)
"""Standard deviations in octaves between speakers: spectrum (formants), pitch and tempo."""
HUMAN_EVIDENCE = 5.0
"""Nats; nearly as much as one of the three can give (6), so that two must agree."""
FASTEST, TYPICAL = 22 / 35, 16 / 35
"""Shares of the impossible rate in letters per second (`scripts.FASTEST`). 22 letters of an alphabet are 9 syllables
per second, more than the fastest of 17 languages averages when read (8: Pellegrino et al. 2019); 16 are typical."""
FASTEST_PAUSE, TYPICAL_PAUSE = 0.15, 0.3
"""Additional seconds per utterance, as its last syllable is drawn out."""
SPEECH_LEVELS = {
    63: 38.6, 80: 43.5, 100: 54.4, 125: 57.7, 160: 56.8, 200: 60.2, 250: 60.3, 315: 59.0, 400: 62.1, 500: 62.1,
    630: 60.5, 800: 56.8, 1000: 53.7, 1250: 53.0, 1600: 52.0, 2000: 48.7, 2500: 48.1, 3150: 46.8, 4000: 45.6,
    5000: 44.5, 6300: 44.3, 8000: 43.7,
}  # fmt: skip
"""dB by third-octave band (Hz): the average spectrum of speech in 12 languages, which differ little (Byrne et al.
1994)."""


Float = npt.NDArray[np.float64]


def tempo(num_letters: npt.ArrayLike, seconds: npt.ArrayLike) -> tuple[Float, Float]:
    """How much faster (octaves) each clip is spoken than others of its length, and the same in standard deviations.

    num_letters, seconds: (n,), of valid clips. Short texts take longer per letter and vary more, so the expected
    duration is a + b * letters, corrected by the running median over clips of similar length. The spread is estimated
    from the median and the 0.7 quantile, as the slower half includes pauses and the fastest clips may be faulty.
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
    """Positive a, b of y = a + b x that minimise the sum of |relative deviations|, by iterative reweighting."""
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
    """Octaves by which each spectrum (n, F), dB on a logarithmic axis, is shifted up from the reference (F,).

    This is the shift with the highest correlation over the overlapping part of the axis.
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
    """(factor by which each clip plays too fast, evidence in nats); the factor is 1 if no other is more likely.

    shift, pitch, faster: (n,) octaves above the set's own spectrum, pitch and tempo; nan if unknown. All three move
    together if the header's sample rate is wrong, and independently otherwise. Each is modelled as normal around 0, or
    around the logarithm of the factor, with bounded evidence.
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
    # Words with many sibilants shift spectrum and pitch, but not tempo.
    overwhelming = witnesses[0, best, clips] + witnesses[1, best, clips] > OVERWHELMING
    against = (witnesses[2, best, clips] < MOST_AGAINST) & ~overwhelming
    strength = np.where(against, 0.0, strength)
    strength = np.where(overwhelming, np.maximum(strength, OVERWHELMING), strength)
    return np.where(strength > 0, 2 ** octaves[best], 1.0), strength


def inhumanly_fast(num_letters: Float, seconds: Float, nobody: float) -> npt.NDArray[np.bool_]:
    """(n,) whether this many letters in this many seconds of speech are faster than people speak.

    nobody: impossible rate of their script in letters per second (`scripts.FASTEST`).
    """
    faster: npt.NDArray[np.bool_] = seconds < FASTEST_PAUSE + num_letters / (FASTEST * nobody)
    return faster


def inhuman(spectra: Array, hertz: Float, num_letters: Float, seconds: Float, factors: Float, nobody: float) -> Float:
    """(n,) nats by which each clip is more likely to be human speech if it is played `factors` times slower.

    As `wrong_rates`, but compared with speech in general instead of the set. spectra: (n, F) dB. hertz: (n,) median
    pitch, nan if unknown. nobody: as in `inhumanly_fast`.
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
