"""Windows of up to 30 s to text: the one path of validation, `evaluate` and its probes, `check`, `export --verify` and
long form.

    waveform (num_samples,) -> log-mel of the kept frames -> encoder states (B, K, D) -> prefilled prompts -> search ->
    hypotheses -> text
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np

from whispertune.decoding.beam import beam_search
from whispertune.decoding.glossary import load_glossary
from whispertune.decoding.greedy import greedy_search
from whispertune.decoding.loading import ReadyModel
from whispertune.decoding.options import SearchOptions
from whispertune.decoding.prefill import Prefill, prefill
from whispertune.decoding.rules import Hypothesis
from whispertune.decoding.timestamps import TimestampRules
from whispertune.features.options import DENSE, FrameOptions
from whispertune.model.attention import FEWEST_FRAMES
from whispertune.model.packed_lengths import few_lengths
from whispertune.model.whisper import Decoder
from whispertune.states.computed import ComputedStates, EncoderStates, WindowFeatures, encode_frozen, window_features
from whispertune.system.environment import free_memory_on
from whispertune.system.processes import ALONE, Pace, Processes

ROWS_AT_ONCE = 64
"""Rows (windows x beams) decoded side by side."""
ROWS_AT_ONCE_ON_GPU = 256
WINDOWS_AT_ONCE_ON_GPU = 64
"""The most on a GPU, where memory decides (`windows_at_once`)."""
MEMORY_SHARE = 0.5
"""Of a GPU's free memory, what the keys and values of windows that are decoded side by side may take."""
WINDOWS_AT_ONCE = 8
"""Windows that `Transcriber.transcribe` holds the states of at once."""

PrefilledWindows = Sequence[tuple[Sequence[int], Prefill]]
"""Batches of windows whose prompts the decoder has seen, each with its windows' places among all of them."""


