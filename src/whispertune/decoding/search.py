"""Decode a batch of windows with the search that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from whispertune.decoding.beam import beam_search
from whispertune.decoding.greedy import greedy_search
from whispertune.decoding.options import SearchOptions
from whispertune.decoding.prefill import Prefill, prefill
from whispertune.decoding.rules import Hypothesis, LogitRules
from whispertune.decoding.timestamps import TimestampRules
from whispertune.model.whisper import Decoder
from whispertune.states.computed import EncoderStates

ROWS_AT_ONCE = 64
"""Rows (windows x beams) decoded side by side."""


PrefilledWindows = Sequence[tuple[Sequence[int], Prefill]]
"""Batches of windows whose prompts the decoder has seen, each with the windows' own numbers."""


def rows_at_once(search: SearchOptions) -> int:
    """Windows that this search decodes side by side."""
    return max(1, ROWS_AT_ONCE // search.beam_size)


def prefill_windows(
    decoder: Decoder, states: EncoderStates, prompts: Sequence[Sequence[int]], at_once: int
) -> PrefilledWindows:
    """B windows in batches of one prompt length and of at most `at_once`, for one or more searches.

    states: of the B windows, in the decoder's type and on its device; prompts: B token lists, of any lengths.
    """
    by_length: dict[int, list[int]] = {}
    for row, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(row)
    batches = [rows[at : at + at_once] for rows in by_length.values() for at in range(0, len(rows), at_once)]
    return [
        (batch, prefill(decoder, states if len(batches) == 1 else states.select(batch), [prompts[i] for i in batch]))
        for batch in batches
    ]


def search_windows(
    decoder: Decoder,
    prefilled: PrefilledWindows,
    rules: LogitRules,
    eot: int,
    max_tokens: Sequence[int],
    search: SearchOptions,
    *,
    last: bool = False,
    cut_loops: bool = False,
    timestamps: TimestampRules | None = None,
) -> list[Hypothesis]:
    """One hypothesis for each of B windows, from batches begun by `begin_windows`.

    last: whether no other search of these batches follows: it then uses up their memory. Otherwise as `decode_windows`.
    """
    results: dict[int, Hypothesis] = {}
    at_once = rows_at_once(search)
    for windows, batch in prefilled:
        for first in range(0, len(windows), at_once):
            part = range(first, min(first + at_once, len(windows)))
            chosen = replace(batch, last=last) if len(part) == len(windows) else batch.select(part)
            arguments = (decoder, chosen, rules, eot, [max_tokens[windows[i]] for i in part])
            if search.beam_size == 1:
                found = greedy_search(*arguments, cut_loops=cut_loops, timestamps=timestamps)
            else:
                found = beam_search(
                    *arguments,
                    beam_size=search.beam_size,
                    length_penalty=search.length_penalty,
                    patience=search.patience,
                    timestamps=timestamps,
                )
            results.update(zip((windows[i] for i in part), found, strict=True))
    return [results[row] for row in range(len(max_tokens))]


def decode_windows(
    decoder: Decoder,
    states: EncoderStates,
    prompts: Sequence[Sequence[int]],
    rules: LogitRules,
    eot: int,
    max_tokens: Sequence[int],
    search: SearchOptions,
    *,
    cut_loops: bool = False,
    timestamps: TimestampRules | None = None,
) -> list[Hypothesis]:
    """One hypothesis for each of B windows.

    states: of the B windows, in the decoder's type and on its device; prompts: B token lists, of any lengths
    (rows of one length are decoded together); max_tokens: B, tokens after which a row is stopped. Windows
    should come longest first, so that rows that run side by side end together. `cut_loops` is greedy's. With
    `timestamps` tokens hold timestamps, and prompts must ask for them (`prompt_tokens(..., timestamps=True)`).
    """
    prefilled = prefill_windows(decoder, states, prompts, rows_at_once(search))
    return search_windows(
        decoder, prefilled, rules, eot, max_tokens, search, last=True, cut_loops=cut_loops, timestamps=timestamps
    )
