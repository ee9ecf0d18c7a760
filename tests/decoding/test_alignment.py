"""Paths and medians against their definitions; a batch is what its rows are alone, and the model is left as it was."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_samples import TOKENIZER, VOCAB_SIZE
from hypothesis import given
from hypothesis import strategies as st
from random_whisper import random_whisper, small_config

from whispertune.checkpoints.generation import upper_heads
from whispertune.decoding import alignment
from whispertune.decoding.alignment import SpokenTexts, align_tokens, dtw, entered, median_filter
from whispertune.features.options import DENSE
from whispertune.states.computed import encode, window_features
from whispertune.text.tokenizer import Tokenizer

TOKENS = Tokenizer(TOKENIZER)
CONFIG = small_config(vocab_size=VOCAB_SIZE)
MODEL = random_whisper(CONFIG, 2)


def cheapest(cost: np.ndarray) -> float:
    """The least sum of any monotonic path, by the recursion."""
    sums = np.full((cost.shape[0] + 1, cost.shape[1] + 1), np.inf)
    sums[0, 0] = 0
    for i in range(cost.shape[0]):
        for j in range(cost.shape[1]):
            sums[i + 1, j + 1] = cost[i, j] + min(sums[i, j], sums[i, j + 1], sums[i + 1, j])
    return float(sums[-1, -1])


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 9)), min_size=1, max_size=4), st.integers(0, 10**6))
def test_paths_are_the_cheapest(shapes: list[tuple[int, int]], seed: int) -> None:
    costs = [np.random.default_rng(seed).standard_normal(shape) for shape in shapes]
    for cost, (rows, columns) in zip(costs, dtw(costs), strict=True):
        assert (rows[0], columns[0], rows[-1], columns[-1]) == (0, 0, cost.shape[0] - 1, cost.shape[1] - 1)
        steps = set(zip(np.diff(rows).tolist(), np.diff(columns).tolist(), strict=True))
        assert steps <= {(0, 1), (1, 0), (1, 1)}
        assert np.isclose(cost[rows, columns].sum(), cheapest(cost), atol=1e-4)


def test_a_row_begins_where_the_path_first_meets_it() -> None:
    """Not where it leaves it; a row that is crossed in one step begins there."""
    rows, columns = np.array([0, 0, 0, 1, 2, 2, 3]), np.array([0, 1, 2, 3, 3, 4, 7])
    np.testing.assert_array_equal(entered(rows, columns), [0, 3, 3, 7])
    np.testing.assert_array_equal(entered(np.zeros(4, int), np.arange(4)), [0])


def test_medians_of_seven() -> None:
    values = torch.randn(3, 5, 60, generator=torch.Generator().manual_seed(0))
    inside = values.unfold(-1, 7, 1).median(-1).values
    assert torch.equal(median_filter(values)[..., 3:-3], inside)
    assert torch.equal(median_filter(values.flip(-1)), median_filter(values).flip(-1))
    assert torch.equal(median_filter(values[..., :3]), values[..., :3])


def test_rows_of_a_batch_are_what_they_are_alone() -> None:
    draws = np.random.default_rng(0)
    waveforms = [
        0.2 * draws.standard_normal(round(16_000 * seconds)).astype(np.float32) for seconds in (3.1, 0.005, 9.7)
    ]
    texts = [draws.integers(0, TOKENS.eot, count).tolist() for count in (9, 2, 30)]
    with torch.inference_mode():
        states = encode(MODEL.encoder, [window_features(waveform, 80, DENSE) for waveform in waveforms])
    frames = [len(waveform) // 320 for waveform in waveforms]
    prompts = [TOKENS.prompt_tokens(None)] * 3
    heads = upper_heads(CONFIG)
    together = align_tokens(MODEL.decoder, TOKENS, SpokenTexts(states, texts, prompts, frames), heads)
    for row, found in enumerate(together):
        own = SpokenTexts(states.select([row]), [texts[row]], prompts[:1], [frames[row]])
        (alone,) = align_tokens(MODEL.decoder, TOKENS, own, heads)
        np.testing.assert_allclose(found.bounds, alone.bounds, atol=0.021)
        np.testing.assert_allclose(found.probs, alone.probs, rtol=1e-3)
        assert len(found.bounds) == len(texts[row]) + 1
        assert found.bounds[0] == 0
        assert (np.diff(found.bounds) >= 0).all()
        assert found.bounds[-1] <= max(frames[row], 1) / 50
        assert ((found.probs > 0) & (found.probs <= 1)).all()


def theirs_on(waveform: np.ndarray, text: list[int], num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Costs (tokens, frames) and probabilities of a text's tokens, from transformers' attention weights and logits."""
    transformers: Any = pytest.importorskip("transformers")
    ids = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 1}
    config = transformers.WhisperConfig(**asdict(CONFIG), **ids, attn_implementation="eager")
    model = transformers.WhisperForConditionalGeneration(config).eval()
    model.load_state_dict(MODEL.state_dict(), strict=False)
    model.tie_weights()
    extractor = transformers.WhisperFeatureExtractor(feature_size=CONFIG.num_mel_bins)
    features = extractor(waveform, sampling_rate=16_000, return_tensors="pt").input_features
    prompt = TOKENS.prompt_tokens(None)
    tokens = torch.tensor([[*prompt, *text, TOKENS.eot]])
    with torch.inference_mode():
        found = model(input_features=features, decoder_input_ids=tokens, output_attentions=True)
    matrix = np.zeros((tokens.shape[1], num_frames))
    for layer, head in upper_heads(CONFIG):
        weights = found.cross_attentions[layer][0, head, :, :num_frames].double().numpy()
        weights = weights / weights.sum(-1, keepdims=True)  # of the frames of speech alone
        scaled = (weights - weights.mean(0)) / weights.std(0)
        padded = np.pad(scaled, ((0, 0), (3, 3)), mode="reflect")
        matrix += np.median(np.lib.stride_tricks.sliding_window_view(padded, 7, axis=1), axis=-1)
    logits = found.logits[0, len(prompt) - 1 : -2].clone()
    logits[:, TOKENS.eot :] = -torch.inf
    costs = -matrix[len(prompt) - 1 : -1] / len(upper_heads(CONFIG))
    return costs, logits.softmax(-1)[range(len(text)), text].double().numpy()


