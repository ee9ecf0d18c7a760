"""Generated silence and noise: their spectra, levels and seeds."""

from __future__ import annotations

import numpy as np
import pytest

from whispertune.evaluation.probes.sounds import CLICK_PEAK, NOISE_LEVEL, SOUND_KINDS, SoundKind, generate_sound

RATE = 16_000
SECONDS = 30


def sound(kind: SoundKind, seed: int = 0) -> np.ndarray:
    return generate_sound(kind, SECONDS * RATE, seed)


def power_between(waveform: np.ndarray, low: float, high: float) -> float:
    """Mean power (arbitrary units) of a band, Hz."""
    spectrum = np.abs(np.fft.rfft(waveform)) ** 2
    frequencies = np.fft.rfftfreq(len(waveform), 1 / RATE)
    return float(spectrum[(frequencies >= low) & (frequencies < high)].sum() / len(waveform))


@pytest.mark.parametrize("kind", SOUND_KINDS)
def test_a_sound_follows_from_its_kind_and_seed(kind: SoundKind) -> None:
    waveform = sound(kind)
    assert (waveform.dtype, waveform.shape) == (np.float32, (SECONDS * RATE,))
    assert np.isfinite(waveform).all()
    assert np.abs(waveform).max() < 1
    assert np.array_equal(waveform, sound(kind))
    assert np.array_equal(waveform, sound(kind, seed=1)) == (kind == "digital silence")


def test_silence_is_digital() -> None:
    assert not sound("digital silence").any()


@pytest.mark.parametrize("kind", ["white noise", "pink noise", "hum"])
def test_steady_noises_lie_at_minus_40_db(kind: SoundKind) -> None:
    assert np.sqrt(np.mean(sound(kind) ** 2)) == pytest.approx(NOISE_LEVEL, rel=1e-3)


def test_white_noise_is_flat_and_pink_noise_has_equal_octaves() -> None:
    white, pink = sound("white noise"), sound("pink noise")
    for low in (125, 500, 2000):
        assert power_between(white, 2 * low, 4 * low) / power_between(white, low, 2 * low) == pytest.approx(2, rel=0.1)
        assert power_between(pink, 2 * low, 4 * low) / power_between(pink, low, 2 * low) == pytest.approx(1, rel=0.1)
    assert pink.mean() == pytest.approx(0, abs=1e-6)


def test_hum_is_50_hz_and_its_harmonics() -> None:
    waveform = sound("hum")
    lines = [power_between(waveform, 50 * n - 1, 50 * n + 1) for n in range(1, 11)]
    assert sum(lines) == pytest.approx(power_between(waveform, 0, 8000), rel=1e-3)
    assert [lines[0] / line for line in lines] == pytest.approx([n**2 for n in range(1, 11)], rel=1e-2)


def test_clicks_are_short_and_rare() -> None:
    waveform = sound("clicks")
    assert 0.3 * CLICK_PEAK < np.abs(waveform).max() <= 2 * CLICK_PEAK
    sounding = waveform != 0
    onsets = int((np.diff(sounding.astype(int), prepend=0) == 1).sum())
    assert 30 < onsets < 90  # two a second on average, some of them together
    assert sounding.mean() < 0.05