def windows_at_once(decoder: Decoder, num_frames: int, beam_size: int) -> int:
    """Windows of so many frames to decode side by side: a power of two on a GPU, by what is free there.

    It decides how long decoding takes and, but for rounding, nothing else.
    """
    weight = decoder.embed_tokens.weight
    if weight.device.type == "cpu":
        return max(1, ROWS_AT_ONCE // beam_size)
    copies, held = (1, 0) if decoder.graphs is None else (2, decoder.graphs.num_bytes)
    # Keys and values; those of tokens are moved, those of frames only into the buffers of captured steps.
    kept = copies * few_lengths(num_frames, FEWEST_FRAMES) + 2 * beam_size * decoder.embed_positions.num_embeddings
    one = 2 * len(decoder.layers) * weight.shape[1] * weight.element_size() * kept
    fit = max(1, int(MEMORY_SHARE * (free_memory_on(weight.device) + held) / one))
    return min(WINDOWS_AT_ONCE_ON_GPU, max(1, ROWS_AT_ONCE_ON_GPU // beam_size), 1 << (fit.bit_length() - 1))


@dataclass(frozen=True, slots=True)
class Transcriber:
    """A model, the search that it is decoded with, and the frames that it is given of each window.

    timestamps: the grammar of hypotheses with timestamps, for which the prompts must ask (`Tokenizer.prompt_tokens(…,
    timestamps=True)`). cut_loops: whether greedy search stops a hypothesis that repeats itself. workers: threads that
    prepare features.
    """

    model: ReadyModel
    search: SearchOptions
    frames: FrameOptions = DENSE
    timestamps: TimestampRules | None = None
    cut_loops: bool = False
    workers: int = 1

    def transcribe(
        self,
        waveform: Callable[[int], np.ndarray],
        prompts: Sequence[Sequence[int]],
        *,
        advance: Callable[[int], None],
        at_once: int = WINDOWS_AT_ONCE,
        processes: Processes = ALONE,
    ) -> list[Hypothesis]:
        """All steps: one hypothesis for each prompt, bounded by the decoder's room alone.

        waveform(i): (num_samples,) at 16 kHz of window i. at_once: windows encoded together. advance: called with the
        number of windows done. Several processes share the batches, and all get every hypothesis.
        """
        states = self.states(lambda index: self.features(waveform(index)))
        batches = [range(first, min(first + at_once, len(prompts))) for first in range(0, len(prompts), at_once)]

        def work(own: Sequence[int]) -> Iterator[list[Hypothesis]]:
            states.prepare([batches[number] for number in own])
            pace = Pace(advance, sum(len(batches[number]) for number in own), len(prompts))
            for batch in (batches[number] for number in own):
                yield self.decode(states.fetch(batch), [prompts[index] for index in batch])
                pace(len(batch))

        return list(chain.from_iterable(processes.divide([len(batch) for batch in batches], work)))

    def features(self, waveform: np.ndarray, readable: bool = True) -> WindowFeatures:
        """Features of one window's waveform (num_samples,) at 16 kHz; readable: whether it is that of a recording."""
        return window_features(waveform, self.model.n_mels, self.frames, readable=readable)

    def states(self, features: Callable[[int], WindowFeatures]) -> ComputedStates:
        """A source of encoder states, computed at each use; features(i): those of window i."""
        return ComputedStates(self.model.whisper.encoder, lambda index, _: [features(index)], workers=self.workers)

    def encode(self, features: Sequence[WindowFeatures]) -> EncoderStates:
        """Encoder states of these windows as one batch."""
        return encode_frozen(self.model.whisper.encoder, features)

    def room(self, prompt: Sequence[int]) -> int:
        """Tokens that fit into the decoder after a prompt."""
        return self.model.tokenizer.max_tokens - len(prompt)

    def decode(
        self, states: EncoderStates, prompts: Sequence[Sequence[int]], max_tokens: Sequence[int] | None = None
    ) -> list[Hypothesis]:
        """One hypothesis for each of B windows.

        states: of the B windows, in the decoder's type and on its device. prompts: B token lists of any lengths (rows
        of one length are decoded together). max_tokens: B, tokens after which a row is stopped; by default the
        decoder's room. Windows should come longest first, so that rows that run side by side end together.
        """
        bounds = [self.room(prompt) for prompt in prompts] if max_tokens is None else max_tokens
        return self.search_windows(self.prefill(states, prompts), bounds, last=True)

    def prefill(self, states: EncoderStates, prompts: Sequence[Sequence[int]]) -> PrefilledWindows:
        """The decoder's state after the prompts of B windows, in batches of one prompt length.

        It serves any number of searches: those of other transcribers of the same model too, best with the batches of
        the one with the smallest beam. Arguments as in `decode`.
        """
        by_length: dict[int, list[int]] = {}
        for row, prompt in enumerate(prompts):
            by_length.setdefault(len(prompt), []).append(row)
        decoder = self.model.whisper.decoder
        size = windows_at_once(decoder, states.states.shape[1], self.search.beam_size)
        batches = [rows[at : at + size] for rows in by_length.values() for at in range(0, len(rows), size)]
        return [
            (rows, prefill(decoder, states if len(batches) == 1 else states.select(rows), [prompts[i] for i in rows]))
            for rows in batches
        ]

    def search_windows(
        self, prefilled: PrefilledWindows, max_tokens: Sequence[int], *, last: bool = False
    ) -> list[Hypothesis]:
        """One hypothesis for each of B prefilled windows.

        max_tokens: B. last: whether no other search of these windows follows: this one then uses up their memory.
        """
        results: dict[int, Hypothesis] = {}
        for windows, batch in prefilled:
            size = windows_at_once(self.model.whisper.decoder, batch.num_frames, self.search.beam_size)
            for first in range(0, len(windows), size):
                part = range(first, min(first + size, len(windows)))
                chosen = replace(batch, last=last) if len(part) == len(windows) else batch.select(part)
                found = self.search_batch(chosen, [max_tokens[windows[i]] for i in part])
                results.update(zip((windows[i] for i in part), found, strict=True))
        return [results[row] for row in range(len(max_tokens))]

    def search_batch(self, prefilled: Prefill, max_tokens: Sequence[int]) -> list[Hypothesis]:
        """One hypothesis for each of the B windows of a batch, all searched at once."""
        model, search = self.model, self.search
        arguments = (model.whisper.decoder, prefilled, model.rules, model.tokenizer.eot, max_tokens)
        if search.beam_size == 1:
            return greedy_search(*arguments, cut_loops=self.cut_loops, timestamps=self.timestamps)
        boost, glossary = search.glossary_boost, search.glossary
        return beam_search(
            *arguments, beam_size=search.beam_size, length_penalty=search.length_penalty, patience=search.patience,
            timestamps=self.timestamps,
            glossary=load_glossary(glossary, boost, model.tokenizer) if boost and glossary is not None else None,
        )  # fmt: skip

    def text(self, hypothesis: Hypothesis) -> str:
        """What a hypothesis says, without timestamps and outer spaces."""
        return self.model.tokenizer.decode(hypothesis.tokens).strip()
