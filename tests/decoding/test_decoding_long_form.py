"""Recordings side by side: each what it is alone, errors its own, prompts and silence as asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from checkpoint_samples import TOKENIZER, VOCAB_SIZE
from random_whisper import random_weights, small_config

from whispertune.decoding import long_form as long_form_module
from whispertune.decoding import spectrogram
from whispertune.decoding.loading import ReadyModel
from whispertune.decoding.long_form import LongForm, Transcript
from whispertune.decoding.options import FallbackOptions, LongFormOptions
from whispertune.decoding.rules import LogitRules
from whispertune.errors import AudioError, RecipeError
from whispertune.features.options import DENSE, FrameOptions
from whispertune.model.whisper import build_whisper
from whispertune.text.tokenizer import Tokenizer

TOKENS = Tokenizer(TOKENIZER)
RULES = LogitRules(VOCAB_SIZE, [*range(TOKENS.eot + 1, TOKENS.timestamp_begin)], [TOKENS.eot], torch.device("cpu"))
CONFIG = small_config(vocab_size=VOCAB_SIZE)
WEIGHTS = random_weights(CONFIG, 2)
WEIGHTS["model.decoder.layer_norm.bias"] += 0.9 * WEIGHTS["model.decoder.embed_tokens.weight"][TOKENS.eot]
NO_CHECKPOINT: Any = None
MODEL = ReadyModel(build_whisper(CONFIG, WEIGHTS), TOKENS, RULES, NO_CHECKPOINT)
SEARCH = FallbackOptions(beam_size=1, temperature=(0.0, 0.6), best_of=2, no_speech_threshold=None)


def saved(folder: Path, *seconds: float) -> list[Path]:
    paths = []
    for number, length in enumerate(seconds):
        draws = np.random.default_rng(number)
        paths.append(folder / f"{number}.wav")
        soundfile.write(paths[-1], 0.2 * draws.uniform(-1, 1, round(length * 16_000)), 16_000)
    return paths


def transcribed(paths: list[Path], search: FallbackOptions = SEARCH, **options: Any) -> list[Transcript | AudioError]:
    frames = options.pop("frames", DENSE)
    made = LongForm(MODEL, search=search, options=LongFormOptions(**options), frames=frames)
    found = dict(made.transcribe(paths))
    return [found[number] for number in range(len(paths))]


def segments(transcript: Transcript | AudioError) -> list[tuple[float, float, tuple[int, ...], float]]:
    assert isinstance(transcript, Transcript)
    return [(s.start, s.end, s.tokens, s.result.temperature) for s in transcript.segments]


def test_recordings_side_by_side_are_what_they_are_alone(tmp_path: Path) -> None:
    paths = saved(tmp_path, 31.0, 4.0, 62.5, 0.003)
    together = transcribed(paths, batch_size=3)
    assert segments(together[3]) == []
    for path, transcript in zip(paths, together, strict=True):
        (alone,) = transcribed([path])
        assert segments(alone) == segments(transcript)
    assert len({s.window for t in together if isinstance(t, Transcript) for s in t.segments}) > 2


def test_segments_lie_in_order_within_windows(tmp_path: Path) -> None:
    (found,) = transcribed(saved(tmp_path, 62.5))
    times = [time for start, end, _, _ in segments(found) for time in (start, end)]
    assert times
    assert times == sorted(times)
    assert all(s.window <= s.start < s.end <= s.window + 30 for s in found.segments)  # type: ignore[union-attr]


def test_one_that_cannot_be_read_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At its opening, or in the middle of the second reading."""
    paths = saved(tmp_path, 4.0, 62.5, 4.0)
    paths[0].write_bytes(b"nothing")
    monkeypatch.setattr(spectrogram, "KEPT_SECONDS", 0)
    whole = spectrogram.Spectrogram.window

    def gone(self: spectrogram.Spectrogram, begin: int, **options: bool) -> torch.Tensor:
        if self.audio == paths[1] and begin > 0:
            raise AudioError(f"{self.audio}: cannot be read; check it")
        return whole(self, begin, **options)

    monkeypatch.setattr(long_form_module.Spectrogram, "window", gone)
    first, second, third = transcribed(paths)
    assert isinstance(first, AudioError)
    assert isinstance(second, AudioError)
    assert str(paths[1]) in str(second)
    assert isinstance(third, Transcript)


def prompts_of(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch, search: FallbackOptions, **options: Any
) -> list[list[int]]:
    """The prompts that windows are decoded with, in order."""
    seen: list[Any] = []
    inner = long_form_module.decode_with_fallback

    def watched(decoder: Any, states: Any, prompts: Any, *others: Any, **named: Any) -> Any:
        seen.extend(prompts)
        return inner(decoder, states, prompts, *others, **named)

    monkeypatch.setattr(long_form_module, "decode_with_fallback", watched)
    transcribed(paths, search, **options)
    return seen


def test_what_a_window_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = saved(tmp_path, 62.5)
    cold = replace(SEARCH, temperature=(0.0,))
    first, second, *_ = prompts_of(paths, monkeypatch, cold, prompt=" ciao ")
    assert first == [TOKENS.sot_prev, *TOKENS.encode(" ciao"), TOKENS.sot]
    assert second[: len(first) - 1] == first[:-1]
    assert len(second) > len(first)
    first, second, *_ = prompts_of(paths, monkeypatch, cold, condition_on_previous_text=False)
    assert first == second == [TOKENS.sot]
    hot = replace(SEARCH, temperature=(0.6,))
    assert all(prompt == [TOKENS.sot] for prompt in prompts_of(paths, monkeypatch, hot))
    untimed = prompts_of(paths, monkeypatch, cold, timestamps=False)
    assert all(prompt[-2:] == [TOKENS.sot, TOKENS.no_timestamps] for prompt in untimed)
    assert len(untimed) == 3


def test_silence_is_passed_over(tmp_path: Path) -> None:
    search = replace(SEARCH, no_speech_threshold=0.0, logprob_threshold=None)
    (found,) = transcribed(saved(tmp_path, 62.5), search)
    assert segments(found) == []


def test_progress_adds_up_to_the_audio(tmp_path: Path) -> None:
    printed: list[int] = []
    made = LongForm(MODEL, search=SEARCH, options=LongFormOptions())
    list(made.transcribe(saved(tmp_path, 31.2, 4.0), printed.append))
    assert sum(printed) == 35


def test_thinned_frames_are_taken(tmp_path: Path) -> None:
    """Of a window that the recording does not fill only some frames of silence are computed."""
    paths = saved(tmp_path, 3.0)
    (dense,), (thinned,) = transcribed(paths), transcribed(paths, frames=FrameOptions())
    values = [t.segments[0].result.no_speech_prob for t in (dense, thinned) if isinstance(t, Transcript)]
    assert values[0] != values[1]
    assert values[0] == pytest.approx(values[1], rel=1.0)


@pytest.mark.parametrize("fields", [{"batch_size": 0}, {"max_initial_timestamp": 31.0}, {"max_initial_timestamp": -1}])
def test_bad_options(fields: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=next(iter(fields))):
        LongFormOptions(**fields)
