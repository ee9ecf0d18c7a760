"""Word times against openai-whisper's `timing.py`: its parts on made-up numbers, the whole on a random model."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from clips import Clips, read_clips
from random_whisper import random_weights, small_config

from whispertune.checkpoints.generation import upper_heads
from whispertune.checkpoints.openai_layout import openai_dims, openai_name
from whispertune.decoding.alignment import SpokenTexts, TokenTimes, align_tokens, dtw, median_filter
from whispertune.decoding.alignment_heads import best_heads, head_scores
from whispertune.decoding.loading import ReadyModel
from whispertune.decoding.segmentation import Span
from whispertune.decoding.words import words_of_spans
from whispertune.features.log_mel import HOP_SAMPLES
from whispertune.features.options import DENSE, FrameOptions
from whispertune.model.whisper import build_whisper
from whispertune.states.computed import encode
from whispertune.text.words import split_words

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a file left open there
SAID = [" «Tutti i circuiti»", " - sono", " ora (tutti) occupati: l'", "altro?", " E poi... no!", " 你好、世界。"]


@pytest.fixture(scope="module")
def timing() -> Any:
    return pytest.importorskip("whisper.timing")


@pytest.fixture(scope="module")
def their_tokenizer() -> Any:
    return pytest.importorskip("whisper.tokenizer").get_tokenizer(True, num_languages=99, language="it")


def test_paths_and_medians(timing: Any) -> None:
    draws = np.random.default_rng(0)
    costs = [draws.standard_normal(shape) for shape in ((5, 9), (40, 300), (1, 1), (7, 3), (1, 9))]
    costs.append(draws.integers(0, 3, (30, 60)).astype(float))  # full of ties
    for ours, cost in zip(dtw(costs), costs, strict=True):
        np.testing.assert_array_equal(np.array(ours), timing.dtw_cpu(cost))
    for shape in ((3, 5, 4), (2, 3, 90), (2, 3)):
        values = torch.from_numpy(draws.standard_normal(shape))
        assert torch.equal(median_filter(values), timing.median_filter(values, 7))


@pytest.mark.parametrize("language", ["it", "zh"])
def test_tokens_become_the_same_words(base: ReadyModel, their_tokenizer: Any, language: str) -> None:
    theirs = replace(their_tokenizer, language=language)
    draws = np.random.default_rng(0)
    for number in range(60):
        tokens = [token for part in SAID for token in base.tokenizer.encode(part)]
        if number:  # and any tokens at all, which need not be whole characters
            tokens = draws.integers(0, base.tokenizer.eot, 12).tolist()
        expected = theirs.split_to_word_tokens([*tokens, theirs.eot])
        found = split_words(tokens, base.tokenizer, language)
        assert [list(word) for word in found] == [list(word) for word in zip(*expected, strict=True)][:-1]


def test_times_of_tokens_become_the_same_words(
    base: ReadyModel, timing: Any, their_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Segments of random lengths, tokens of random durations, some much too long: every rule is met."""
    tokenizer, begin = base.tokenizer, base.tokenizer.timestamp_begin
    draws = np.random.default_rng(0)
    for _ in range(300):
        texts = [tokenizer.encode(SAID[0] + "".join(draws.choice(SAID[:5], draws.integers(0, 4)))) for _ in range(3)]
        stamps = np.sort(draws.integers(0, 1400, 6)).tolist()
        spans = [
            Span(a / 50, b / 50, (begin + a, *text, begin + b))
            for a, b, text in zip(stamps[::2], stamps[1::2], texts, strict=True)
        ]
        tokens = [token for text in texts for token in text]
        lasting = draws.choice([0, 0.1, 0.2, 0.3, 2.0], len(tokens), p=[0.1, 0.3, 0.3, 0.2, 0.1])
        times = TokenTimes(np.cumsum([draws.uniform(0, 3), *lasting]).round(2), draws.random(len(tokens)))
        words, ids = their_tokenizer.split_to_word_tokens([*tokens, tokenizer.eot])
        ends = np.cumsum([0, *map(len, ids[:-1])])
        made = [
            timing.WordTiming(word, own, times.bounds[a], times.bounds[b], np.mean(times.probs[a:b]))
            for word, own, a, b in zip(words, ids, ends, ends[1:], strict=False)
        ]
        monkeypatch.setattr(timing, "find_alignment", lambda *_, made=made: copy.deepcopy(made))
        segments = [
            {"start": 7 + span.start, "end": 7 + span.end, "tokens": list(span.tokens), "seek": 700} for span in spans
        ]
        timing.add_word_timestamps(
            segments=segments, model=None, tokenizer=their_tokenizer, mel=None, num_frames=0,
            last_speech_timestamp=6.0,
        )  # fmt: skip
        found = words_of_spans(spans, times, tokenizer, "it", begin=7.0, spoken=6.0)
        for (start, end, ours), theirs in zip(found, segments, strict=True):
            assert (start, end) == (theirs["start"], theirs["end"])
            assert [(w.text, w.start, w.end, w.confidence) for w in ours] == [
                (w["word"], w["start"], w["end"], w["probability"]) for w in theirs["words"]
            ]


