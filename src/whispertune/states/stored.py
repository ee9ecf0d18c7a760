"""Encoder states that do not change, encoded once: in memory, or in files that later runs reuse (`files.py`).

Only `encoding_batches` decides which windows are encoded together, so the states are the same to the bit wherever they
are stored and however often encoding was interrupted. Usage:

    store = StoredStates(StateLayout(num_samples, frames, d_model, precision), files)      # files None: in memory
    batches = store.missing()                                       # not stored yet, or damaged
    for num_windows in store.fill(batches, encoder, features, workers=2):
        ...

The processes of a run fill files together: each calls `missing(rank, world_size)` for the batches whose number is
`rank` modulo `world_size`, fills these, waits for the others and calls `require_others`. In memory each process
encodes all.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from whispertune.errors import DataError, RunFolderError
from whispertune.features.frames import FrameSelection, count_frames, select_frames
from whispertune.features.options import FrameOptions
from whispertune.model.whisper import Encoder
from whispertune.states import computed as states
from whispertune.states.computed import EncoderStates, WindowFeatures, encoding_batches, padded_log_weights
from whispertune.states.files import StateFolder
from whispertune.system.environment import free_memory
from whispertune.system.precision import LIMITED, Precision, send


class StateLayout:
    """The layout of stored states: the kept frames of each window as rows, in the order of encoding.

    batches: windows encoded together. first_rows: first row of each batch. num_frames: kept frames of each window.
    begin: first row of each window.
    """

    def __init__(self, num_samples: Sequence[int], frames: FrameOptions, d_model: int, precision: Precision) -> None:
        # Not copied where it may be millions.
        self.num_samples = num_samples if isinstance(num_samples, array) else array("q", num_samples)
        self.frames, self.d_model = frames, d_model
        self.precision, self.dtype = precision, precision.dtype
        num_frames = count_frames(self.num_samples, frames)
        begin = _first_rows(num_frames)
        self.num_frames: Sequence[int] = num_frames.data
        self.begin: Sequence[int] = begin.data
        self.num_rows = int(num_frames.sum(dtype=np.int64))
        self.batches = encoding_batches(self.num_samples, frames)
        self.first_rows = array("q", (self.begin[batch[0]] for batch in self.batches))

    def selection(self, index: int) -> FrameSelection:
        """The kept frames of a window."""
        return select_frames(self.num_samples[index], self.frames)

    def batch_of(self, index: int) -> int:
        """The number of a window's encoding batch."""
        return bisect_right(self.first_rows, self.begin[index]) - 1

    @property
    def row_bytes(self) -> int:
        return self.d_model * self.dtype.itemsize

    @property
    def num_bytes(self) -> int:
        return self.num_rows * self.row_bytes

    @property
    def batch_bytes(self) -> list[int]:
        """Bytes of each encoding batch."""
        num_frames = np.asarray(self.num_frames)
        return [int(num_frames[batch].sum()) * self.row_bytes for batch in self.batches]


