"""Decode a split with each search of each system, in chunks of windows that memory has room for."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import tee

import torch

from whispertune.dataset.splits import Split
from whispertune.decoding.loading import ReadyModel
from whispertune.decoding.options import SearchOptions
from whispertune.decoding.rules import Hypothesis
from whispertune.decoding.transcriber import Transcriber, windows_at_once
from whispertune.evaluation.transcript_search import TranscriptSearch, teacher_forced_nll
from whispertune.features.frames import select_frames
from whispertune.features.options import FrameOptions
from whispertune.model.whisper import Decoder
from whispertune.states.computed import EncoderStates, StateSource
from whispertune.system.console import console
from whispertune.system.lazy import Anew

CHUNK_FRAMES = 4_096
FEWEST_WINDOWS, MOST_WINDOWS = 5, 32
"""Kept frames whose states are held at once while decoding on a CPU, within these numbers of windows: fewer would read
all weights for few rows. More frames take memory, and are no faster."""


@dataclass(frozen=True, slots=True)
class System:
    """A model and the searches that it is scored with: they share what its decoder makes of a window, and its loss."""

    name: str
    model: ReadyModel
    searches: Sequence[SearchOptions]


@dataclass(frozen=True, slots=True)
class SharedStates:
    """The source of the encoder states of a split's windows (view 0), and the systems that decode them."""

    source: StateSource
    systems: Sequence[System]


@dataclass(slots=True)
class Decoded:
    """The outputs of one search for some windows of a split.

    hypotheses: by window. losses: summed (nats) over the windows that were decoded together, by one of them.
    """

    hypotheses: dict[int, Hypothesis] = field(default_factory=dict)
    losses: dict[int, float] = field(default_factory=dict)
    seconds: float = 0.0


def decode_split(
    split: Split,
    shared: Sequence[SharedStates],
    frames: FrameOptions,
    max_tokens: Sequence[int],
    cut_loops: bool,
    advance: Callable[[int], None],
) -> list[Decoded]:
    """Decode all windows of a split with each search of each system."""
    nested = [[[Decoded() for _ in system.searches] for system in each.systems] for each in shared]
    every = [decoded for systems in nested for searches in systems for decoded in searches]
    room = Room()
    weight = shared[0].systems[0].model.whisper.decoder.embed_tokens.weight
    # Both see the same chunks, though memory, which decides their sizes, may shrink meanwhile.
    chunks, announced = tee(chunks_of(split, frames, shared[0].systems[0].model.whisper.decoder, room))
    for each in shared:
        each.source.prepare(Anew(partial(copy.copy, announced)), 0)
    for chunk in chunks:
        fetched: list[EncoderStates] = []
        for each, systems in zip(shared, nested, strict=True):
            started = time.perf_counter()
            fetched.append(each.source.fetch(chunk, 0).to(weight.device, weight.dtype))
            systems[0][0].seconds += time.perf_counter() - started
        missing = {row for states in fetched for row in states.unreadable}
        if missing:
            advance(len(missing) * len(every))
            readable = [row for row in range(len(chunk)) if row not in missing]
            if not readable:
                continue
            chunk = [chunk[row] for row in readable]
            fetched = [states.select(readable) for states in fetched]
        for each, systems, states in zip(shared, nested, fetched, strict=True):
            for system, decoded in zip(each.systems, systems, strict=True):
                _Chunk(split, max_tokens, cut_loops, advance, room).decode(chunk, states, system, decoded)
    return every


@dataclass(slots=True)
class Room:
    """How many windows have been found to fit in memory at once; None as long as all did."""

    windows: int | None = None

    def halve(self, tried: int) -> int:
        """Half of what has just not fitted, from now on; the user is told the first time."""
        if self.windows is None:
            console.print(
                f"decoding  {tried} windows at once take more memory than there is; {tried // 2} from here on",
                style="yellow",
            )
        self.windows = tried // 2
        return self.windows


