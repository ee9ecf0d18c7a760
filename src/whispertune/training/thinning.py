"""How far the model's predictions on thinned windows are from those on dense ones: the check before training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from whispertune.features.options import DENSE, FrameOptions
from whispertune.model.whisper import Decoder, Encoder
from whispertune.states.computed import WindowFeatures, encode
from whispertune.text.targets import IGNORE_INDEX, Target, collate_targets

MAX_DIVERGENCE = 0.05
"""Nats per target token above which a run takes a denser stride."""
CHECKED_WINDOWS = 16
CHECKED_AT_ONCE = 4
"""Of them, compared first; more only while the outcome is in doubt. A dense window takes a CPU most of a second."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """Thinned against dense, teacher-forced, per target token.

    kl: KL(dense from thinned), nats. same_argmax: share. nll_dense, nll_thinned: nats. frames: kept per window.
    """

    kl: float
    same_argmax: float
    nll_dense: float
    nll_thinned: float
    frames: float
    num_tokens: int


@torch.inference_mode()
def divergence(
    encoder: Encoder,
    decoder: Decoder,
    features: Callable[[int, FrameOptions], WindowFeatures],
    indices: Sequence[int],
    targets: Sequence[Target],
    thinned: FrameOptions,
    *,
    pad_id: int,
    batch_size: int = 8,
) -> Divergence:
    """Compare what the decoder predicts from thinned and from dense windows, over text and end of text.

    features(index, options): of window `index`; targets: by window index.
    """
    sums = torch.zeros(4, dtype=torch.float64)
    num_tokens = num_frames = 0
    for begin in range(0, len(indices), batch_size):
        batch = indices[begin : begin + batch_size]
        input_ids, labels = collate_targets([targets[i] for i in batch], pad_id)
        scored = labels != IGNORE_INDEX
        log_probs = []
        for options in (DENSE, thinned):
            rows = [features(index, options) for index in batch]
            states = encode(encoder, rows)
            hidden = decoder(
                input_ids.to(states.states.device), states.states, states.log_weights, None, states.num_frames
            )
            logits = decoder.logits(hidden[scored.to(hidden.device)])
            log_probs.append(logits.float().log_softmax(dim=-1).cpu())
        num_frames += sum(len(row.positions) for row in rows)
        dense, thin = log_probs
        chosen = labels[scored][:, None]
        sums += torch.stack(
            [
                (dense.exp() * (dense - thin)).sum(),
                (dense.argmax(-1) == thin.argmax(-1)).sum(),
                -dense.gather(1, chosen).sum(),
                -thin.gather(1, chosen).sum(),
            ]
        ).double()
        num_tokens += int(scored.sum())
    kl, same, nll_dense, nll_thinned = (sums / num_tokens).tolist()
    return Divergence(kl, same, nll_dense, nll_thinned, num_frames / len(indices), num_tokens)


def settled_divergence(measure: Callable[[Sequence[int]], Divergence], windows: Sequence[int]) -> Divergence:
    """The divergence over a few of these windows if it is at most half the bound, else over more, up to all.

    The first few are spread from the first to the last: a manifest may be ordered by kind of speech.
    """
    ends = {step * (len(windows) - 1) // (CHECKED_AT_ONCE - 1) for step in range(CHECKED_AT_ONCE)}
    others = [window for place, window in enumerate(windows) if place not in ends]
    groups = -(-len(others) // CHECKED_AT_ONCE)
    parts: list[tuple[int, Divergence]] = []
    for part in ([windows[place] for place in sorted(ends)], *(others[group::groups] for group in range(groups))):
        parts.append((len(part), measure(part)))
        found = _pooled(parts)
        if found.kl <= MAX_DIVERGENCE / 2:
            break
    return found


def _pooled(parts: Sequence[tuple[int, Divergence]]) -> Divergence:
    """One divergence from those of several sets of windows, each with its number of windows."""
    num_windows, num_tokens = sum(n for n, _ in parts), sum(part.num_tokens for _, part in parts)
    frames = sum(n * part.frames for n, part in parts) / num_windows
    kl, same_argmax, nll_dense, nll_thinned = (
        sum(part.num_tokens * getattr(part, name) for _, part in parts) / num_tokens
        for name in ("kl", "same_argmax", "nll_dense", "nll_thinned")
    )
    return Divergence(kl, same_argmax, nll_dense, nll_thinned, frames, num_tokens)


def faithful_stride(
    measure: Callable[[FrameOptions], Divergence], frames: FrameOptions
) -> tuple[int, list[Divergence]]:
    """The widest of stride, stride / 3, stride / 9, … whose divergence stays below the bound; and all measured."""
    measured: list[Divergence] = []
    stride = frames.stride
    while True:
        measured.append(measure(dataclasses.replace(frames, stride=stride)))
        if measured[-1].kl <= MAX_DIVERGENCE or stride == 1:
            return stride, measured
        stride = max(1, stride // 3)