def aligned(ready: ReadyModel, clips: Clips, heads: Any, frames: FrameOptions = DENSE) -> list[TokenTimes]:
    with torch.inference_mode():
        states = encode(ready.whisper.encoder, [clips.features(i, frames) for i in range(len(clips))])
    texts = [ready.tokenizer.text_ids(utterance.text) for utterance in clips.utterances]
    prompts = [ready.tokenizer.prompt_tokens("it")] * len(clips)
    counts = [len(waveform) // HOP_SAMPLES // 2 for waveform in clips.waveforms]
    spoken = SpokenTexts(states, texts, prompts, counts)
    return align_tokens(ready.whisper.decoder, ready.tokenizer, spoken, heads)


def test_a_random_model_attends_alike(base: ReadyModel, timing: Any, their_tokenizer: Any, few: Clips) -> None:
    whisper = pytest.importorskip("whisper")
    config = replace(
        small_config(vocab_size=base.tokenizer.vocab_size, layers=(1, 4)), encoder_ffn_dim=128, decoder_ffn_dim=128
    )
    weights = random_weights(config, 5)
    theirs = whisper.model.Whisper(whisper.model.ModelDimensions(**openai_dims(config)))
    theirs.load_state_dict({openai_name(name): weight for name, weight in weights.items()})
    theirs.eval()
    ready = replace(base, whisper=build_whisper(config, weights))
    for number, found in enumerate(aligned(ready, few, upper_heads(config))):
        tokens = ready.tokenizer.text_ids(few.utterances[number].text)
        mel = whisper.log_mel_spectrogram(few.waveforms[number], padding=480_000)[:, :3000]
        named = SimpleNamespace(
            sot_sequence=their_tokenizer.sot_sequence, no_timestamps=their_tokenizer.no_timestamps,
            eot=their_tokenizer.eot,
            split_to_word_tokens=lambda tokens: ([str(token) for token in tokens], [[token] for token in tokens]),
        )  # fmt: skip
        expected = timing.find_alignment(theirs, named, tokens, mel, len(few.waveforms[number]) // HOP_SAMPLES)
        np.testing.assert_allclose(found.bounds, [expected[0].start, *(one.end for one in expected)], atol=0.021)
        np.testing.assert_allclose(found.probs, [one.probability for one in expected], rtol=1e-3)


def test_thinned_frames_have_the_times_of_dense_ones(base: ReadyModel) -> None:
    clips = read_clips("valid").only(range(4))
    dense, thinned = (aligned(base, clips, base.alignment_heads, frames) for frames in (DENSE, FrameOptions()))
    apart = np.concatenate([np.abs(a.bounds - b.bounds) for a, b in zip(dense, thinned, strict=True)])
    assert np.mean(apart <= 0.06) > 0.95


def test_heads_that_align_are_found(base: ReadyModel) -> None:
    """Those of the model's own list, or nearly; times read from them are its own where the default's are not."""
    chosen = read_clips("train").only(range(0, 320, 10))
    with torch.inference_mode():
        states = [encode(base.whisper.encoder, [chosen.features(i, FrameOptions())]) for i in range(len(chosen))]
    scores = sum(
        head_scores(
            base.whisper.decoder, base.tokenizer,
            SpokenTexts(
                state, [base.tokenizer.text_ids(utterance.text)], [base.tokenizer.prompt_tokens("it")],
                [len(waveform) // HOP_SAMPLES // 2],
            ),
        )
        for state, utterance, waveform in zip(states, chosen.utterances, chosen.waveforms, strict=True)
    )  # fmt: skip
    found = best_heads(np.asarray(scores))
    assert len(found) == 8
    assert sum(head in base.alignment_heads for head in found) >= 6
    others = read_clips("valid").only(range(12))
    own, ours, default = (
        aligned(base, others, heads, FrameOptions())
        for heads in (base.alignment_heads, found, upper_heads(base.whisper.config))
    )

    def near(times: list[TokenTimes]) -> float:
        apart = np.concatenate([np.abs(a.bounds - b.bounds) for a, b in zip(own, times, strict=True)])
        return float(np.mean(apart <= 0.06))

    assert near(ours) > 0.93 > near(default) + 0.05
