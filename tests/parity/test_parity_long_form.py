"""Long form against openai-whisper's `transcribe`: a small random model on noise, whisper-base on real clips."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from clips import read_clips
from random_whisper import random_weights, small_config

from whispertune.checkpoints.openai import save_openai
from whispertune.checkpoints.openai_layout import openai_dims, openai_name
from whispertune.data.audio.waveforms import load_waveform
from whispertune.decoding.loading import ReadyModel
from whispertune.decoding.long_form import LongForm, Transcript
from whispertune.decoding.options import FallbackOptions, LongFormOptions
from whispertune.decoding.rules import LogitRules
from whispertune.model.whisper import build_whisper

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a file left open there
GREEDY = FallbackOptions(beam_size=1, temperature=(0.0,), repetition_guard=False)


def compared(theirs: dict[str, Any], ours: Transcript) -> tuple[list[Any], list[Any]]:
    """(start, end, text, window) of both; theirs without the segments that it empties."""
    return (
        [(round(s["start"], 2), round(s["end"], 2), s["text"], s["seek"]) for s in theirs["segments"] if s["text"]],
        [(round(s.start, 2), round(s.end, 2), s.text, round(s.window * 100)) for s in ours.segments],
    )


@pytest.mark.parametrize("options", [{}, {"condition_on_previous_text": False}, {"prompt": "Prima di tutto"}])
def test_a_random_model_on_noise(base: ReadyModel, tmp_path: Path, options: dict[str, Any]) -> None:
    """Of all lengths of windows and segments there are: a random model says anything."""
    whisper = pytest.importorskip("whisper")
    config = replace(small_config(vocab_size=base.tokenizer.vocab_size), encoder_ffn_dim=128, decoder_ffn_dim=128)
    weights = random_weights(config, 5)
    embedding = weights["model.decoder.embed_tokens.weight"]
    # The end is likely enough for windows to have ends, and loops too short for rounding to add up.
    weights["model.decoder.layer_norm.bias"] += 1.6 * embedding[base.tokenizer.eot]
    theirs = whisper.model.Whisper(whisper.model.ModelDimensions(**openai_dims(config)))
    theirs.load_state_dict({openai_name(name): weight for name, weight in weights.items()})
    theirs.eval()
    audios = []
    for number, seconds in enumerate((65.3, 31.0, 12.34, 0.005)):
        draws = np.random.default_rng(number)
        loudness = 0.3 * np.abs(np.sin(np.arange(round(seconds * 16_000)) / 20_000))
        audios.append(tmp_path / f"{number}.wav")
        soundfile.write(audios[-1], loudness * draws.standard_normal(len(loudness)), 16_000)
    whisper_model = build_whisper(config, weights)
    generation = base.checkpoint.generation
    rules = LogitRules(
        config.vocab_size, generation["suppress_tokens"], generation["begin_suppress_tokens"], torch.device("cpu")
    )
    ready = replace(base, whisper=whisper_model, rules=rules)
    long_form = LongForm(ready, search=GREEDY, options=LongFormOptions(**options))
    found = dict(long_form.transcribe(audios))
    their_options = dict(options)
    if "prompt" in their_options:
        their_options["initial_prompt"] = their_options.pop("prompt")
    windows = 0
    for number, audio in enumerate(audios):
        expected = theirs.transcribe(
            load_waveform(audio), temperature=0.0, fp16=False, compression_ratio_threshold=None, **their_options
        )
        transcript = found[number]
        assert isinstance(transcript, Transcript)
        expected_segments, segments = compared(expected, transcript)
        assert segments == expected_segments
        if segments:
            assert transcript.language == expected["language"]
            assert transcript.text == expected["text"].strip()
        for s, segment in zip([s for s in expected["segments"] if s["text"]], transcript.segments, strict=True):
            assert segment.result.mean_log_prob == pytest.approx(s["avg_logprob"], abs=1e-4)
            assert segment.result.no_speech_prob == pytest.approx(s["no_speech_prob"], rel=1e-3)
            assert segment.result.compression_ratio == pytest.approx(s["compression_ratio"])
        windows += len({segment.window for segment in transcript.segments})
    assert windows > 3


@pytest.mark.slow
def test_segments_of_real_clips(base: ReadyModel, tmp_path: Path) -> None:
    """At least 95 % of the test clips with the same times and texts (measured: see docs/experiments.md)."""
    whisper = pytest.importorskip("whisper")
    clips = read_clips("test")
    checkpoint = replace(base.checkpoint, weights=base.whisper.state_dict())
    save_openai(tmp_path, checkpoint, torch.float32)
    theirs = whisper.load_model(str(tmp_path / "model.pt"), device="cpu")
    long_form = LongForm(base, search=GREEDY, options=LongFormOptions(), language="it")
    found = dict(long_form.transcribe([utterance.audio for utterance in clips.utterances]))
    same = 0
    for number, waveform in enumerate(clips.waveforms):
        transcript = found[number]
        assert isinstance(transcript, Transcript)
        expected, ours = compared(theirs.transcribe(waveform, language="it", temperature=0.0, fp16=False), transcript)
        same += expected == ours
    assert same >= 0.95 * len(clips)
