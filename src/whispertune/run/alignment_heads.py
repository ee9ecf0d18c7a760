"""Alignment heads for the saved model, found on the run's own training data if the pretrained model names none.

Without them whispertune, openai-whisper and faster-whisper read the times of words from the whole upper half of the
decoder, and transformers from nothing.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from whispertune.checkpoints.generation import upper_heads
from whispertune.checkpoints.json_files import read_json
from whispertune.data.utterances import Utterance
from whispertune.dataset.transcripts import TextSettings
from whispertune.decoding.alignment_heads import best_heads, head_scores
from whispertune.features.frames import FRAME_SAMPLES
from whispertune.run.session import Session
from whispertune.states.computed import encode_frozen, window_features
from whispertune.system.console import console
from whispertune.system.counts import counted

WINDOWS = 32
"""Training windows that heads are chosen on; with 8 the choice depended on which."""
AT_ONCE = 4


def names_no_heads(session: Session) -> bool:
    """Whether the pretrained model has no list of alignment heads, or only the default."""
    default = upper_heads(session.ready.checkpoint.config)
    return session.ready.checkpoint.generation["alignment_heads"] in ([], default)


def choose_alignment_heads(session: Session) -> None:
    """Put heads that align the training data into the generation config that best/ is saved with."""
    found = session.processes.from_main(lambda: _saved(session) or _found(session))
    if found:
        session.ready.checkpoint.generation["alignment_heads"] = found


def _saved(session: Session) -> list[list[int]]:
    """Those that this run chose before it was interrupted, if it had saved a model."""
    path = session.folder.best / "generation_config.json"
    heads: list[list[int]] = read_json(path).get("alignment_heads", []) if path.exists() else []
    return heads


def _translated(utterance: Utterance, text: TextSettings) -> bool:
    return (utterance.task or text.task) == "translate"


def _found(session: Session) -> list[list[int]]:
    """The heads chosen on windows from all over the training data; none if no window can be used."""
    split, text, whisper = session.train, session.text, session.working.model
    last = len(split.windows) - 1
    rows = []
    for index in sorted({step * last // (WINDOWS - 1) for step in range(WINDOWS)}):
        window = dataclasses.replace(split.windows[index], timestamps=False, previous_text=None)
        waveform, readable = split.waveform(index)
        if not readable or any(part.prompt or _translated(part, text) for part in window.utterances):
            continue  # the words of a translation are not in the order in which they are said
        prompt = text.prompt(window)
        tokens = text.target(window).input_ids[len(prompt) : text.max_tokens - 1]
        if tokens:
            features = window_features(waveform, session.ready.n_mels, session.frames)
            rows.append((features, tokens, prompt, len(waveform) // FRAME_SAMPLES))
    if not rows:
        return []
    scores = []
    for first in range(0, len(rows), AT_ONCE):
        batch, texts, prompts, num_frames = zip(*rows[first : first + AT_ONCE], strict=True)
        states = encode_frozen(whisper.encoder, batch)
        found = head_scores(whisper.decoder, text.tokenizer, states, texts, prompts, num_frames)
        scores.append(len(texts) * found)
        session.stop_if_alone()
    heads = best_heads(np.sum(scores, axis=0))
    shown = " ".join(f"{layer}.{head}" for layer, head in heads)
    console.print(f"words     heads that align them, found on {counted(len(rows), 'window')}: {shown}")
    return heads
