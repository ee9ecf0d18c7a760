"""What is stored comes back, whatever happens to the files; what does not come back is encoded again."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_samples import ENCODER, KEY, LENGTHS, WAVEFORMS, everything, features, fill, in_memory, layout, on_disk

from whispertune.errors import DataError, RunFolderError
from whispertune.features.options import DENSE, FrameOptions
from whispertune.model.attention import PADDING_LOG_WEIGHT
from whispertune.states import computed as states
from whispertune.states.computed import EncoderStates, encode, window_features
from whispertune.states.files import StateFolder
from whispertune.states.stored import StateLayout, StoredStates
from whispertune.system.precision import Precision

Build = Callable[[StateLayout, Path], StoredStates]
PLACES: dict[str, Build] = {
    "memory": lambda shape, folder: StoredStates(shape),
    "disk": lambda shape, folder: StoredStates(shape, StateFolder(folder / KEY, KEY, shape.batch_bytes)),
}


@pytest.mark.parametrize("build", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("frames", [FrameOptions(), DENSE], ids=["thinned", "dense"])
def test_fetched_is_what_encoding_gives(tmp_path: Path, build: Build, frames: FrameOptions) -> None:
    """Each row is that of its window encoded alone, and padding behind."""
    store = build(layout(frames=frames), tmp_path)
    assert sorted(store.fill(store.missing(), ENCODER, lambda i: features(i, frames), workers=2)) == sorted(
        map(len, store.layout.batches)
    )
    for indices in (list(range(len(LENGTHS))), [3], [5, 0, 5]):
        fetched = store.fetch(indices)
        for row, index in enumerate(indices):
            with torch.no_grad():
                alone = encode(ENCODER, [features(index, frames)])
            num_frames = alone.states.shape[1]
            torch.testing.assert_close(fetched.states[row, :num_frames], alone.states[0], rtol=1e-4, atol=1e-4)
            assert not fetched.states[row, num_frames:].any()
            if frames is DENSE:
                assert fetched.log_weights is None
            else:
                assert fetched.log_weights is not None
                assert alone.log_weights is not None
                torch.testing.assert_close(fetched.log_weights[row, :num_frames], alone.log_weights[0])
                assert fetched.log_weights[row, num_frames:].eq(PADDING_LOG_WEIGHT).all()


@pytest.mark.parametrize("build", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("frames", [FrameOptions(), DENSE], ids=["thinned", "dense"])
def test_on_a_device_they_are_the_same(tmp_path: Path, build: Build, frames: FrameOptions) -> None:
    store = build(layout(frames=frames), tmp_path)
    list(store.fill(store.missing(), ENCODER, lambda i: features(i, frames), workers=1))
    store.unreadable.add(3)
    some = (list(range(len(LENGTHS))), [3], [5, 0, 5])
    expected = [store.fetch(indices) for indices in some]
    store.hold_on(torch.device("cpu"))
    assert store.held
    for path in state_files(tmp_path):
        path.unlink()  # not read any more
    for indices, wanted in zip(some, expected, strict=True):
        found = store.fetch(indices)
        assert torch.equal(found.states, wanted.states)
        assert (found.log_weights is None) == (wanted.log_weights is None)
        assert found.log_weights is None or torch.equal(found.log_weights, cast(torch.Tensor, wanted.log_weights))
        assert (found.num_frames, found.unreadable) == (wanted.num_frames, wanted.unreadable)


def state_files(folder: Path, key: str = KEY) -> list[Path]:
    return sorted((folder / key).glob("*.states"))


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_files_hold_the_bits_that_memory_holds(tmp_path: Path, name: str) -> None:
    precision = Precision(name)
    expected = in_memory(precision)
    assert expected.dtype == precision.dtype
    store = on_disk(tmp_path, precision)
    assert fill(store) == [0, 1, 2, 3, 4]
    assert torch.equal(everything(store), expected)
    assert sum(path.stat().st_size - 4 for path in state_files(tmp_path)) == store.layout.num_bytes
    later = on_disk(tmp_path, precision)
    assert fill(later) == []
    assert torch.equal(everything(later), expected)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    """A complete store, and its states."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(states, "BATCH_FRAMES", 260)
        store = on_disk(folder)
        fill(store)
        return folder, everything(store)


