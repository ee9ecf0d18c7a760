"""What a model doubts: transcripts with a place that the audio contradicts.

One wrong word in a long sentence hardly changes its likelihood, and a model that mishears many words finds many right
sentences unlikely. But a token that the audio makes much less likely than silence does is rarely right, and neither is
an end of text where somebody goes on speaking. The other text of a short clip may hold no such token; there it says
more that the model transcribes something else with more confidence. So all three are added, in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from whispertune.check.model_based import ask_model
from whispertune.correct.segments import Segment
from whispertune.data.audio.waveforms import SAMPLE_RATE
from whispertune.data.utterances import Utterance
from whispertune.dataset.transcripts import TextSettings
from whispertune.dataset.windows import single_windows
from whispertune.decoding.loading import ReadyModel
from whispertune.features.log_mel import WINDOW_SAMPLES

IMPOSSIBLE = 100.0
"""The suspicion of a text that cannot be trained on: none at all, or too long."""


def with_doubts(
    ready: ReadyModel,
    rows: Sequence[Utterance],
    segments: Sequence[Segment],
    text: TextSettings,
    *,
    workers: int,
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[list[Segment], list[float | None]]:
    """The segments with the model's hypotheses, and its suspicion of each; None where it cannot tell.

    rows: the utterances that the segments were made of.
    """
    suspicions: list[float | None] = [None] * len(rows)
    asked = []
    for place, (row, segment) in enumerate(zip(rows, segments, strict=True)):
        if segment.status == "unusable" or segment.end - segment.start > WINDOW_SAMPLES / SAMPLE_RATE:
            continue
        if text.unusable(row) is not None:
            suspicions[place] = IMPOSSIBLE
        else:
            asked.append(place)
    chosen = [rows[place] for place in asked]
    opinions = ask_model(
        ready, chosen, [text.target(window) for window in single_windows(chosen)],
        [text.language_of(row) for row in chosen], [segments[place].end - segments[place].start for place in asked],
        workers=workers, advance=advance,
    )  # fmt: skip
    found = list(segments)
    for place, row, opinion in zip(asked, chosen, opinions, strict=True):
        suspicions[place] = opinion.contradiction + max(0.0, opinion.gap) + opinion.suspicion(row.text)
        found[place] = replace(found[place], hypothesis=opinion.hypothesis or None)
    return found, suspicions
