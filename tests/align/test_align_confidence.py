"""The confidence of pieces against the model's own logits, each piece and text alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

sys.path.append(str(Path(__file__).parents[1] / "model"))
from random_whisper import random_whisper, ready_to_search, small_config

from whispertune.align.pieces import LEAST_PROB, Piece, confidences
from whispertune.data.audio.waveforms import load_waveform
from whispertune.decoding.options import GREEDY
from whispertune.decoding.transcriber import Transcriber
from whispertune.features.options import FrameOptions
from whispertune.text.normalizer import normalizer_for
from whispertune.text.tokenizer import Tokenizer

SAID = [
    (0.0, 1.3, "Sì, certo.", "no"),
    (1.5, 5.0, "no", "Sì, certo."),
    (0.4, 2.0, "Tutti i circuiti.", "tutti i circuiti"),
    (2.0, 4.9, "Buongiorno a tutti", "buona sera"),
]
"""Start, end, text and what was heard: one of two and its exchange, the same text but for marks, and two others."""


def direct(transcriber: Transcriber, piece: Piece, text: str, prompt: list[int]) -> float:
    """The mean log-probability, among text tokens, of a text's tokens."""
    tokenizer, model = transcriber.model.tokenizer, transcriber.model.whisper
    states = transcriber.encode([transcriber.features(load_waveform(piece.audio, piece.start, piece.end))])
    tokens = tokenizer.text_ids(text, "it")
    with torch.inference_mode():
        hidden = model.decoder(torch.tensor([[*prompt, *tokens]]), states.states, states.log_weights)
        logits = model.decoder.logits(hidden)[0, len(prompt) - 1 : -1, : tokenizer.eot].double()
    probs = logits.softmax(-1)[range(len(tokens)), tokens].numpy()
    return float(np.log(np.maximum(probs, LEAST_PROB)).mean())


def test_it_is_the_ratio_of_probabilities_per_token(tokenizer: Tokenizer, tmp_path: Path) -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal(80_000)
    soundfile.write(tmp_path / "talk.wav", noise, 16_000, subtype="FLOAT")
    whisper = random_whisper(small_config(vocab_size=51_865), 3)
    ready: Any = ready_to_search(whisper.decoder, None, tokenizer)  # type: ignore[arg-type]
    ready.whisper.encoder, ready.whisper.config = whisper.encoder, whisper.config
    ready.checkpoint.generation = {"alignment_heads": [[1, 0]]}
    transcriber, prompt = Transcriber(ready, GREEDY, FrameOptions()), tokenizer.prompt_tokens("it")
    pieces = [Piece(place, tmp_path / "talk.wav", a, b, heard, 1.0) for place, (a, b, _, heard) in enumerate(SAID)]
    texts, done = [text for _, _, text, _ in SAID], []
    found = confidences(transcriber, pieces, texts, "it", prompt, normalizer_for("it"), done.append)
    expected = [
        direct(transcriber, piece, text, prompt) - direct(transcriber, piece, piece.heard, prompt)
        for piece, text in zip(pieces, texts, strict=True)
    ]
    expected[2] = 0.0  # the same words, of which nothing is computed
    assert found == pytest.approx([min(1.0, float(np.exp(each))) for each in expected], rel=1e-3)
    assert min(found) < 0.9  # not all are 1
    assert 1.0 in (found[0], found[1])
    assert sum(done) == len(SAID)
