"""Alignment heads for the saved model, found on the run's own training data if the pretrained model names none.

Without them whispertune, openai-whisper and faster-whisper read the times of words from the whole upper half of the
decoder, and transformers from nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from whispertune.checkpoints.generation import upper_heads
from whispertune.dataset.windows import Window
from whispertune.decoding.alignment import Floats, SpokenTexts
from whispertune.decoding.alignment_heads import best_heads, head_scores
from whispertune.features.frames import FRAME_SAMPLES
from whispertune.features.log_mel import SAMPLE_RATE
from whispertune.run.session import Session
from whispertune.states.computed import encode_frozen, window_features
from whispertune.system.console import console, progress_bar
from whispertune.system.counts import counted
from whispertune.system.processes import Pace

WINDOWS = 32
"""Training windows that heads are chosen on (docs/experiments.md)."""
CANDIDATES = 4 * WINDOWS
USUAL_SECONDS, MOST_SECONDS = 5, 10 * WINDOWS
"""Windows of about this length are taken, and together no more: the time for it grows with tokens times frames."""
AT_ONCE = 4


def names_no_heads(session: Session) -> bool:
    """Whether the pretrained model has no list of alignment heads, or only the default."""
    default = upper_heads(session.ready.checkpoint.config)
    return session.ready.checkpoint.generation["alignment_heads"] in ([], default)


def choose_alignment_heads(session: Session) -> None:
    """Put heads that align the training data into the generation config that best/ is saved with; on a resume those
    that the run began with."""
    progress = session.progress
    if progress.alignment_heads is None:
        progress.alignment_heads = _found(session)
    if progress.alignment_heads:
        session.ready.checkpoint.generation["alignment_heads"] = progress.alignment_heads


def _found(session: Session) -> list[list[int]]:
    """The heads chosen on windows from all over the training data; none if no window can be used."""
    windows = chosen_windows(session.train.num_samples)
    batches = [windows[first : first + AT_ONCE] for first in range(0, len(windows), AT_ONCE)]
    with progress_bar("finding alignment heads", len(windows)) as advance:

        def work(own: Sequence[int]) -> Iterator[tuple[Floats | float, int]]:
            pace = Pace(advance, sum(len(batches[number]) for number in own), len(windows))
            for number in own:
                yield _scores(session, batches[number])
                pace(len(batches[number]))
                session.stop.check()

        scores, used = zip(*session.processes.divide([len(batch) for batch in batches], work), strict=True)
    session.note_unreadable()
    if not sum(used):
        return []
    found = best_heads(np.asarray(sum(scores)))
    shown = " ".join(f"{layer}.{head}" for layer, head in found)
    console.print(f"words     heads that align them, found on {counted(sum(used), 'window')}: {shown}")
    return found


def chosen_windows(num_samples: Sequence[int]) -> list[int]:
    """Of windows of these lengths (16 kHz samples), some from all over the data, those nearest to 5 s."""
    last = len(num_samples) - 1
    spread = sorted({step * last // (CANDIDATES - 1) for step in range(CANDIDATES)})
    spread.sort(key=lambda index: abs(int(num_samples[index]) - USUAL_SECONDS * SAMPLE_RATE))
    ends = np.cumsum([int(num_samples[index]) for index in spread[:WINDOWS]])
    return spread[: max(1, int(np.searchsorted(ends, MOST_SECONDS * SAMPLE_RATE, side="right")))]


def _scores(session: Session, windows: Sequence[int]) -> tuple[Floats | float, int]:
    """Summed scores of the heads on those of these windows that can be used, and how many these are."""
    split, text, whisper = session.train, session.text, session.working.model
    rows = []
    for index in windows:
        window = dataclasses.replace(split.windows[index], timestamps=False, previous_text=None)
        waveform, readable = split.waveform(index)
        if not readable or not _in_order(window, text.task):
            continue
        prompt = text.prompt(window)
        if tokens := text.target(window).input_ids[len(prompt) : text.max_tokens - 1]:
            log_mel = window_features(waveform, session.ready.n_mels, session.frames)
            rows.append((log_mel, tokens, prompt, len(waveform) // FRAME_SAMPLES))
    if not rows:
        return 0.0, 0
    features, texts, prompts, num_frames = zip(*rows, strict=True)
    states = encode_frozen(whisper.encoder, features)
    spoken = SpokenTexts(states, texts, prompts, num_frames)
    return head_scores(whisper.decoder, text.tokenizer, spoken), len(rows)


def _in_order(window: Window, task: str) -> bool:
    """Whether the text is what is said, in that order: no translation, and no prompt of the row's own before it."""
    return not any(row.prompt or (row.task or task) == "translate" for row in window.utterances)
