from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whispertune.augment.drop_chunk import draw_chunks, drop_chunk
from whispertune.augment.drop_frequency import draw_bands, drop_frequency, remove_bands
from whispertune.augment.options import DropChunkOptions, DropFrequencyOptions


def white(num_samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=num_samples).astype(np.float32)


def power_between(waveform: np.ndarray, low: float, high: float) -> float:
    power = np.abs(np.fft.rfft(waveform * np.hanning(waveform.size))) ** 2
    hz = np.fft.rfftfreq(waveform.size, 1 / 16000)
    return float(power[(hz >= low) & (hz <= high)].sum())


def test_dropped_band_is_empty_and_the_rest_is_kept() -> None:
    waveform = white(32000)
    dropped = remove_bands(waveform, [1000.0, 4000.0], 300)
    for low in (1000, 4000):
        assert power_between(dropped, low, low + 300) < 1e-5 * power_between(waveform, low, low + 300)
    for low, high in ((0, 945), (1355, 3945), (4355, 8000)):
        assert power_between(dropped, low, high) == pytest.approx(power_between(waveform, low, high), rel=0.01)


def test_dropping_is_zero_phase() -> None:
    time = np.arange(16000) / 16000
    kept, gone = np.sin(2 * np.pi * 500 * time), np.sin(2 * np.pi * 1150 * time)
    dropped = remove_bands((kept + gone).astype(np.float32), [1000.0], 300)
    np.testing.assert_allclose(dropped[1600:-1600], kept[1600:-1600], atol=0.01)


def test_the_end_does_not_ring_into_the_start() -> None:
    waveform = np.zeros(16000, np.float32)
    waveform[-1] = 1
    assert np.abs(remove_bands(waveform, [1000.0], 300)[:8000]).max() < 1e-5


@given(num_samples=st.integers(0, 9000), seed=st.integers(0, 1000), max_bands=st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_drop_frequency_keeps_shape_and_input(num_samples: int, seed: int, max_bands: int) -> None:
    waveform = white(num_samples)
    before = waveform.copy()
    options = DropFrequencyOptions(probability=1.0, max_bands=max_bands)
    once = drop_frequency(waveform, options, np.random.default_rng(seed))
    again = drop_frequency(waveform, options, np.random.default_rng(seed))
    assert once.shape == waveform.shape
    assert once.dtype == np.float32
    np.testing.assert_array_equal(once, again)
    np.testing.assert_array_equal(waveform, before)


@given(seed=st.integers(0, 10000))
@settings(deadline=None)  # the machine may be busy
def test_bands_lie_within_the_limits(seed: int) -> None:
    options = DropFrequencyOptions(max_bands=4, width_hz=200, lowest_hz=300, highest_hz=3000)
    bands = draw_bands(options, np.random.default_rng(seed))
    assert 1 <= len(bands) <= 4
    assert all(300 <= low <= 2800 for low in bands)


@given(
    num_samples=st.integers(0, 50000),
    seed=st.integers(0, 1000),
    max_chunks=st.integers(1, 6),
    max_share=st.floats(0, 1),
)
@settings(deadline=None)  # the machine may be busy
def test_chunks_are_silent_and_the_rest_is_kept(num_samples: int, seed: int, max_chunks: int, max_share: float) -> None:
    waveform = np.ones(num_samples, np.float32)
    options = DropChunkOptions(probability=1.0, max_chunks=max_chunks, max_share=max_share)
    dropped = drop_chunk(waveform, options, np.random.default_rng(seed))
    assert dropped.shape == waveform.shape
    assert dropped.dtype == np.float32
    assert set(np.unique(dropped)) <= {0.0, 1.0}
    assert np.sum(dropped == 0) <= max_share * num_samples
    assert np.sum(np.diff(dropped, prepend=1) == -1) <= max_chunks
    assert (waveform == 1).all()


@given(seed=st.integers(0, 10000))
@settings(deadline=None)  # the machine may be busy
def test_chunks_last_as_long_as_asked(seed: int) -> None:
    options = DropChunkOptions(max_chunks=3, min_duration=0.1, max_duration=0.2, max_share=1.0)
    chunks = draw_chunks(16000, options, np.random.default_rng(seed))
    assert 1 <= len(chunks) <= 3
    for start, end in chunks:
        assert 0 <= start < end <= 16000
        assert 1600 <= end - start <= 3200


def test_probability_zero_keeps_the_waveform() -> None:
    waveform = white(1000)
    generator = np.random.default_rng(0)
    np.testing.assert_array_equal(drop_frequency(waveform, DropFrequencyOptions(), generator), waveform)
    np.testing.assert_array_equal(drop_chunk(waveform, DropChunkOptions(), generator), waveform)
