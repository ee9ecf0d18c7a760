"""What is stored comes back, whatever happens to the files; what does not come back is encoded again."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_samples import ENCODER, KEY, LENGTHS, WAVEFORMS, everything, features, fill, in_memory, layout, on_disk

from whispertune import states
from whispertune.errors import DataError, RunFolderError
from whispertune.frames import DENSE, FrameOptions
from whispertune.model.attention import PADDING_LOG_WEIGHT
from whispertune.states import encode, window_features
from whispertune.store.files import StateFolder
from whispertune.store.stored import StateLayout, StoredStates

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
    with store.filling() as batches:
        assert sorted(store.fill(batches, ENCODER, lambda i: features(i, frames), workers=2)) == sorted(
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_files_hold_the_bits_that_memory_holds(tmp_path: Path, dtype: torch.dtype) -> None:
    expected = in_memory(dtype)
    assert expected.dtype == dtype
    store = on_disk(tmp_path, dtype)
    assert fill(store) == [0, 1, 2, 3, 4]
    assert torch.equal(everything(store), expected)
    assert (tmp_path / KEY / "states").stat().st_size == store.layout.num_bytes
    later = on_disk(tmp_path, dtype)
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
    sizes = {path.name: path.stat().st_size for path in (whole[0] / KEY).iterdir()}
    assert sizes.pop("use") == sizes.pop("fill") == 0
    assert set(sizes) == {"states", "journal-0"}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(["states", "journal-0"]), place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_one_corrupted_byte_anywhere_is_found_and_mended(
    whole: tuple[Path, torch.Tensor], tmp_path: Path, name: str, place: float, flip: int
) -> None:
    folder = copy_of(whole, tmp_path)
    path = folder / KEY / name
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= flip
    path.write_bytes(content)
    store = on_disk(folder)
    again = fill(store)
    assert again
    assert store.damaged
    assert torch.equal(everything(store), whole[1])
    if name == "states":
        assert len(again) == 1
    later = on_disk(folder)
    assert fill(later) == []
    assert not later.damaged


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(["states", "journal-0"]), share=st.floats(0, 1), longer=st.binary(max_size=30))
def test_files_cut_short_and_lengthened(
    whole: tuple[Path, torch.Tensor], tmp_path: Path, name: str, share: float, longer: bytes
) -> None:
    """As a kill within a write, or a lost write after a power failure, leaves them."""
    folder = copy_of(whole, tmp_path)
    path = folder / KEY / name
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))] + longer)
    store = on_disk(folder)
    fill(store)
    assert torch.equal(everything(store), whole[1])
    assert fill(on_disk(folder)) == []


@pytest.mark.parametrize("name", ["states", "journal-0"])
def test_a_file_of_zeros_or_none(whole: tuple[Path, torch.Tensor], tmp_path: Path, name: str) -> None:
    for content in (None, bytes((whole[0] / KEY / name).stat().st_size)):
        folder = copy_of(whole, tmp_path)
        path = folder / KEY / name
        path.unlink() if content is None else path.write_bytes(content)
        store = on_disk(folder)
        assert fill(store) == [0, 1, 2, 3, 4]
        assert torch.equal(everything(store), whole[1])


def test_a_journal_of_another_store_counts_for_nothing(whole: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
    """Nor do its single lines."""
    other = "f" * 64
    store = on_disk(tmp_path, key=other)
    fill(store)
    ours, theirs = (
        (folder / "journal-0").read_bytes().splitlines(keepends=True) for folder in (whole[0] / KEY, tmp_path / other)
    )
    for journal in (theirs, [ours[0], *theirs[1:]]):
        folder = copy_of(whole, tmp_path)
        (folder / KEY / "journal-0").write_bytes(b"".join(journal))
        assert fill(on_disk(folder)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("done", [0, 1, 3, 5])
def test_an_interrupted_encoding_goes_on_where_it_stopped(tmp_path: Path, done: int) -> None:
    store = on_disk(tmp_path)
    with contextlib.suppress(KeyboardInterrupt), store.filling() as batches:
        for _ in itertools.islice(store.fill(batches, ENCODER, features, workers=1), done):
            pass
        raise KeyboardInterrupt
    later = on_disk(tmp_path)
    assert fill(later) == list(range(done, 5))
    assert torch.equal(everything(later), in_memory())


def test_readers_keep_what_they_have_while_the_files_go(tmp_path: Path) -> None:
    store = on_disk(tmp_path)
    fill(store)
    expected = everything(store)
    shutil.rmtree(tmp_path / KEY)
    assert torch.equal(everything(store), expected)


def test_files_cut_short_while_they_are_read(tmp_path: Path) -> None:
    store = on_disk(tmp_path)
    fill(store)
    os.truncate(tmp_path / KEY / "states", 100)
    with pytest.raises(RunFolderError, match="cut short while a run read it"):
        everything(store)


def test_audio_that_changed_its_length_is_an_error() -> None:
    store = StoredStates(layout())
    shorter = lambda i: window_features(WAVEFORMS[i][: -1000 if i == 4 else None], 80, layout().frames)  # noqa: E731
    with pytest.raises(DataError, match="window 4: its audio changed"):
        list(store.fill(range(5), ENCODER, shorter, workers=1))


# Several processes.


class Ranks:
    """Threads that play the ranks of a run: each with its own descriptors, locks and journal."""

    def __init__(self, world: int) -> None:
        self.world = world
        self._met = threading.Barrier(world)
        self._said = False
        self.asked = 0

    def barrier(self) -> None:
        self._met.wait(20)

    def agree(self, rank: int, own: bool) -> bool:
        """What rank 0 says, in every rank."""
        if rank == 0:
            self._said = own
            self.asked += 1
        self.barrier()
        said = self._said
        self.barrier()
        return said

    def fill(self, stores: list[StoredStates], waiting: Callable[[], None] = lambda: None) -> dict[int, list[int]]:
        """What each of them encoded."""
        encoded: dict[int, list[int]] = {}

        def work(rank: int) -> None:
            with stores[rank].filling(
                share=(rank, self.world), barrier=self.barrier, waiting=waiting, agree=partial(self.agree, rank)
            ) as batches:
                list(stores[rank].fill(batches, ENCODER, features, workers=1))
                encoded[rank] = batches

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(self.world)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        return encoded


def test_processes_fill_one_store_together(tmp_path: Path) -> None:
    ranks = Ranks(3)
    stores = [on_disk(tmp_path) for _ in range(3)]
    for again in range(2):
        assert ranks.fill(stores) == ({0: [], 1: [], 2: []} if again else {0: [0, 3], 1: [1, 4], 2: [2]})
        for store in stores:
            assert torch.equal(everything(store), in_memory())
    assert len(list((tmp_path / KEY).glob("journal-*"))) == (1 if again else 3)
    # One process alone reads what they wrote.
    alone = on_disk(tmp_path)
    assert fill(alone) == []
    assert not alone.damaged


def test_a_part_that_another_process_did_not_write_is_an_error(tmp_path: Path) -> None:
    store = on_disk(tmp_path)
    with (
        pytest.raises(RunFolderError, match="2 batches of states that other processes encoded are not there"),
        store.filling(share=(0, 2)) as batches,
    ):
        list(store.fill(batches, ENCODER, features, workers=1))


def test_a_second_run_waits_for_the_first(tmp_path: Path) -> None:
    first, second = on_disk(tmp_path), on_disk(tmp_path)
    waited = threading.Event()
    found: list[list[int]] = []

    def work() -> None:
        with second.filling(waiting=waited.set) as batches:
            found.append(batches)

    with first.filling() as batches:
        filling = first.fill(batches, ENCODER, features, workers=1)
        next(filling)
        thread = threading.Thread(target=work)
        thread.start()
        assert waited.wait(20)
        assert not found
        list(filling)
    thread.join(20)
    assert found == [[]]
    assert torch.equal(everything(second), everything(first))


def test_all_ranks_of_a_second_run_wait_a_moment_at_a_time(tmp_path: Path) -> None:
    """None sits in a barrier for as long as the first run takes: it would pass for dead."""
    ranks, stores = Ranks(2), [on_disk(tmp_path) for _ in range(2)]
    first = on_disk(tmp_path)
    rounds = threading.Semaphore(0)
    encoded: list[dict[int, list[int]]] = []
    with first.filling() as batches:
        second = threading.Thread(target=lambda: encoded.append(ranks.fill(stores, waiting=rounds.release)))
        second.start()
        for _ in range(2 * 3):  # three rounds of both ranks
            assert rounds.acquire(timeout=20)
        list(first.fill(batches, ENCODER, features, workers=1))
    second.join(30)
    assert encoded == [{0: [], 1: []}]
    assert ranks.asked >= 4
    assert all(torch.equal(everything(store), in_memory()) for store in stores)


def test_who_waits_can_be_stopped(tmp_path: Path) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with on_disk(tmp_path).filling(), pytest.raises(KeyboardInterrupt), on_disk(tmp_path).filling(waiting=stop):
        pass


# A full disk.


def full_at(monkeypatch: pytest.MonkeyPatch, name: str, nth: int) -> None:
    original, calls = getattr(os, name), itertools.count(1)

    def failing(*arguments: Any) -> Any:
        if next(calls) >= nth:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*arguments)

    monkeypatch.setattr(os, name, failing)


@pytest.mark.parametrize("nth", [1, 3, 5])
def test_a_disk_that_fills_up_amid_goes_on_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
    """Nothing encoded is lost, neither now nor for a later run."""
    expected = in_memory()
    calls = itertools.count()
    original = states.encode
    monkeypatch.setattr(states, "encode", lambda *arguments: (next(calls), original(*arguments))[1])
    store = on_disk(tmp_path)
    with monkeypatch.context() as patch:
        full_at(patch, "pwrite", nth)
        full_at(patch, "fsync", 1)
        assert fill(store) == [0, 1, 2, 3, 4]
    assert next(calls) == 5
    assert store.moved is not None
    assert store.moved.errno == errno.ENOSPC
    assert torch.equal(everything(store), expected)
    later = on_disk(tmp_path)
    assert fill(later) == list(range(nth - 1, 5))
    assert torch.equal(everything(later), expected)


def test_a_disk_too_small_shows_before_anything_is_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full_at(monkeypatch, "posix_fallocate", 1)
    with pytest.raises(OSError, match="No space"), on_disk(tmp_path).filling():
        pytest.fail("there is no space")
    assert not (tmp_path / KEY / "states").exists()
