"""Which heads of the decoder's cross-attention align text with speech, for models that do not say (`alignment_heads`).

A head that looks at the speech of the next token has its peaks on one monotonic path through tokens and frames, the
one that dynamic time warping finds (`alignment.py`); the peaks of other heads lie on no such path. So each head is
scored by its mean attention along its own best path.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from whispertune.decoding.alignment import Floats, SpokenTexts, as_costs, dtw, watch_attention
from whispertune.model.whisper import Decoder
from whispertune.text.tokenizer import Tokenizer

MOST_HEADS = 8
"""As many as whisper-base's own list has."""
MOST_SHARE = 0.25
"""Of all heads of a small decoder: whisper-tiny's own list has 6 of 24."""


@torch.inference_mode()
def head_scores(decoder: Decoder, tokenizer: Tokenizer, spoken: SpokenTexts) -> Floats:
    """(layers, heads) how well each head aligns the texts, summed over the windows."""
    num_layers, num_heads = len(decoder.layers), decoder.num_heads
    scores = np.zeros((num_layers, num_heads))
    of_layer: list[Tensor] = []

    def score(layer: int, _row: int, attention: Tensor) -> None:
        of_layer.append(attention)
        if len(of_layer) == len(spoken):  # all windows at once: many small matrices cost what one does
            costs = [cost for window in of_layer for cost in as_costs(window)]
            means = [-cost[path].mean() for cost, path in zip(costs, dtw(costs), strict=True)]
            scores[layer] = np.reshape(means, (len(spoken), num_heads)).sum(0)
            of_layer.clear()

    every = [(layer, head) for layer in range(num_layers) for head in range(num_heads)]
    watch_attention(decoder, tokenizer, spoken, every, score)
    return scores


def best_heads(scores: Floats) -> list[list[int]]:
    """[layer, head] of the heads with the highest scores (layers, heads), in order of layer and head."""
    number = max(1, min(MOST_HEADS, int(MOST_SHARE * scores.size)))
    chosen = np.argsort(-scores, axis=None, kind="stable")[:number]
    layers, heads = np.unravel_index(np.sort(chosen), scores.shape)
    return [[int(layer), int(head)] for layer, head in zip(layers, heads, strict=True)]
