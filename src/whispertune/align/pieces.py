"""Sentences whose words were heard -> pieces of the recordings, cut at pauses, each with a confidence.

A piece's text is run through the decoder, and beside it what the model itself heard there. Where the text is said, it
is nearly as likely, however well or badly the model knows the language.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from whispertune.align.pauses import Pauses
from whispertune.align.sentences import Found
from whispertune.data.audio.waveforms import load_waveform
from whispertune.decoding.alignment import SpokenTexts, align_tokens
from whispertune.decoding.transcriber import Transcriber
from whispertune.decoding.words import Word
from whispertune.features.frames import FRAME_SAMPLES
from whispertune.features.log_mel import SAMPLE_RATE, WINDOW_SAMPLES

AT_ONCE = 8
"""Pieces encoded together, neighbours in length."""
SHORTEST_PIECE = 0.15
"""Seconds; what would be shorter is no speech, but a mistaken time."""
LEAST_PROB = math.exp(-12)
"""Of a token: one that cannot be said there at all counts for no more."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A sentence (by its place in the text) in a recording. start, end: seconds; heard: the words heard there."""

    sentence: int
    audio: Path
    start: float
    end: float
    heard: str
    share: float


def cut_pieces(
    found: Sequence[Found | None], words: Sequence[Word], audios: Sequence[Path], pauses: dict[Path, Pauses]
) -> list[Piece]:
    """The pieces of the sentences that were found, each from the pause before its speech to the one after it.

    words: of all recordings, in order; audios: the recording of each word. Where neighbours are not separated by a
    pause, the cut is at the time of the word there. A sentence whose words are of two recordings is left out, as is one
    for which no speech remains between its neighbours.
    """
    pieces = []
    there = [(place, sentence) for place, sentence in enumerate(found) if sentence is not None]
    for number, (place, sentence) in enumerate(there):
        audio, first, last = audios[sentence.first], words[sentence.first], words[sentence.last - 1]
        if audios[sentence.last - 1] != audio:
            continue
        earliest, latest = 0.0, np.inf
        if number and audios[there[number - 1][1].last - 1] == audio:
            earliest = _sound(words[there[number - 1][1].last - 1], pauses[audio])
        if number + 1 < len(there) and audios[there[number + 1][1].first] == audio:
            latest = _sound(words[there[number + 1][1].first], pauses[audio])
        start = pauses[audio].begin_of(_sound(first, pauses[audio]), earliest)
        end = pauses[audio].end_of(_sound(last, pauses[audio]), latest)
        start, end = (first.start if start is None else start), (last.end if end is None else end)
        heard = "".join(word.text for word in words[sentence.first : sentence.last])
        if end - start >= SHORTEST_PIECE:
            pieces.append(Piece(place, audio, start, end, heard, sentence.share))
    return pieces


def _sound(word: Word, pauses: Pauses) -> float:
    """A time at which a word sounds; its own times may stretch into a pause."""
    return pauses.sound_in(word.start, word.end)


def confidences(
    transcriber: Transcriber,
    pieces: Sequence[Piece],
    texts: Sequence[str],
    language: str,
    prompt: Sequence[int],
    normalize: Callable[[str], str],
    advance: Callable[[int], None],
) -> list[float]:
    """How likely each piece's text is beside what was heard there: the ratio of probabilities per token, at most 1.

    texts: of the pieces, which last 30 s at most. Where both are the same, normalised, nothing is computed.
    """
    tokenizer, decoder = transcriber.model.tokenizer, transcriber.model.whisper.decoder
    room = transcriber.room(prompt) - 1
    heard = [normalize(piece.heard) == normalize(text) for piece, text in zip(pieces, texts, strict=True)]
    ratios = {place: 1.0 for place, same in enumerate(heard) if same}
    advance(len(ratios))
    order = sorted(set(range(len(pieces))) - set(ratios), key=lambda place: pieces[place].start - pieces[place].end)
    for first in range(0, len(order), AT_ONCE):
        batch = order[first : first + AT_ONCE]
        waveforms = [
            load_waveform(pieces[place].audio, pieces[place].start, pieces[place].end)[:WINDOW_SAMPLES]
            for place in batch
        ]
        states = transcriber.encode([transcriber.features(waveform) for waveform in waveforms])
        said = [
            tokenizer.text_ids(text, language)[:room] for place in batch for text in (texts[place], pieces[place].heard)
        ]
        rows = [row for row in range(len(batch)) for _ in range(2)]
        num_frames = [len(waveforms[row]) // FRAME_SAMPLES for row in rows]
        spoken = SpokenTexts(states.select(rows), said, [prompt] * len(said), num_frames)
        times = align_tokens(decoder, tokenizer, spoken, transcriber.model.alignment_heads)
        means = [float(np.log(np.maximum(one.probs, LEAST_PROB)).mean()) for one in times]
        ratios |= {place: min(1.0, float(np.exp(means[2 * n] - means[2 * n + 1]))) for n, place in enumerate(batch)}
        advance(len(batch))
    return [ratios[place] for place in range(len(pieces))]


def too_long(piece: Piece) -> bool:
    """Whether a piece does not fit into the model's window."""
    return piece.end - piece.start > WINDOW_SAMPLES / SAMPLE_RATE