def copy_of(whole: tuple[Path, torch.Tensor], tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True))


def test_the_files_are_those_that_are_tried_below(whole: tuple[Path, torch.Tensor]) -> None:
    files = state_files(whole[0])
    assert len(files) == 5
    assert {*(whole[0] / KEY).iterdir()} == {*files, whole[0] / KEY / "use"}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(number=st.integers(0, 4), place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_one_corrupted_byte_anywhere_is_found_and_mended(
    whole: tuple[Path, torch.Tensor], tmp_path: Path, number: int, place: float, flip: int
) -> None:
    folder = copy_of(whole, tmp_path)
    path = state_files(folder)[number]
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= flip
    path.write_bytes(content)
    store = on_disk(folder)
    assert fill(store) == [number]
    assert store.damaged == 1
    assert torch.equal(everything(store), whole[1])
    later = on_disk(folder)
    assert fill(later) == []
    assert not later.damaged


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(number=st.integers(0, 4), share=st.floats(0, 1), longer=st.binary(max_size=30))
def test_files_cut_short_and_lengthened(
    whole: tuple[Path, torch.Tensor], tmp_path: Path, number: int, share: float, longer: bytes
) -> None:
    """As a lost write after a power failure leaves them."""
    folder = copy_of(whole, tmp_path)
    path = state_files(folder)[number]
    content = path.read_bytes()
    changed = content[: int(share * len(content))] + longer
    path.write_bytes(changed)
    store = on_disk(folder)
    assert fill(store) == ([] if changed == content else [number])
    assert torch.equal(everything(store), whole[1])
    assert fill(on_disk(folder)) == []


def test_files_of_zeros_or_none(whole: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
    for zeros in (True, False):
        folder = copy_of(whole, tmp_path)
        for path in state_files(folder):
            path.write_bytes(bytes(path.stat().st_size)) if zeros else path.unlink()
        store = on_disk(folder)
        assert fill(store) == [0, 1, 2, 3, 4]
        assert store.damaged == (5 if zeros else 0)
        assert torch.equal(everything(store), whole[1])


def test_batches_of_another_store_or_place_count_for_nothing(whole: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
    """Files of the same size, with checksums of their own."""
    other = "f" * 64
    fill(on_disk(tmp_path, key=other))
    folder = copy_of(whole, tmp_path)
    for ours, theirs in zip(state_files(folder), state_files(tmp_path, other), strict=True):
        shutil.copyfile(theirs, ours)
    assert fill(on_disk(folder)) == [0, 1, 2, 3, 4]
    alike = StateFolder(tmp_path / "alike", KEY, [100, 100])
    for number in (0, 1):
        alike.write(number, memoryview(bytes(100)))
    assert alike.verified([0, 1]) == ({0, 1}, 0)
    shutil.copyfile(*state_files(tmp_path, "alike"))
    assert alike.verified([0, 1]) == ({0}, 1)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_gpu_encodes_while_states_are_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """One batch ahead, in order; a CPU has no time to spare."""
    encoder: Any = SimpleNamespace(conv1=SimpleNamespace(weight=torch.empty(1, device=device)))
    encoded = threading.Semaphore(0)
    ahead: list[bool] = []
    frozen, write = states.encode_frozen, StateFolder.write

    def encode_frozen(_: object, ready: Any) -> EncoderStates:
        found = frozen(ENCODER, ready)
        encoded.release()
        return found

    def slowly(folder: StateFolder, number: int, rows: memoryview, whole: bool = True) -> None:
        encoded.acquire()  # its own
        ahead.append(number < 4 and encoded.acquire(timeout=20 if device == "meta" else 0.2))
        if ahead[-1]:
            encoded.release()
        write(folder, number, rows, whole=whole)

    monkeypatch.setattr(states, "encode_frozen", encode_frozen)
    monkeypatch.setattr(StateFolder, "write", slowly)
    store = on_disk(tmp_path)
    windows = list(store.fill(store.missing(), encoder, features, workers=1))
    assert windows == [len(batch) for batch in store.layout.batches]
    assert ahead == [device == "meta"] * 4 + [False]
    assert torch.equal(everything(store), in_memory())


@pytest.mark.parametrize("done", [0, 1, 3, 5])
def test_an_interrupted_encoding_goes_on_where_it_stopped(tmp_path: Path, done: int) -> None:
    store = on_disk(tmp_path)
    for _ in itertools.islice(store.fill(store.missing(), ENCODER, features, workers=1), done):
        pass
    later = on_disk(tmp_path)
    assert fill(later) == list(range(done, 5))
    assert torch.equal(everything(later), in_memory())


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: os.truncate(path, 100)], ids=["removed", "cut short"])
def test_files_that_go_while_they_are_read(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    store = on_disk(tmp_path)
    fill(store)
    damage(state_files(tmp_path)[2])
    with pytest.raises(RunFolderError, match=r"0000002.states: was removed or cut short while a run read it"):
        everything(store)


def test_what_a_killed_process_was_writing_is_cleared_away(tmp_path: Path) -> None:
    fill(on_disk(tmp_path))
    unfinished = tmp_path / KEY / "1-00c0ffee.new"
    unfinished.write_bytes(b"half a batch")
    used = on_disk(tmp_path)
    assert not unfinished.exists()
    unfinished.write_bytes(b"what the other process is writing now")
    on_disk(tmp_path)
    assert unfinished.exists()
    del used


def test_audio_that_changed_its_length_is_an_error() -> None:
    store = StoredStates(layout())
    shorter = lambda i: window_features(WAVEFORMS[i][: -1000 if i == 4 else None], 80, layout().frames)  # noqa: E731
    with pytest.raises(DataError, match="window 4: its audio changed"):
        list(store.fill(range(5), ENCODER, shorter, workers=1))


# Several processes.


def test_processes_fill_one_store_together(tmp_path: Path) -> None:
    stores = [on_disk(tmp_path) for _ in range(3)]
    for again in range(2):
        shares = [store.missing(rank, 3) for rank, store in enumerate(stores)]
        assert shares == ([[], [], []] if again else [[0, 3], [1, 4], [2]])
        for store, share in zip(stores, shares, strict=True):
            list(store.fill(share, ENCODER, features, workers=1))
        for store in stores:
            store.require_others()
            assert torch.equal(everything(store), in_memory())
    # One process alone reads what they wrote.
    alone = on_disk(tmp_path)
    assert fill(alone) == []
    assert not alone.damaged


def test_a_part_that_another_process_did_not_write_is_an_error(tmp_path: Path) -> None:
    store = on_disk(tmp_path)
    list(store.fill(store.missing(0, 2), ENCODER, features, workers=1))
    with pytest.raises(RunFolderError, match="2 of the batches of states that other processes encoded are missing"):
        store.require_others()


def test_two_runs_at_once_write_the_same(tmp_path: Path) -> None:
    """Each encodes what was missing when it looked; whoever is later replaces a batch by the same bytes."""
    first, second = on_disk(tmp_path), on_disk(tmp_path)
    filling = [store.fill(store.missing(), ENCODER, features, workers=1) for store in (first, second)]
    for _ in zip(*filling, strict=True):
        pass
    for store in (first, second, on_disk(tmp_path)):
        assert fill(store) == []
        assert torch.equal(everything(store), in_memory())


# A full disk.


@pytest.mark.parametrize("nth", [1, 3, 5])
def test_a_disk_that_fills_up_amid_goes_on_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
    """Nothing encoded is lost, neither now nor for a later run, and nothing half written stays."""
    expected = in_memory()
    calls, writes = itertools.count(), itertools.count(1)
    original, replace = states.encode, Path.replace

    def full(path: Path, target: Path) -> Path:
        if next(writes) >= nth:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(path, target)

    monkeypatch.setattr(states, "encode", lambda *arguments: (next(calls), original(*arguments))[1])
    store = on_disk(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        assert fill(store) == [0, 1, 2, 3, 4]
    assert next(calls) == 5
    assert store.moved is not None
    assert store.moved.errno == errno.ENOSPC
    assert torch.equal(everything(store), expected)
    assert not list((tmp_path / KEY).glob("*.new"))
    later = on_disk(tmp_path)
    assert fill(later) == list(range(nth - 1, 5))
    assert torch.equal(everything(later), expected)
