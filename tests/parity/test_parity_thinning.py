"""What thinned windows cost, on the untouched model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from clips import Clips, read_clips
from random_whisper import random_whisper

from whispertune.decoding.loading import ReadyModel
from whispertune.features.options import DENSE, FrameOptions
from whispertune.model.whisper import inference_copy
from whispertune.states.computed import encode, window_features
from whispertune.system.precision import resolve_precision
from whispertune.text.targets import make_target
from whispertune.training.thinning import MAX_DIVERGENCE, Divergence, divergence, faithful_stride, settled_divergence

CPU = torch.device("cpu")


def measure(ready: ReadyModel, clips: Clips, dtype: torch.dtype, frames: FrameOptions) -> Divergence:
    encoder, decoder = (inference_copy(half, dtype) for half in (ready.whisper.encoder, ready.whisper.decoder))
    order = sorted(range(len(clips)), key=lambda i: len(clips.waveforms[i]))
    return divergence(
        encoder, decoder, clips.features, order, clips.targets(ready), frames, pad_id=ready.checkpoint.pad_token_id
    )


def test_dense_from_dense_is_nothing_and_sums_are_right() -> None:
    """On a small random model, KL and the rest against the plain formula, window by window."""
    whisper = random_whisper()
    waveforms = [(0.1 * np.random.default_rng(n).standard_normal(n)).astype(np.float32) for n in (9_000, 4_000, 30_000)]
    targets = [make_target((1, 2), range(3, 3 + n), 60, sot=1) for n in (4, 1, 9)]
    sparse = FrameOptions(stride=500, margin=0, edge=0)

    def measured(frames: FrameOptions, batch_size: int) -> Divergence:
        return divergence(
            whisper.encoder, whisper.decoder, lambda i, options: window_features(waveforms[i], 80, options),
            range(3), targets, frames, pad_id=60, batch_size=batch_size,
        )  # fmt: skip

    nothing = measured(DENSE, 2)
    assert nothing.kl == 0
    assert nothing.same_argmax == 1
    assert nothing.nll_dense == nothing.nll_thinned
    assert nothing.frames == 1500
    found = measured(sparse, 2)
    assert found.num_tokens == 5 + 2 + 10
    assert found.kl > 1e-4
    for name, value in dataclasses.asdict(measured(sparse, 1)).items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-3, abs=1e-6), name
    sums = np.zeros(3)
    for waveform, target in zip(waveforms, targets, strict=True):
        log_probs = []
        for options in (DENSE, sparse):
            with torch.no_grad():
                states = encode(whisper.encoder, [window_features(waveform, 80, options)])
                hidden = whisper.decoder(torch.tensor([target.input_ids]), states.states, states.log_weights)
                logits = whisper.decoder.logits(hidden)[0, 1:].double()
            log_probs.append(logits.log_softmax(-1).numpy())
        dense, thin = log_probs
        labels = np.array(target.labels[1:])
        at = np.arange(len(labels))
        sums += [(np.exp(dense) * (dense - thin)).sum(), -dense[at, labels].sum(), -thin[at, labels].sum()]
    kl, nll_dense, nll_thinned = sums / found.num_tokens
    assert found.kl == pytest.approx(kl, rel=1e-3)
    assert found.nll_dense == pytest.approx(nll_dense, rel=1e-4)
    assert found.nll_thinned == pytest.approx(nll_thinned, rel=1e-4)


@pytest.mark.parametrize(("bound", "strides"), [(60, [60]), (20, [60, 20]), (9, [60, 20, 6]), (0, [60, 20, 6, 2, 1])])
def test_faithful_stride_takes_a_denser_one_where_needed(bound: int, strides: list[int]) -> None:
    asked: list[int] = []

    def measured(frames: FrameOptions) -> Divergence:
        assert frames.margin == 7  # the other options stay
        asked.append(frames.stride)
        kl = 2 * MAX_DIVERGENCE if frames.stride > bound else MAX_DIVERGENCE
        return Divergence(kl, 1.0, 1.0, 1.0, 200.0, 10)

    stride, found = faithful_stride(measured, FrameOptions(margin=7))
    assert asked == strides
    assert stride == strides[-1]
    assert len(found) == len(strides)


@pytest.mark.parametrize(
    ("kl", "measured"),
    [
        ([0.02] * 16, 4),  # clear after the first four
        ([0.04] * 16, 16),  # within the bound, but too near it to stop
        ([0.01] * 13 + [0.4] * 3, 16),  # another kind at the end
        ([0.4] + [0.001] * 15, 4),  # the first one alone, which has few tokens
    ],
)
def test_more_windows_are_measured_while_there_is_doubt(kl: list[float], measured: int) -> None:
    asked: list[int] = []

    def measure(windows: Sequence[int]) -> Divergence:
        asked.extend(windows)
        tokens = [1 + window for window in windows]
        total = sum(kl[w] * n for w, n in zip(windows, tokens, strict=True))
        return Divergence(total / sum(tokens), 0.5, 2.0, 3.0, 100.0 + len(windows), sum(tokens))

    found = settled_divergence(measure, range(16))
    assert len(set(asked)) == len(asked) == measured
    assert asked[:4] == [0, 5, 10, 15]  # from the first to the last
    tokens = sum(1 + window for window in asked)
    assert found.num_tokens == tokens
    assert found.kl == pytest.approx(sum(kl[w] * (1 + w) for w in asked) / tokens)
    assert (found.same_argmax, found.nll_dense, found.nll_thinned, found.frames) == pytest.approx((0.5, 2, 3, 104))


@pytest.mark.parametrize("windows", [[7], [7, 9], [7, 8, 9], [3, 4, 5, 6, 7]])
def test_few_windows_are_measured_once_each(windows: list[int]) -> None:
    asked: list[int] = []

    def measure(some: Sequence[int]) -> Divergence:
        asked.extend(some)
        return Divergence(0.04, 1.0, 1.0, 1.0, 200.0, 10)

    settled_divergence(measure, windows)
    assert sorted(asked) == windows


def assert_faithful(found: Divergence, *, same_argmax: float = 0.95, nll: float = 0.01) -> None:
    print(found)
    assert found.frames <= 260
    assert found.kl <= 0.015
    assert found.same_argmax >= same_argmax
    assert found.nll_thinned == pytest.approx(found.nll_dense, rel=nll)


def test_real_model_on_a_few_clips(base: ReadyModel, few: Clips) -> None:
    found = measure(base, few.only([2, 3]), torch.float32, FrameOptions())
    assert found.kl > 0
    assert_faithful(found, same_argmax=0.9, nll=0.1)  # of few tokens


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_real_model_on_valid_and_test(base: ReadyModel, precision: str) -> None:
    dtype = resolve_precision(precision, CPU).dtype  # type: ignore[arg-type]
    assert_faithful(measure(base, read_clips("valid", "test"), dtype, FrameOptions()))
