"""Logits against transformers, from the waveform on: dense frames, float32."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clips import Clips, load_or_skip
from random_whisper import random_weights, small_config

from whispertune.checkpoints.huggingface import save_huggingface
from whispertune.decoding.loading import ReadyModel
from whispertune.features.options import DENSE
from whispertune.model.config import WhisperConfig
from whispertune.model.whisper import Whisper, build_whisper
from whispertune.states.computed import EncoderStates, encode, window_features
from whispertune.text.targets import collate_targets

transformers = pytest.importorskip("transformers")

PAD = 50_257


def their_model(config: WhisperConfig, weights: dict[str, torch.Tensor]) -> Any:
    ids = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 1}
    settings = transformers.WhisperConfig(**asdict(config), **ids)
    with torch.device("meta"):
        theirs = transformers.WhisperForConditionalGeneration(settings)
    missing, unexpected = theirs.load_state_dict(weights, strict=False, assign=True)
    assert set(missing) <= {"proj_out.weight"}
    assert not unexpected
    theirs.tie_weights()
    return theirs.eval()


@torch.inference_mode()
def largest_difference(
    ours: Whisper,
    theirs: Any,
    waveforms: list[np.ndarray],
    token_lists: list[list[int]],
    pad_id: int,
    states: EncoderStates | None = None,
) -> float:
    """Of the logits at real tokens: ours in one right-padded batch, theirs row by row without padding.

    states: ours of these waveforms, where they are there already.
    """
    n_mels = ours.config.num_mel_bins
    extractor = transformers.WhisperFeatureExtractor(feature_size=n_mels)
    longest = max(map(len, token_lists))
    padded = torch.tensor([tokens + [pad_id] * (longest - len(tokens)) for tokens in token_lists])
    if states is None:
        states = encode(ours.encoder, [window_features(waveform, n_mels, DENSE) for waveform in waveforms])
    logits = ours.decoder.logits(ours.decoder(padded, states.states, states.log_weights))
    differences = []
    for row, (waveform, tokens) in enumerate(zip(waveforms, token_lists, strict=True)):
        log_mel = extractor(waveform, sampling_rate=16_000, return_tensors="pt").input_features
        expected = theirs(log_mel, decoder_input_ids=torch.tensor([tokens])).logits[0]
        assert expected.std() > 0.5  # else a small difference would say nothing
        differences.append(float((logits[row, : len(tokens)] - expected).abs().max()))
    return max(differences)


def noise_and_tokens(vocab_size: int, rows: int) -> tuple[list[np.ndarray], list[list[int]]]:
    generator = np.random.default_rng(0)
    waveforms = [
        (0.1 * generator.standard_normal(int(n))).astype(np.float32) for n in generator.integers(1, 480_000, rows)
    ]
    tokens = [generator.integers(0, vocab_size, n).tolist() for n in generator.permutation(range(3, 3 + 5 * rows, 5))]
    return waveforms, tokens


@pytest.mark.parametrize(
    "config",
    [
        small_config(),
        small_config(n_mels=128, width=48, heads=3, layers=(1, 3)),
        small_config(width=64, heads=1, layers=(3, 1)),
        small_config(vocab_size=51_865, width=64, heads=4),  # multilingual
        small_config(vocab_size=51_864),  # English-only
        small_config(vocab_size=51_866, n_mels=128),  # large-v3
    ],
)
def test_random_models(config: WhisperConfig) -> None:
    weights = random_weights(config, seed=config.d_model)
    waveforms, tokens = noise_and_tokens(config.vocab_size, 3)
    ours, theirs = build_whisper(config, weights), their_model(config, weights)
    assert largest_difference(ours, theirs, waveforms, tokens, pad_id=0) <= 2e-4


@pytest.mark.slow
def test_widths_of_large_v3() -> None:
    config = WhisperConfig(
        vocab_size=51_866,
        num_mel_bins=128,
        d_model=1280,
        encoder_layers=2,
        encoder_attention_heads=20,
        encoder_ffn_dim=5120,
        decoder_layers=2,
        decoder_attention_heads=20,
        decoder_ffn_dim=5120,
    )
    weights = random_weights(config)
    # Rows of half a unit each, against hidden states of length 36: logits of trained models are no larger than 30.
    weights["model.decoder.embed_tokens.weight"] *= 0.5
    waveforms, tokens = noise_and_tokens(config.vocab_size, 2)
    ours, theirs = build_whisper(config, weights), their_model(config, weights)
    assert largest_difference(ours, theirs, waveforms, tokens, pad_id=PAD) <= 2e-4


def test_base(base: ReadyModel, their_base: Any, few: Clips, few_states: EncoderStates) -> None:
    clips = few.only([3, 5])
    tokens = [list(target.input_ids) for target in clips.targets(base)]
    states = few_states.select([3, 5])
    assert len(tokens[0]) != len(tokens[1])
    assert largest_difference(base.whisper, their_base, clips.waveforms, tokens, PAD, states) <= 2e-4


@pytest.mark.slow
def test_base_on_many_clips(base: ReadyModel, their_base: Any, valid: Clips) -> None:
    for begin in range(0, 24, 6):
        clips = valid.only(range(begin, begin + 6))
        tokens = [list(target.input_ids) for target in clips.targets(base)]
        assert largest_difference(base.whisper, their_base, clips.waveforms, tokens, pad_id=PAD) <= 2e-4


def test_tiny_en(few: Clips, tmp_path: Path) -> None:
    ready = load_or_skip("packaged:whisper-tiny.en")
    save_huggingface(tmp_path, ready.checkpoint, ready.whisper.state_dict(), language=None, model_card=None)
    theirs = transformers.WhisperForConditionalGeneration.from_pretrained(tmp_path).eval()
    clips = few.only([0, 2])
    tokens = [list(target.input_ids) for target in clips.targets(ready, None)]
    assert tokens[0][:2] == [ready.tokenizer.sot, ready.tokenizer.no_timestamps]
    assert largest_difference(ready.whisper, theirs, clips.waveforms, tokens, pad_id=50_256) <= 2e-4


@torch.inference_mode()
def test_loss_is_theirs(base: ReadyModel, their_base: Any, few: Clips, few_states: EncoderStates) -> None:
    """The mean over target tokens that transformers computes from the same labels."""
    from transformers.modeling_outputs import BaseModelOutput

    from whispertune.model.loss import summed_nll

    few, few_states = few.only([1, 5]), few_states.select([1, 5])
    targets = few.targets(base)
    input_ids, labels = collate_targets(targets, base.checkpoint.pad_token_id)
    hidden = base.whisper.decoder(input_ids, few_states.states, None)
    ours = float(summed_nll(base.whisper.decoder, hidden, labels)) / sum(t.num_target_tokens for t in targets)
    states = BaseModelOutput(last_hidden_state=few_states.states)
    theirs = float(their_base(encoder_outputs=states, decoder_input_ids=input_ids, labels=labels).loss)
    assert ours == pytest.approx(theirs, abs=1e-5)