@dataclass(frozen=True, slots=True)
class _Chunk:
    """What decoding a chunk of a split's windows takes besides them."""

    split: Split
    max_tokens: Sequence[int]
    cut_loops: bool
    advance: Callable[[int], None]
    room: Room

    def decode(self, chunk: Sequence[int], states: EncoderStates, system: System, decoded: Sequence[Decoded]) -> None:
        """Decode these windows with each search of one system, half of them at a time if memory runs out.

        Hypotheses don't depend on that, but for rounding.
        """
        searches = list(zip(system.searches, decoded, strict=True))
        half = self.room.windows
        if half is None or len(chunk) <= half:
            try:
                self._search(chunk, states, system, searches)
                return
            except torch.OutOfMemoryError:
                if len(chunk) == 1:
                    raise
            # Only here, as the exception holds the memory of what failed.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            half = self.room.halve(len(chunk))
        left = replace(system, searches=[search for search, _ in searches])
        for first in range(0, len(chunk), half):
            part = range(first, min(first + half, len(chunk)))
            self.decode([chunk[row] for row in part], states.select(part), left, [found for _, found in searches])

    def _search(
        self,
        chunk: Sequence[int],
        states: EncoderStates,
        system: System,
        searches: list[tuple[SearchOptions, Decoded]],
    ) -> None:
        """Do the searches and take those that are done off the list."""
        started = time.perf_counter()
        # Transcripts of one length are read together.
        order = sorted(range(len(chunk)), key=lambda row: -len(self.split.targets[chunk[row]].input_ids))
        chunk, states = [chunk[row] for row in order], states.select(order)
        targets = [self.split.targets[i] for i in chunk]
        prompts = [target.input_ids[: target.prompt_length] for target in targets]
        widest = Transcriber(system.model, min(system.searches, key=lambda search: search.beam_size))
        prefilled = widest.prefill(states, prompts)
        model, caps = system.model, [self.max_tokens[i] for i in chunk]
        decoder, pad_id = model.whisper.decoder, model.checkpoint.pad_token_id
        greedy = any(search.beam_size == 1 for search, _ in searches)
        transcripts: list[TranscriptSearch] = []
        loss = 0.0
        for rows, batch in prefilled:
            own = [targets[row] for row in rows]
            # On a GPU, where steps can be captured, search step by step.
            if greedy and decoder.embed_tokens.weight.device.type == "cpu":
                transcripts.append(TranscriptSearch(decoder, batch, model.rules, own, pad_id))
                loss += transcripts[-1].nll
            else:
                loss += teacher_forced_nll(decoder, batch, own, pad_id)
        while searches:
            search, found = searches[0]
            last = len(searches) == 1
            if search.beam_size == 1 and transcripts:
                by_row: dict[int, Hypothesis] = {}
                for (rows, _), known in zip(prefilled, transcripts, strict=True):
                    bounds = [caps[row] for row in rows]
                    ended = known.search(model.tokenizer.eot, bounds, cut_loops=self.cut_loops, last=last)
                    by_row.update(zip(rows, ended, strict=True))
                hypotheses = [by_row[row] for row in range(len(chunk))]
            else:
                transcriber = Transcriber(model, search, cut_loops=self.cut_loops)
                hypotheses = transcriber.search_windows(prefilled, caps, last=last)
            found.hypotheses.update(zip(chunk, hypotheses, strict=True))
            found.losses[chunk[0]] = loss
            found.seconds += time.perf_counter() - started
            self.advance(len(chunk))
            del searches[0]
            started = time.perf_counter()


def chunks_of(split: Split, frames: FrameOptions, decoder: Decoder, room: Room) -> Iterator[list[int]]:
    """Yield the windows whose states are held at once, the longest windows first; `room` may shrink meanwhile."""
    order = split.longest_first()
    on_cpu = decoder.embed_tokens.weight.device.type == "cpu"
    begin = 0
    while begin < len(order):
        most_frames = len(select_frames(split.num_samples[order[begin]], frames).positions)
        fit = windows_on_cpu(most_frames) if on_cpu else windows_at_once(decoder, most_frames, 1)
        end = begin + max(1, fit if room.windows is None else min(fit, room.windows))
        yield order[begin:end]
        begin = end


def windows_on_cpu(num_frames: int) -> int:
    """How many windows of so many kept frames are decoded at once on a CPU."""
    return min(MOST_WINDOWS, max(FEWEST_WINDOWS, CHUNK_FRAMES // num_frames))
