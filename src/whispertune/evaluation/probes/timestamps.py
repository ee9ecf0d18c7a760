"""Timestamps: whether they are well-formed, and how far they are from known boundaries."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from whispertune.data.utterances import TimedText
from whispertune.dataset.splits import Split
from whispertune.dataset.transcripts import TextSettings
from whispertune.dataset.windows import TIMESTAMP_TOKENS, Window, window_waveform
from whispertune.decoding.timestamps import TimestampRules
from whispertune.decoding.transcriber import Transcriber
from whispertune.evaluation.error_rates import CorpusScore, score_corpus
from whispertune.features.log_mel import SAMPLE_RATE, WINDOW_SAMPLES
from whispertune.system.processes import ALONE, Processes
from whispertune.text.tokenizer import NUM_TIMESTAMPS, SECONDS_PER_TIMESTAMP, Tokenizer

PAUSES = (0.3, 1.5)
"""Seconds between clips: shortest, longest."""
LONGEST_LEAD = 1.0
MOST_SAMPLES = WINDOW_SAMPLES - SAMPLE_RATE
"""A window leaves a second of silence at its end, into which timestamps may stray."""
MOST_TEXT_TOKENS = 400
EDGE_SECONDS = 0.1
"""A timestamp may lie this far after the end of the audio."""
FOUND_SECONDS = 0.5
"""A known boundary is found where a predicted one lies this near."""
WELL_FORMED = re.compile("(sw+s)*s?")
"""Stamp, words, stamp, any number of times; a single last stamp means that speech continues beyond the window."""


@dataclass(frozen=True, slots=True)
class TimedOutput:
    """One window's output: the segments that have both times, and which rules its timestamps keep."""

    segments: list[TimedText]
    monotonic: bool
    paired: bool
    inside: bool

    @property
    def valid(self) -> bool:
        return self.monotonic and self.paired and self.inside


def read_output(tokens: Sequence[int], tokenizer: Tokenizer, duration: float) -> TimedOutput:
    """Parse a hypothesis with timestamps. duration: of the window's audio, in seconds."""
    begin = tokenizer.timestamp_begin
    stamped = [begin <= token < begin + NUM_TIMESTAMPS for token in tokens]
    times = [
        (token - begin) * SECONDS_PER_TIMESTAMP for token, is_stamp in zip(tokens, stamped, strict=True) if is_stamp
    ]
    kinds = "".join("s" if is_stamp else "w" for is_stamp in stamped)
    segments = []
    for match in re.finditer("sw+(?=s)", kinds):
        first, last = match.start(), match.end()
        start, end = ((tokens[place] - begin) * SECONDS_PER_TIMESTAMP for place in (first, last))
        segments.append(TimedText(start, end, tokenizer.decode(tokens[first + 1 : last]).strip()))
    return TimedOutput(
        segments,
        monotonic=all(a <= b for a, b in pairwise(times)),
        paired=WELL_FORMED.fullmatch(kinds) is not None,
        inside=all(time <= duration + EDGE_SECONDS for time in times),
    )


@dataclass(slots=True)
class TimestampResult:
    """Outputs on windows with known boundaries.

    errors: of every predicted boundary, seconds to the nearest known one of its kind (start or end). found: share of
    the known boundaries with a predicted one of their kind within 0.5 s. score: of the texts, without timestamps.
    """

    outputs: list[TimedOutput]
    errors: npt.NDArray[np.float64]
    found: float
    score: CorpusScore

    def summary(self) -> dict[str, Any]:
        """For summary.json; errors are null where nothing was predicted."""
        outputs, errors = self.outputs, self.errors
        return {
            "windows": len(outputs),
            "valid": sum(output.valid for output in outputs) / len(outputs),
            "monotonic": sum(output.monotonic for output in outputs) / len(outputs),
            "paired": sum(output.paired for output in outputs) / len(outputs),
            "inside": sum(output.inside for output in outputs) / len(outputs),
            "boundaries": len(errors),
            "boundary_error_mean": float(errors.mean()) if len(errors) else None,
            "boundary_error_median": float(np.median(errors)) if len(errors) else None,
            "boundaries_found": self.found,
            "wer": self.score.wer,
            "cer": self.score.cer,
        }