def _first_rows(num_frames: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """(n,) the first row of each window, in the order of encoding."""
    order = np.argsort(-num_frames, kind="stable")  # as in the batches
    rows = np.cumsum(num_frames[order], dtype=np.int64)
    rows -= num_frames[order]
    begin = np.empty_like(rows)
    begin[order] = rows
    return begin


def _bytes(rows: Tensor) -> memoryview:
    """The memory of contiguous rows (n, D)."""
    return rows.reshape(-1).view(torch.uint8).numpy().data


class StoredStates:
    """States of fixed windows, encoded once; in `files`, or else in memory.

    damaged: number of damaged batches in the files.
    unreadable: windows whose audio could not be decoded. Their batches count as missing for later runs.
    moved: the error that made the states continue in memory while they were being written (a full disk), if any.
    """

    def __init__(self, layout: StateLayout, files: StateFolder | None = None) -> None:
        self.layout = layout
        self.damaged = 0
        self.unreadable: set[int] = set()
        self.moved: OSError | None = None
        self._files = files
        self._share = (0, 1)
        self._rows = torch.empty(0 if files else layout.num_rows, layout.d_model, dtype=layout.dtype)
        self._held: Tensor | None = None
        self._done: set[int] = set()

    @property
    def held(self) -> bool:
        """Whether all states are on a device (`hold_on`)."""
        return self._held is not None

    def missing(self, rank: int = 0, world_size: int = 1) -> list[int]:
        """The encoding batches that this process must `fill`; every file of its share is read and verified."""
        share = range(rank, len(self.layout.batches), world_size)
        self._share = rank, world_size
        if self._files is not None:
            self._done, self.damaged = self._files.verified(share)
        return [number for number in share if number not in self._done]

    def require_others(self, all_gather: Callable[[set[int]], Sequence[set[int]]] = lambda own: [own]) -> None:
        """Make sure that the batches of other processes exist; all call it after all have filled their shares.

        all_gather: returns every process's set.

        Raises:
            RunFolderError: if a batch is missing.
        """
        rank, world_size = self._share
        if self._files is None or world_size == 1:
            return
        self.unreadable = set().union(*all_gather(self.unreadable))
        others = [number for number in range(len(self.layout.batches)) if number % world_size != rank]
        missing = len(others) - len(self._files.verified(others, partial=True)[0])
        if missing:
            raise RunFolderError(
                f"{self._files.path}: {missing} of the batches of states that other processes encoded are missing; "
                "do all machines share this folder (--states.folder)?"
            )

    def fill(
        self,
        batches: Sequence[int],
        encoder: Encoder,
        features: Callable[[int], WindowFeatures],
        *,
        workers: int,
    ) -> Iterator[int]:
        """Encode these batches; yields the number of windows of each batch when it is stored.

        While a GPU encodes a batch, the features of the next one are computed and the one before is stored.

        Raises:
            DataError: if the length of a window has changed.
            OSError: if the disk is full and memory can't be used instead (several processes).
        """
        # Apple's GPUs are not to be used by two threads at once.
        behind = 0 if encoder.conv1.weight.device.type in {"cpu", *LIMITED} else 1
        stored: deque[tuple[int, Future[None]]] = deque()
        with ThreadPoolExecutor(max(1, workers), "features") as pool, ThreadPoolExecutor(1, "storing") as storing:
            windows = [self.layout.batches[number] for number in batches]
            pending = [pool.submit(features, index) for index in windows[0]] if windows else []
            for turn, (number, batch) in enumerate(zip(batches, windows, strict=True)):
                ready = [future.result() for future in pending]
                upcoming = windows[turn + 1] if turn + 1 < len(windows) else []
                pending = [pool.submit(features, index) for index in upcoming]
                damaged = {index for index, window in zip(batch, ready, strict=True) if not window.readable}
                self.unreadable |= damaged
                for index, window in zip(batch, ready, strict=True):
                    if len(window.positions) != self.layout.num_frames[index]:
                        raise DataError(f"window {index}: its audio changed during the run; start it again")
                with torch.inference_mode():
                    encoded = states.encode_frozen(encoder, ready).states
                stored.append((len(batch), storing.submit(self._keep, number, encoded, whole=not damaged)))
                yield from _finished(stored, behind)
            yield from _finished(stored, 0)

    @torch.inference_mode()
    def _keep(self, number: int, encoded: Tensor, *, whole: bool) -> None:
        """Store the states (B, K, D) of an encoding batch."""
        batch = self.layout.batches[number]
        encoded = encoded.to("cpu")
        rows = torch.cat([encoded[row, : self.layout.num_frames[i]] for row, i in enumerate(batch)])
        rows = rows.to(self.layout.dtype)
        if self._files is not None:
            try:
                self._files.write(number, _bytes(rows), whole=whole)
            except OSError as error:
                if self._share != (0, 1):
                    raise
                self._move_to_memory(error)
        if self._files is None:
            begin = self.layout.begin[batch[0]]
            self._rows[begin : begin + len(rows)] = rows
        self._done.add(number)

    def _move_to_memory(self, error: OSError) -> None:
        """Continue in memory, keeping everything that is already encoded.

        Raises:
            OSError: that of the disk, if memory has no room either.
        """
        files, layout = self._files, self.layout
        assert files is not None
        if layout.num_bytes > free_memory() // 2:
            raise error
        self._rows = torch.empty(layout.num_rows, layout.d_model, dtype=layout.dtype)
        for number in self._done:
            first, last = layout.batches[number][0], layout.batches[number][-1]
            rows = self._rows[layout.begin[first] : layout.begin[last] + layout.num_frames[last]]
            files.read_into(_bytes(rows), number)
        self._files, self.moved = None, error

    def hold_on(self, device: torch.device) -> None:
        """Copy all states to a device, where `fetch` finds them from now on."""
        layout = self.layout
        with torch.inference_mode(False):  # else training could not use what a validation has copied
            held = torch.zeros(layout.num_rows + 1, layout.d_model, dtype=layout.dtype, device=device)  # padding last
            for number, batch in enumerate(layout.batches):
                begin, end = layout.begin[batch[0]], layout.begin[batch[-1]] + layout.num_frames[batch[-1]]
                if self._files is None:
                    rows = self._rows[begin:end]
                else:
                    rows = torch.empty(end - begin, layout.d_model, dtype=layout.dtype)
                    self._files.read_into(_bytes(rows), number)
                held[begin:end] = send(rows, device)
        self._held = held
        self._rows = torch.empty(0, layout.d_model, dtype=layout.dtype)

    def fetch(self, indices: Sequence[int], view: int = 0) -> EncoderStates:
        """A copy of the states of these windows, on the CPU or on the device that holds them."""
        sizes = [int(self.layout.num_frames[index]) for index in indices]
        states = self._read(indices, sizes) if self._held is None else _rows_of(self._held, self.layout, indices, sizes)
        log_weights = padded_log_weights([self.layout.selection(index).counts for index in indices])
        unreadable = tuple(row for row, index in enumerate(indices) if index in self.unreadable)
        return EncoderStates(states, log_weights, tuple(sizes), unreadable)

    def _read(self, indices: Sequence[int], sizes: Sequence[int]) -> Tensor:
        """(B, K, D): the states of these windows of `sizes` frames, zero behind them."""
        layout = self.layout
        fetched = torch.zeros(len(sizes), max(sizes), layout.d_model, dtype=layout.dtype)
        for row, index, size in zip(fetched, indices, sizes, strict=True):
            begin = layout.begin[index]
            if self._files is None:
                row[:size] = self._rows[begin : begin + size]
            else:
                number = layout.batch_of(index)
                self._files.read_into(
                    _bytes(row[:size]), number, (begin - layout.first_rows[number]) * layout.row_bytes
                )
        return fetched


def _finished(stored: deque[tuple[int, Future[None]]], behind: int) -> Iterator[int]:
    """Wait for all but the last `behind` batches that are being stored; yields the number of windows of each."""
    while len(stored) > behind:
        num_windows, future = stored.popleft()
        future.result()
        yield num_windows


def _rows_of(held: Tensor, layout: StateLayout, indices: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """As `StoredStates._read`, from all rows of the layout and a last one of zeros."""
    rows = torch.full((len(sizes), max(sizes)), layout.num_rows)
    for row, index, size in zip(rows, indices, sizes, strict=True):
        row[:size] = torch.arange(layout.begin[index], layout.begin[index] + size)
    return held[send(rows, held.device)]
