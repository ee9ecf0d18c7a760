from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whispertune.augment.options import SpecAugmentOptions
from whispertune.augment.spec_augment import spec_augment


def random_log_mel(n_mels: int, num_frames: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n_mels, num_frames)).astype(np.float32)


@given(
    n_mels=st.integers(1, 128),
    num_frames=st.integers(0, 400),
    seed=st.integers(0, 1000),
    time_masks=st.integers(0, 3),
    frequency_masks=st.integers(0, 3),
)
@settings(deadline=None)  # the machine may be busy
def test_masks_are_no_larger_than_asked_and_hold_the_mean(
    n_mels: int, num_frames: int, seed: int, time_masks: int, frequency_masks: int
) -> None:
    log_mel = random_log_mel(n_mels, num_frames)
    before = log_mel.copy()
    options = SpecAugmentOptions(
        probability=1.0,
        time_masks=time_masks,
        max_time_share=0.1,
        frequency_masks=frequency_masks,
        max_frequency_bins=10,
    )
    masked = spec_augment(log_mel, options, np.random.default_rng(seed))
    assert masked.shape == log_mel.shape
    assert masked.dtype == np.float32
    np.testing.assert_array_equal(log_mel, before)

    changed = masked != log_mel
    frames, bins = changed.all(axis=0), changed.all(axis=1)
    np.testing.assert_array_equal(changed, frames[None, :] | bins[:, None])  # whole frames and bins only
    if not changed.all():
        assert frames.sum() <= time_masks * 0.1 * num_frames
        assert bins.sum() <= frequency_masks * 10
    if changed.any():
        np.testing.assert_allclose(masked[changed], log_mel.mean(), atol=1e-5)


def test_mask_widths_reach_from_nothing_to_the_limit() -> None:
    log_mel = random_log_mel(80, 200)
    times = SpecAugmentOptions(probability=1.0, time_masks=1, max_time_share=0.05, frequency_masks=0)
    bins = SpecAugmentOptions(probability=1.0, time_masks=0, frequency_masks=1, max_frequency_bins=7)
    generator = np.random.default_rng(0)
    widths = {int((spec_augment(log_mel, times, generator) != log_mel)[0].sum()) for _ in range(300)}
    assert widths == set(range(11))
    widths = {int((spec_augment(log_mel, bins, generator) != log_mel)[:, 0].sum()) for _ in range(300)}
    assert widths == set(range(8))


def test_probability() -> None:
    log_mel = random_log_mel(80, 100)
    generator = np.random.default_rng(0)
    kept = spec_augment(log_mel, SpecAugmentOptions(), generator)
    np.testing.assert_array_equal(kept, log_mel)
    assert kept is not log_mel
    options = SpecAugmentOptions(probability=0.5, frequency_masks=20)
    changed = [not np.array_equal(spec_augment(log_mel, options, generator), log_mel) for _ in range(400)]
    assert np.mean(changed) == pytest.approx(0.5, abs=0.08)
