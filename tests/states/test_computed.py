from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from whispertune.errors import AudioError, RunFolderError
from whispertune.features.frames import select_frames
from whispertune.features.log_mel import WINDOW_SAMPLES
from whispertune.features.options import DENSE, FrameOptions
from whispertune.model.attention import PADDING_LOG_WEIGHT
from whispertune.states import computed
from whispertune.states.computed import (
    BATCH_FRAMES,
    LOOK_AHEAD,
    ComputedStates,
    EncoderStates,
    WindowFeatures,
    encode,
    encoding_batches,
    window_features,
)
from whispertune.states.stored import StoredStates
from whispertune.states.views import StoredViews
from whispertune.system.lazy import Anew

sys.path.append(str(Path(__file__).parents[1] / "model"))
from random_whisper import random_whisper

ENCODER = random_whisper().encoder
THINNED = FrameOptions()
LENGTHS = [40_000, 5_000, 90_000, 300, 33_000, 5_000]
WAVEFORMS = [
    (0.1 * np.random.default_rng(seed).standard_normal(n)).astype(np.float32) for seed, n in enumerate(LENGTHS)
]


def features(index: int, frames: FrameOptions = THINNED) -> WindowFeatures:
    return window_features(WAVEFORMS[index], 80, frames)


def assert_row(states: EncoderStates, row: int, expected: EncoderStates, tolerance: float = 1e-4) -> None:
    """Row `row` equals the one row of `expected`, and is padding behind."""
    num_frames = expected.states.shape[1]
    torch.testing.assert_close(
        states.states[row, :num_frames].float(), expected.states[0].float(), rtol=tolerance, atol=tolerance
    )
    if states.log_weights is None:
        assert expected.log_weights is None
        assert states.states.shape[1] == num_frames
        return
    assert expected.log_weights is not None
    torch.testing.assert_close(states.log_weights[row, :num_frames], expected.log_weights[0])
    assert states.log_weights[row, num_frames:].eq(PADDING_LOG_WEIGHT).all()


@torch.no_grad()
def alone(index: int, frames: FrameOptions = THINNED) -> EncoderStates:
    return encode(ENCODER, [features(index, frames)])


@settings(deadline=None)
@given(st.lists(st.integers(1, WINDOW_SAMPLES), max_size=40), st.sampled_from([THINNED, DENSE]))
def test_encoding_batches(num_samples: list[int], frames: FrameOptions) -> None:
    batches = encoding_batches(num_samples, frames)
    assert sorted(i for batch in batches for i in batch) == list(range(len(num_samples)))
    sizes = [len(select_frames(n, frames).positions) for n in num_samples]
    order = [sizes[i] for batch in batches for i in batch]
    assert order == sorted(order, reverse=True)
    for batch in batches:
        assert len(batch) == 1 or max(sizes[i] for i in batch) * len(batch) <= BATCH_FRAMES
    assert batches == encoding_batches(num_samples, frames)


@pytest.mark.parametrize("workers", [1, 4])
def test_computed_states_first_all_clean_then_all_altered(workers: int) -> None:
    seen = []

    def copies(index: int, view: int) -> list[WindowFeatures]:
        seen.append((index, view))
        return [features(index), features((index + 1) % 6)]

    states = ComputedStates(ENCODER, copies, workers=workers).fetch([4, 1, 2], 7)
    assert sorted(seen) == [(1, 7), (2, 7), (4, 7)]
    assert states.states.shape[0] == 6
    assert not states.states.requires_grad
    for row, index in enumerate([4, 1, 2, 5, 2, 3]):
        assert_row(states, row, alone(index))