def boundary_errors(known: Sequence[TimedText], predicted: Sequence[TimedText]) -> tuple[npt.NDArray[np.float64], int]:
    """Distances (seconds) of predicted starts and ends to the nearest known ones, and how many known ones are found."""
    distances: list[npt.NDArray[np.float64]] = []
    found = 0
    for kind in (0, 1):
        ours = np.array([segment[kind] for segment in predicted], np.float64)
        theirs = np.array([segment[kind] for segment in known], np.float64)
        apart = np.abs(ours[:, None] - theirs)
        if apart.size:
            distances.append(apart.min(axis=1))
            found += int((apart.min(axis=0) <= FOUND_SECONDS).sum())
    return np.concatenate([*distances, np.zeros(0)]), found


def windows_with_boundaries(split: Split, text: TextSettings, seed: int) -> list[Window]:
    """The clips of a split, each once, in random order, stitched into windows of up to 29 s with random pauses."""
    generator = np.random.Generator(np.random.PCG64(seed))
    utterances = [window.utterances[0] for window in split.windows]
    kinds = [(language, u.task) for language, u in zip(split.languages, utterances, strict=True)]
    order = generator.permutation(len(utterances)).tolist()
    windows: list[Window] = []
    tokens = 0
    kind: tuple[str, str | None] | None = None
    for index in sorted(order, key=lambda i: str(kinds[i])):  # stable: random within a language and task
        lead, pause = float(generator.uniform(0, LONGEST_LEAD)), float(generator.uniform(*PAUSES))
        utterance, samples, target = utterances[index], split.num_samples[index], split.targets[index]
        more = len(target.input_ids) - target.prompt_length + TIMESTAMP_TOKENS * max(1, len(utterance.segments))
        if windows and kinds[index] == kind and tokens + more <= MOST_TEXT_TOKENS:
            before = windows[-1]
            longer = replace(
                before,
                utterances=(*before.utterances, utterance),
                pauses=(*before.pauses, pause),
                num_samples=(*before.num_samples, samples),
            )
            if longer.total_samples <= MOST_SAMPLES:
                windows[-1], tokens = longer, tokens + more
                continue
        lead = min(lead, (WINDOW_SAMPLES - samples) / SAMPLE_RATE)
        windows.append(Window(f"stitched-{len(windows)}", (utterance,), (), lead, (samples,), timestamps=True))
        tokens, kind = more, kinds[index]
    return windows


def measure_timestamps(
    transcriber: Transcriber,
    windows: Sequence[Window],
    text: TextSettings,
    advance: Callable[[int], None],
    processes: Processes = ALONE,
) -> TimestampResult:
    """Decode windows of known boundaries with timestamps. advance: called with the number of windows done."""
    tokenizer = transcriber.model.tokenizer
    hypotheses = replace(transcriber, timestamps=TimestampRules(tokenizer)).transcribe(
        lambda index: window_waveform(windows[index]),
        [text.prompt(window, timestamps=True) for window in windows],
        advance=advance,
        processes=processes,
    )
    outputs, errors, found, boundaries = [], [], 0, 0
    for window, hypothesis in zip(windows, hypotheses, strict=True):
        output = read_output(hypothesis.tokens, tokenizer, window.total_samples / SAMPLE_RATE)
        known = window.segments()
        distances, near = boundary_errors(known, output.segments)
        outputs.append(output)
        errors.append(distances)
        found += near
        boundaries += 2 * len(known)
    score = score_corpus(
        [window.id for window in windows],
        [window.text for window in windows],
        [transcriber.text(hypothesis) for hypothesis in hypotheses],
        [text.written_in(text.language_of(u), u.task) for u in (window.utterances[0] for window in windows)],
    )
    return TimestampResult(outputs, np.concatenate(errors), found / max(boundaries, 1), score)
