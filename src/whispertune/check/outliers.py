"""Clips that do not fit the others of their set: too much or too little text for the audio, a wrong sample rate."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from whispertune.check.measures import STEPS_PER_OCTAVE, Array

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
ENOUGH_EVIDENCE = 8.5
"""Nats: more than any one of them can give."""
SMALLEST_SPREAD = 0.12
"""Octaves. Below it a set is too uniform for its own spread to be believed."""


Float = npt.NDArray[np.float64]


def tempo(num_letters: npt.ArrayLike, seconds: npt.ArrayLike) -> tuple[Float, Float]:
    """How much faster (octaves) each clip is spoken than others of its length, and the same in spreads.

    num_letters, seconds: (n,), of sound clips. Short texts take longer a letter and vary more, so what is expected
    is a + b letters, then the running median of the residual over the clips nearest in length; the spread is that
    of the faster half alone (the slower half holds pauses).
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
    quantiles = np.quantile(windows, [0.5, 0.8], axis=1)  # 0.8: 0.84 sigma above the median of a normal
    middle, upper = quantiles[0][starts], quantiles[1][starts]
    faster, spread = np.empty_like(residual), np.empty_like(residual)
    faster[order] = residual[order] - middle
    spread[order] = np.maximum((upper - middle) / 0.84, SMALLEST_SPREAD)
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
    evidence = np.zeros((len(octaves), len(shift)))
    for values, spread in zip(features, spreads, strict=True):
        here = _surprise(values, spread)
        for row, octave in enumerate(octaves):
            evidence[row] += np.nan_to_num(here - _surprise(values - octave, spread))
    best = evidence.argmax(axis=0)
    strength = evidence[best, np.arange(len(shift))]
    # Words full of s lie lower in spectrum and pitch, but are spoken as fast as others.
    against = np.nan_to_num(_surprise(faster, spreads[2]) - _surprise(faster - octaves[best], spreads[2]))
    strength = np.where(against < MOST_AGAINST, 0.0, strength)
    return np.where(strength > 0, 2 ** octaves[best], 1.0), strength


def _surprise(values: Float, spread: float) -> Float:
    surprise: Float = np.minimum(np.square(values / spread) / 2, MOST_EVIDENCE)
    return surprise


def _spread(values: Float) -> float:
    """Standard deviation of the bulk, by the median absolute deviation."""
    known = values[np.isfinite(values)]
    return float(1.4826 * np.median(np.abs(known - np.median(known)))) if len(known) else 0.0
