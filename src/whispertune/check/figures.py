"""Statistics of the data (durations, sample rates, speakers), and formatting of numbers."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from whispertune.check.results import CheckResults
from whispertune.data.audio.waveforms import SAMPLE_RATE, probe_audio
from whispertune.data.remote import as_path
from whispertune.errors import AudioError

MOST_SPEAKERS = 30
"""Most speakers to list, those with the most rows."""
MOST_BARS = 16
WIDTHS = (0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800)
"""Possible widths of a histogram bar, in seconds."""


def data_figures(report: CheckResults, workers: int) -> dict[str, Any]:
    """Statistics of all readable rows, for summary.json; empty if audio was not checked.

    seconds: total. sample_rates: Hz -> rows. durations: [from, to, rows] in seconds. duration_quantiles: 5, 50 and
    95 %. num_speakers, speakers: [name, rows, seconds] by decreasing rows; [] if none is named.
    """
    if report.audio is None:
        return {}
    seconds = report.audio.seconds[report.audio.readable].astype(float)
    quantiles = np.quantile(seconds, (0.05, 0.5, 0.95)).round(3).tolist() if len(seconds) else []
    speakers = _speakers(report)
    return {
        "seconds": float(seconds.sum()),
        "sample_rates": {str(rate): count for rate, count in _sample_rates(report, workers).most_common()},
        "durations": _histogram(seconds),
        "duration_quantiles": quantiles,
        "num_speakers": len(speakers),
        "speakers": speakers[:MOST_SPEAKERS],
    }


def _histogram(seconds: np.ndarray) -> list[list[float]]:
    if not len(seconds):
        return []
    longest = float(seconds.max())
    usual = float(np.quantile(seconds, 0.98))  # so that a few long clips do not squeeze all others into one bar
    width = next((width for width in WIDTHS if usual < width * MOST_BARS), WIDTHS[-1])
    counts = np.bincount(np.minimum(seconds / width, MOST_BARS).astype(np.int64)).tolist()
    bars = [[place * width, (place + 1) * width, count] for place, count in enumerate(counts)]
    bars[-1][1] = max(bars[-1][1], longest)  # the last bar holds all longer clips
    return bars


def _sample_rates(report: CheckResults, workers: int) -> Counter[int]:
    """Number of rows by the sample rate of their files; each file's header is read once."""
    assert report.audio is not None
    rows = Counter(
        source.rows.place(row)
        for source in report.sources
        for row in np.flatnonzero(report.audio.readable[source.first : source.first + len(source.rows)]).tolist()
    )

    def rate_of(place: tuple[str, tuple[int, int] | None]) -> int:
        try:
            return probe_audio(as_path(place[0]), within=place[1])[1]
        except AudioError:  # it was readable a moment ago
            return 0

    found: Counter[int] = Counter()
    with ThreadPoolExecutor(workers, "headers") as pool:
        for rate, count in zip(pool.map(rate_of, rows), rows.values(), strict=True):
            found[rate] += count
    return found


def _speakers(report: CheckResults) -> list[list[Any]]:
    assert report.audio is not None
    numbers, names = report.texts.speakers, report.texts.speaker_names
    counts = np.bincount(numbers, minlength=len(names)).tolist()
    totals = np.bincount(numbers, report.audio.seconds, minlength=len(names)).tolist()
    named = [[name, count, round(total, 1)] for name, count, total in zip(names, counts, totals, strict=True) if name]
    return sorted(named, key=lambda speaker: -speaker[1])


def as_duration(seconds: float) -> str:
    """`4.2 s`, `3 min 07 s`, `12 h 05 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    if seconds < 3599.5:
        return f"{round(seconds) // 60} min {round(seconds) % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def as_rate(rate: int) -> str:
    """`16 kHz`, `44.1 kHz`."""
    return f"{rate / 1000:g} kHz"


def is_narrow(rate: int) -> bool:
    """Whether a recording lacks frequencies that Whisper uses."""
    return 0 < rate < SAMPLE_RATE