def test_costs_and_probabilities_are_those_of_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of clips in one batch; frames behind the speech have no share in the attention."""
    draws = np.random.default_rng(3)
    waveforms = [0.2 * draws.standard_normal(count).astype(np.float32) for count in (30_000, 64_000)]
    texts = [draws.integers(0, TOKENS.eot, count).tolist() for count in (7, 12)]
    frames = [len(waveform) // 320 for waveform in waveforms]
    costs: list[np.ndarray] = []
    monkeypatch.setattr(alignment, "dtw", lambda given: costs.extend(given) or dtw(given))
    with torch.inference_mode():
        states = encode(MODEL.encoder, [window_features(waveform, 80, DENSE) for waveform in waveforms])
    prompts = [TOKENS.prompt_tokens(None)] * 2
    found = align_tokens(MODEL.decoder, TOKENS, SpokenTexts(states, texts, prompts, frames), upper_heads(CONFIG))
    for ours, cost, waveform, text, count in zip(found, costs, waveforms, texts, frames, strict=True):
        their_costs, probs = theirs_on(waveform, text, count)
        np.testing.assert_allclose(ours.probs, probs, rtol=1e-3)
        np.testing.assert_allclose(cost, their_costs, atol=1e-3)
        ((rows, columns),) = dtw([their_costs])
        np.testing.assert_allclose(ours.bounds, [columns[rows == row].min() / 50 for row in range(len(text) + 1)])
