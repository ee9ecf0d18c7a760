from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whispertune.errors import RecipeError
from whispertune.features.frames import convolved_index, count_frames, select_frames
from whispertune.features.log_mel import SILENT_MEL_FRAMES, WINDOW_MEL_FRAMES, WINDOW_SAMPLES, num_speech_mel_frames
from whispertune.features.options import DENSE, WINDOW_FRAMES, FrameOptions

NUM_SAMPLES = st.integers(0, WINDOW_SAMPLES)
OPTIONS = st.builds(
    FrameOptions,
    stride=st.integers(1, 200) | st.sampled_from([1500, 2000]),
    margin=st.integers(0, 100) | st.sampled_from([0, 1500]),
    edge=st.integers(0, 100) | st.sampled_from([0, 1, 1500]),
)


@given(NUM_SAMPLES, OPTIONS)
def test_thinned_selection(num_samples: int, options: FrameOptions) -> None:
    selection = select_frames(num_samples, options)
    positions, counts = selection.positions, selection.counts
    assert positions.dtype == counts.dtype == np.int64
    assert positions.shape == counts.shape
    assert counts.sum() == WINDOW_FRAMES
    assert (np.diff(positions) > 0).all()
    assert positions[0] >= 0
    assert positions[-1] < WINDOW_FRAMES
    kept_until = min(WINDOW_FRAMES, -(-num_samples // 320) + options.margin)
    edge_from = max(kept_until, WINDOW_FRAMES - options.edge)
    kept_whole = (positions < kept_until) | (positions >= edge_from)
    assert set(range(kept_until)) | set(range(edge_from, WINDOW_FRAMES)) == set(positions[kept_whole])
    assert (counts[kept_whole] == 1).all()
    assert ((counts >= 1) & (counts <= options.stride)).all()
    # Each stands for a stretch that it lies in: the stretches tile the window.
    ends = counts.cumsum()
    starts = ends - counts
    assert ((starts <= positions) & (positions < ends)).all()
    # Of its stretch it is a median: no other frame is nearer, taken together, to all that it stands for.
    for position, start, end in zip(positions[~kept_whole], starts[~kept_whole], ends[~kept_whole], strict=True):
        stretch = np.arange(start, end)
        distances = np.abs(stretch[:, None] - stretch).sum(axis=1)
        assert distances[position - start] == distances.min()
    # A block is as long as it may be: `stride`, or its distance from what is kept whole on either side (or two frames).
    done, left = starts - kept_until, edge_from - starts
    longest = np.minimum(np.maximum(done, 2), np.maximum(left // 2, 2)).clip(max=np.minimum(left, options.stride))
    assert (counts == longest)[~kept_whole].all()


@given(NUM_SAMPLES)
def test_dense_is_every_frame_once(num_samples: int) -> None:
    for options in (DENSE, FrameOptions(stride=1), FrameOptions(margin=1500), FrameOptions(edge=1500)):
        selection = select_frames(num_samples, options)
        np.testing.assert_array_equal(selection.positions, np.arange(WINDOW_FRAMES))
        np.testing.assert_array_equal(selection.counts, 1)


def test_speech_is_rounded_up_to_whole_frames() -> None:
    options = FrameOptions(margin=0, edge=0, stride=1500)
    for num_samples, speech in [(1, 1), (320, 1), (321, 2), (640, 2), (641, 3)]:
        selection = select_frames(num_samples, options)
        assert selection.counts[: speech + 2].tolist() == [1] * speech + [2, 2]


def test_blocks_grow_with_the_distance_from_what_is_kept() -> None:
    options = FrameOptions(margin=0, edge=0, stride=60)
    assert select_frames(320 * 1400, options).counts[1400:].tolist() == [2, 2, 4, 8, 16, 32, 18, 9, 4, 2, 2, 1]


@given(NUM_SAMPLES, OPTIONS | st.just(DENSE))
def test_convolved_index_sees_the_same_log_mel(num_samples: int, options: FrameOptions) -> None:
    """Encoder frame f sees log-mel frames 2 f - 2 to 2 f + 2, zeros outside; the canvas must show it the same."""
    speech = num_speech_mel_frames(num_samples)
    canvas_frames = min(WINDOW_MEL_FRAMES, speech + SILENT_MEL_FRAMES + speech % 2)  # as log_mel_speech makes them

    def seen(frames: np.ndarray, num_mel_frames: int) -> np.ndarray:
        field = 2 * frames[:, None] + np.arange(-2, 3)
        outside = (field < 0) | (field >= num_mel_frames)
        return np.where(outside, -1, np.minimum(field, speech))  # all silence is one: `speech`

    positions = select_frames(num_samples, options).positions
    index = convolved_index(positions, canvas_frames)
    assert ((index >= 0) & (index < canvas_frames // 2)).all()
    np.testing.assert_array_equal(seen(index, canvas_frames), seen(positions, WINDOW_MEL_FRAMES))


@pytest.mark.parametrize(
    "wrong", [{"stride": 0}, {"stride": -1}, {"margin": -1}, {"margin": 1501}, {"edge": -1}, {"edge": 1501}]
)
def test_options_out_of_bounds(wrong: dict[str, int]) -> None:
    (name,) = wrong
    with pytest.raises(RecipeError, match=f"^{name} is"):
        FrameOptions(**wrong)  # type: ignore[arg-type]


def test_counted_frames_are_the_selected_ones() -> None:
    num_samples = [1, 319, 320, 321, 16_000, 77_777, 464_001, 480_000]
    for options in (DENSE, FrameOptions(), FrameOptions(stride=7, margin=3, edge=0)):
        expected = [len(select_frames(samples, options).positions) for samples in num_samples]
        assert count_frames(num_samples, options).tolist() == expected
