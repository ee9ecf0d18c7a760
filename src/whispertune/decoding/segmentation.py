"""A window's tokens -> stretches of speech with times, and where the next window begins: openai-whisper's rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from whispertune.text.tokenizer import NUM_TIMESTAMPS, SECONDS_PER_TIMESTAMP

MEL_FRAMES_PER_TIMESTAMP = 2
MEL_FRAMES_PER_SECOND = 100


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of speech: start and end in seconds from the window's beginning; tokens with timestamps included."""

    start: float
    end: float
    tokens: tuple[int, ...]


Cut = tuple[list[Span], int]
"""The spans of a window, and how many of its log-mel frames are done."""


def split_window(tokens: Sequence[int], timestamp_begin: int, num_frames: int) -> Cut:
    """The spans of a window that holds `num_frames` log-mel frames of the recording, and how many of these are done.

    The output is cut between two timestamps in a row. If it ends in a single timestamp, nothing is said after that
    and the whole window is done; if it ends in text, that speech continues beyond the window, is dropped here and the
    next window begins at the last pair of timestamps. Without any pair it is one span, up to its last timestamp.
    """
    stamped = [timestamp_begin <= token < timestamp_begin + NUM_TIMESTAMPS for token in tokens]
    cuts = [place for place, pair in enumerate(pairwise(stamped), start=1) if all(pair)]
    if not cuts:
        last = max((place for place, is_stamp in enumerate(stamped) if is_stamp), default=None)
        position = 0 if last is None else tokens[last] - timestamp_begin
        end = position * SECONDS_PER_TIMESTAMP if position else num_frames / MEL_FRAMES_PER_SECOND
        return [Span(0.0, end, tuple(tokens))], num_frames
    ends_in_single = stamped[-2:] == [False, True]
    if ends_in_single:
        cuts.append(len(tokens))
    spans = []
    for begin, end in pairwise([0, *cuts]):
        # Without the grammar there may be text in place of a timestamp; its time would be negative.
        times = [max(0, tokens[place] - timestamp_begin) * SECONDS_PER_TIMESTAMP for place in (begin, end - 1)]
        spans.append(Span(times[0], times[1], tuple(tokens[begin:end])))
    if ends_in_single:
        return spans, num_frames
    done = (tokens[cuts[-1] - 1] - timestamp_begin) * MEL_FRAMES_PER_TIMESTAMP
    # Always advance, whatever the tokens are; under the grammar of timestamps `done` is above 0.
    return spans, done if done > 0 else num_frames