def test_looking_ahead_changes_no_result() -> None:
    """Features are begun before they are fetched, each once; what was not announced is computed all the same."""
    prefilled: list[tuple[int, int]] = []
    ahead = threading.Event()

    def rows(index: int, view: int) -> list[WindowFeatures]:
        prefilled.append((index, view))
        if index == 5:
            ahead.set()
        return [features((index + view) % 6)]

    batches = [[0, 2], [1, 5], [3], [4]]
    source = ComputedStates(ENCODER, rows, workers=2)
    plain = {view: [source.fetch(batch, view) for batch in batches] for view in (1, 2)}
    prefilled.clear()
    ahead.clear()
    source.prepare(batches, 1)
    assert ahead.wait(20)  # of the second batch, before the first is asked for
    found = [source.fetch(batch, 1) for batch in batches[:2]]
    assert torch.equal(source.fetch([4], 2).states, plain[2][3].states)  # not what comes next
    found += [source.fetch(batch, 1) for batch in batches[2:]]
    for ours, theirs in zip(found, plain[1], strict=True):
        assert torch.equal(ours.states, theirs.states)
    assert sorted(prefilled) == sorted([*((index, 1) for index in range(6)), (4, 2)])
    # A new epoch is announced before the old one has ended.
    source.prepare(batches, 1)
    source.prepare(batches[::-1], 2)
    for batch, theirs in zip(batches[::-1], plain[2][::-1], strict=True):
        assert torch.equal(source.fetch(batch, 2).states, theirs.states)


def test_no_more_is_prepared_than_a_few_batches() -> None:
    prefilled: list[int] = []

    def rows(index: int, view: int) -> list[WindowFeatures]:
        prefilled.append(index)
        return [features(0)]

    source = ComputedStates(ENCODER, rows, workers=1)
    source.prepare(Anew(lambda: ([i] for i in count())), 0)  # without an end: no list is made of it
    source.fetch([0], 0)
    source._pool.shutdown()
    assert len(prefilled) == 1 + LOOK_AHEAD


def test_a_fault_in_what_was_prepared_shows_where_it_is_used() -> None:
    def rows(index: int, view: int) -> list[WindowFeatures]:
        if index == 1:
            raise AudioError("b.wav: is gone")
        return [features(0)]

    source = ComputedStates(ENCODER, rows, workers=1)
    source.prepare([[0], [1], [2]], 0)
    source.fetch([0], 0)
    with pytest.raises(AudioError, match=r"b\.wav"):
        source.fetch([1], 0)


def test_gradients_reach_a_trained_encoder_only() -> None:
    whisper = random_whisper()
    for trained in (False, True):
        source = ComputedStates(whisper.encoder, lambda i, _: [features(i)], workers=1, trained=trained)
        assert source.fetch([0, 1]).states.requires_grad == trained


def test_mask_alters_the_log_mel() -> None:
    def mask(log_mel: np.ndarray) -> np.ndarray:
        log_mel[:, :10] = 0
        return log_mel

    masked = window_features(WAVEFORMS[0], 80, THINNED, mask)
    plain = features(0)
    assert masked.log_mel[:, :10].eq(0).all()
    assert torch.equal(masked.log_mel[:, 10:], plain.log_mel[:, 10:])
    np.testing.assert_array_equal(masked.index, plain.index)


def test_rows_and_types() -> None:
    states = EncoderStates(torch.randn(3, 4, 2), torch.randn(3, 4))
    assert states.log_weights is not None
    chosen = states.select([2, 0])
    assert torch.equal(chosen.states, states.states[[2, 0]])
    assert chosen.log_weights is not None
    assert torch.equal(chosen.log_weights, states.log_weights[[2, 0]])
    half = states.to(torch.device("cpu"), torch.bfloat16)
    assert half.states.dtype == torch.bfloat16
    assert half.log_weights is not None
    assert half.log_weights.dtype == torch.float32
    dense = EncoderStates(torch.randn(3, 4, 2), None)
    assert dense.select([1]).log_weights is None
    assert dense.to(torch.device("cpu"), torch.float32).log_weights is None


