from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whispertune.augment.options import SpeedOptions
from whispertune.augment.speed import change_speed, draw_speed


def sine(hz: float, num_samples: int = 16000) -> np.ndarray:
    return np.sin(2 * np.pi * hz * np.arange(num_samples) / 16000).astype(np.float32)


def pitch(waveform: np.ndarray) -> float:
    """The strongest frequency, in Hz."""
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(waveform.size), 1 << 18))
    return float(np.argmax(spectrum) * 16000 / (1 << 18))


@given(num_samples=st.integers(0, 20000), factor=st.floats(0.5, 2))
@settings(deadline=None)  # the machine may be busy
def test_duration_is_divided_by_the_factor(num_samples: int, factor: float) -> None:
    waveform = np.random.default_rng(0).normal(size=num_samples).astype(np.float32)
    before = waveform.copy()
    changed = change_speed(waveform, factor)
    assert changed.shape == (round(num_samples / factor),)
    assert changed.dtype == np.float32
    assert np.isfinite(changed).all()
    np.testing.assert_array_equal(waveform, before)


@pytest.mark.parametrize("factor", [0.8, 0.95, 1.05, 1.25])
def test_pitch_rises_by_the_factor_and_level_stays(factor: float) -> None:
    changed = change_speed(sine(440), factor)
    assert pitch(changed) == pytest.approx(440 * factor, abs=0.2)
    middle = changed[1000:-1000]
    assert np.sqrt(2 * np.mean(middle**2)) == pytest.approx(1, abs=0.01)


def test_faster_does_not_alias() -> None:
    # 6 kHz played twice as fast would be 12 kHz, above what 16 kHz audio can hold: it must vanish.
    assert np.abs(change_speed(sine(6000), 2.0)[500:-500]).max() < 1e-3


def test_factor_one_keeps_the_waveform() -> None:
    waveform = sine(440)
    np.testing.assert_array_equal(change_speed(waveform, 1.0), waveform)


def test_draw_speed_takes_every_factor_and_obeys_the_probability() -> None:
    generator = np.random.default_rng(0)
    options = SpeedOptions(probability=0.5, factors=(0.9, 1.1))
    drawn = [draw_speed(options, generator) for _ in range(4000)]
    assert set(drawn) == {0.9, 1.0, 1.1}
    assert drawn.count(1.0) / 4000 == pytest.approx(0.5, abs=0.03)
    assert drawn.count(0.9) / 4000 == pytest.approx(0.25, abs=0.03)
    assert {draw_speed(SpeedOptions(factors=(0.9,)), generator) for _ in range(50)} == {1.0}
