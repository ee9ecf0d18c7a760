"""The channels of a recording, transcribed separately and merged on one time line: who says what in a call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from whispertune.decoding.long_form import Transcript

SIDES = ("left", "right")


def channel_names(count: int, given: Sequence[str] = ()) -> Sequence[str]:
    """Names of this many channels: those given, else `left` and `right` for two, `channel 0` … for any other number."""
    if given:
        return given[:count]
    return SIDES if count == len(SIDES) else [f"channel {number}" for number in range(count)]


def on_one_time_line(names: Sequence[str], channels: Sequence[Transcript]) -> Transcript:
    """The transcript of a recording from those of its channels: segments by their start, each with its channel.

    Its language is that of the channel with the most text.
    """
    segments = [
        replace(segment, channel=number, speaker=name)
        for number, (name, transcript) in enumerate(zip(names, channels, strict=True))
        for segment in transcript.segments
    ]
    segments.sort(key=lambda segment: (segment.start, segment.channel))
    most = max(channels, key=lambda transcript: sum(len(segment.text) for segment in transcript.segments))
    duration = max(transcript.duration for transcript in channels)
    return Transcript(
        segments, most.language, most.language_prob, duration, [], tuple(zip(names, channels, strict=True))
    )