def test_when_memory_runs_out_half_of_the_windows_are_encoded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And give the same states, rows of different lengths and an unreadable one among them."""
    encoder = ENCODER
    generator = np.random.default_rng(0)
    windows = [generator.standard_normal(3200 * n).astype(np.float32) for n in (9, 5, 7, 2, 3)]
    features = [window_features(w, 80, FrameOptions(), readable=n != 3) for n, w in enumerate(windows)]
    whole = computed.encode_frozen(encoder, features)
    encode = computed.encode

    def cramped(encoder: Any, some: Any) -> EncoderStates:
        if len(some) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return encode(encoder, some)

    monkeypatch.setattr(computed, "encode", cramped)
    halved = computed.encode_frozen(encoder, features)
    assert (halved.num_frames, halved.unreadable) == (whole.num_frames, whole.unreadable)
    torch.testing.assert_close(halved.states, whole.states, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(halved.log_weights, whole.log_weights)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_stored_states_are_read_ahead_for_a_gpu(device: str) -> None:
    """In the announced order, a few batches at a time; other batches, and errors, come as they would without."""
    read: list[tuple[int, ...]] = []

    class Store:
        held = False

        def fetch(self, indices: Sequence[int]) -> EncoderStates:
            read.append(tuple(indices))
            if 9 in indices:
                raise RunFolderError("was cut short")
            return EncoderStates(torch.tensor(indices)[:, None, None].float(), None)

    views = StoredViews(2, lambda number: cast(StoredStates, Store()), torch.device(device))
    batches = [[1, 2], [3], [4, 5], [9], [6]]
    views.prepare(batches, 3)
    if device == "meta":
        deadline = time.monotonic() + 30
        while len(read) < computed.LOOK_AHEAD and time.monotonic() < deadline:
            time.sleep(0.01)
    assert read == ([(1, 2), (3,)] if device == "meta" else [])
    found = []
    for batch in (*batches[:2], [7, 8], *batches[2:]):  # one that was not announced
        try:
            found.append(views.fetch(batch, 3).states.flatten().tolist())
        except RunFolderError:
            found.append([9.0])
    assert found == [[1, 2], [3], [7, 8], [4, 5], [9], [6]]
    assert sorted(read) == sorted([(7, 8), *(tuple(batch) for batch in batches)])  # nothing twice


@pytest.mark.parametrize(("device", "spare"), [("meta", 400), ("meta", 399), ("meta", 10**9), ("cpu", 10**9)])
def test_states_that_are_read_again_move_to_the_gpu_if_there_is_room(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], device: str, spare: int
) -> None:
    """A quarter of what it has to spare; not in the first epoch, when nobody knows that; never to a CPU."""
    asked: list[torch.device] = []

    class Store:
        held, layout = False, SimpleNamespace(num_bytes=100)

        def hold_on(self, device: torch.device) -> None:
            asked.append(device)
            if spare == 10**9:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            self.held = True

        def fetch(self, indices: Sequence[int]) -> EncoderStates:
            return EncoderStates(torch.tensor(indices)[:, None, None].float(), None)

    monkeypatch.setattr("whispertune.states.views.spare_memory_on", lambda device: spare)
    stores = [Store(), Store()]
    views = StoredViews(2, lambda number: cast(StoredStates, stores[number]), torch.device(device))
    for epoch in range(5):
        views.prepare([[1, 2], [3]], epoch)
        found = [views.fetch(batch, epoch).states.flatten().tolist() for batch in ([1, 2], [3], [4])]
        assert found == [[1, 2], [3], [4]]
        held = [store.held for store in stores]
        assert held == [epoch >= 2 and spare == 400, epoch >= 3 and spare == 400]
    times = {("meta", 400): 2, ("meta", 399): 0, ("meta", 10**9): 3, ("cpu", 10**9): 0}[device, spare]
    assert asked == [torch.device(device)] * times
    assert capsys.readouterr().err.count("on the GPU from here on") == (2 if spare == 400 else 0)
