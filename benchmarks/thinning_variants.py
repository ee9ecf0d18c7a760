"""Other ways of thinning, tried here only: blocks of one size wherever they lie, pauses inside the speech, and weights
as a further dimension of queries and keys instead of a bias."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from whispertune.frames import FRAME_SAMPLES, WINDOW_FRAMES, convolved_index
from whispertune.states import WindowFeatures

GUARD = 5
"""Frames (20 ms) kept at both ends of a pause."""


def with_frames(features: WindowFeatures, positions: np.ndarray, counts: np.ndarray) -> WindowFeatures:
    """The same window with other kept frames; their counts must sum to 1500."""
    assert counts.sum() == WINDOW_FRAMES, counts.sum()
    index = convolved_index(positions, features.log_mel.shape[1])
    return dataclasses.replace(features, positions=positions, counts=counts, index=index)


def in_blocks(starts: np.ndarray, end: int) -> tuple[np.ndarray, np.ndarray]:
    """The middle frame and the size of each block that begins at `starts`, the last ending at `end`."""
    sizes = np.diff(np.append(starts, end))
    return starts + sizes // 2, sizes


def constant(features: WindowFeatures, num_samples: int, *, stride: int, margin: int, edge: int) -> WindowFeatures:
    """Behind speech and margin, blocks of `stride` frames wherever they lie; the last `edge` frames are kept."""
    kept_until = min(WINDOW_FRAMES, -(-num_samples // FRAME_SAMPLES) + margin)
    edge_from = max(kept_until, WINDOW_FRAMES - edge)
    middles, sizes = in_blocks(np.arange(kept_until, edge_from, stride), edge_from)
    ends = np.arange(edge_from, WINDOW_FRAMES)
    positions = np.concatenate([np.arange(kept_until), middles, ends])
    counts = np.concatenate([np.ones(kept_until, np.int64), sizes, np.ones(len(ends), np.int64)])
    return with_frames(features, positions, counts.astype(np.int64))


def pauses_thinned(
    features: WindowFeatures, num_samples: int, *, level: float, shortest: int, stride: int
) -> WindowFeatures:
    """Of each pause of `shortest` frames and more inside the speech, one frame in `stride` beside its ends.

    A frame is part of a pause if its log-mel lies on average less than `level` above the utterance's floor
    (1 is 40 dB).
    """
    speech = min(-(-num_samples // FRAME_SAMPLES), features.log_mel.shape[1] // 2)
    energy = features.log_mel[:, : 2 * speech].mean(0).reshape(speech, 2).mean(1) - features.log_mel.min()
    quiet = np.concatenate([[False], (energy < level).numpy(), [False]])
    edges = np.flatnonzero(np.diff(quiet.astype(np.int8)))
    positions, counts = features.positions, features.counts
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        if end - begin < shortest:
            continue
        first, last = begin + GUARD, end - GUARD
        middles, sizes = in_blocks(np.arange(first, last, stride), last)
        kept = (positions < first) | (positions >= last)
        positions, counts = np.concatenate([positions[kept], middles]), np.concatenate([counts[kept], sizes])
        order = np.argsort(positions)
        positions, counts = positions[order], counts[order]
    return with_frames(features, positions, counts.astype(np.int64))


def attention_comparison(
    dtype: torch.dtype, device: torch.device, *, heads: int, width: int, kept: int, repeats: int
) -> list[tuple[str, str, str, str, str]]:
    """Rows (shape, way, forward ms, forward and backward ms, largest error): weights as bias or as a dimension.

    softmax(q k / sqrt(width) + w) v is also that of queries with one more entry sqrt(width) and keys with one more
    entry w; the error is against float32 with a bias, over the spread of the exact output.
    """
    rows = []
    for shape, batch, queries in (("encoder", max(1, 4096 // kept), kept), ("cross-attention", 8, 24)):
        torch.manual_seed(0)
        q, k, v = (torch.randn(batch, heads, n, width, device=device) for n in (queries, kept, kept))
        bias = torch.zeros(batch, 1, 1, kept, device=device)
        bias[..., kept // 2 :: 20] = np.log(30.0)
        exact = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)

        def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return F.scaled_dot_product_attention(q, k, v)

        def biased(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor = bias) -> torch.Tensor:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))

        def widened(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: torch.Tensor = bias) -> torch.Tensor:
            more = 8  # kernels want heads in eighths: 64 -> 72
            extra_q = q.new_zeros(*q.shape[:-1], more)
            extra_q[..., 0] = width**0.5
            extra_k = F.pad(bias.to(k.dtype).transpose(-1, -2).expand(*k.shape[:-1], 1), (0, more - 1))
            wide = [torch.cat(pair, -1) for pair in ((q, extra_q), (k, extra_k))]
            out = F.scaled_dot_product_attention(*wide, F.pad(v, (0, more)), scale=width**-0.5)
            return out[..., :width]

        for name, way in (("no weights", plain), ("bias", biased), ("one more dimension", widened)):
            inputs = [x.to(dtype).requires_grad_() for x in (q, k, v)]
            with torch.no_grad():
                error = float((way(*inputs).float() - exact).abs().max() / exact.std())
                forward = _seconds(lambda w=way, i=inputs: w(*i), repeats, device)
            both = _seconds(lambda w=way, i=inputs: w(*i).sum().backward(), repeats, device)
            shown = "–" if name == "no weights" else f"{error:.1e}"
            rows.append(
                (f"{shape}, {batch} x {queries} on {kept}", name, f"{1e3 * forward:.2f}", f"{1e3 * both:.2f}", shown)
            )
    return rows


def _seconds(work: Callable[[], object], repeats: int, device: torch.device) -> float:
    found = []
    for _ in range(repeats + 1):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return statistics.median(found[1:])
