"""Neighbouring segments of one recording, joined into longer utterances."""

from __future__ import annotations

import dataclasses

from whispertune.data.utterances import Utterance, Utterances

LONGEST_GAP = 2.0
"""Seconds of pause over which segments are still joined: what is said in a longer gap may have been left out."""


def merge_segments(utterances: Utterances, longest: float) -> Utterances:
    """Join each segment with those that follow it in the same recording, as long as it lasts `longest` seconds.

    Only in the order of time, over pauses of at most 2 s, and within one language, task and channel. A joined
    utterance keeps the first one's id, with the number of those joined to it behind, as in `talk#3.0-5.0+2`.
    """
    merged = Utterances()
    merged.fingerprint = utterances.fingerprint
    current: Utterance | None = None
    joined = 0

    def finish() -> None:
        if current is not None:
            merged.append(dataclasses.replace(current, id=f"{current.id}+{joined}") if joined else current)

    for utterance in utterances:
        if current is not None and _continues(current, utterance, longest):
            text = f"{current.text} {utterance.text}".strip()
            speaker = current.speaker if current.speaker == utterance.speaker else None
            current = dataclasses.replace(current, end=utterance.end, text=text, speaker=speaker)
            joined += 1
            continue
        finish()
        current, joined = utterance, 0
    finish()
    return merged


def _continues(first: Utterance, second: Utterance, longest: float) -> bool:
    if first.end is None or second.end is None or second.prompt is not None:
        return False
    if not 0 <= second.start - first.end <= LONGEST_GAP or second.end - first.start > longest:
        return False
    return all(
        getattr(first, name) == getattr(second, name)
        for name in ("audio", "within", "channel", "language", "task", "weight")
    )
