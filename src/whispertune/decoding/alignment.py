"""When each token of a text is said: dynamic time warping over the decoder's cross-attention, as in openai-whisper.

Some heads of the cross-attention look at the speech of the token that comes next. The text is run through the decoder
at once; the attention of those heads, normalised over the tokens and smoothed over time, is averaged, and the cheapest
monotonic path through tokens and frames says where each token begins. Shapes: B windows, T tokens of input, F frames of
20 ms, D width.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from whispertune.model.whisper import Decoder
from whispertune.states.computed import EncoderStates
from whispertune.system.precision import send
from whispertune.text.tokenizer import Tokenizer

FRAMES_PER_SECOND = 50
MEDIAN_WIDTH = 7
"""Frames whose median replaces the middle one."""
EXCHANGES = ((0, 5), (0, 3), (1, 6), (2, 4), (0, 1), (3, 5), (2, 6), (2, 3), (3, 6), (4, 5), (1, 4), (1, 3), (3, 4))
"""Exchanges after which the fourth of seven values is their median (Devillard, Fast median search, 1998)."""
DIAGONAL, NEXT_TOKEN, NEXT_FRAME = 0, 1, 2

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TokenTimes:
    """Of n text tokens. bounds: (n + 1,) seconds from the window's beginning, token i from bounds[i] to bounds[i + 1].

    probs: (n,) the probability of each token after those before it, among text tokens.
    """

    bounds: Floats
    probs: Floats


@dataclass(frozen=True, slots=True)
class SpokenTexts:
    """What is said in B windows, at least one token in each.

    states: of the windows, dense or thinned. texts: their text tokens. prompts: ending in <|notimestamps|>.
    num_frames: of each window's speech, of which no frame was thinned.
    """

    states: EncoderStates
    texts: Sequence[Sequence[int]]
    prompts: Sequence[Sequence[int]]
    num_frames: Sequence[int]

    def __len__(self) -> int:
        return len(self.texts)


@torch.inference_mode()
def align_tokens(
    decoder: Decoder, tokenizer: Tokenizer, spoken: SpokenTexts, heads: Sequence[Sequence[int]]
) -> list[TokenTimes]:
    """Times and probabilities of the text tokens of each window; heads: (layer, head) of those that align."""
    sums: list[Tensor | float] = [0.0] * len(spoken)

    def add(_layer: int, row: int, attention: Tensor) -> None:
        sums[row] = sums[row] + attention.sum(0)

    hidden = watch_attention(decoder, tokenizer, spoken, heads, add)
    firsts = [len(prompt) - 1 for prompt in spoken.prompts]  # the first row that predicts text
    probs = [
        _probabilities(decoder.logits(hidden[row, first : first + len(text)]).float(), text, tokenizer)
        for row, (first, text) in enumerate(zip(firsts, spoken.texts, strict=True))
    ]
    costs = [as_costs(cast(Tensor, total) / len(heads)) for total in sums]
    return [TokenTimes(entered(*path) / FRAMES_PER_SECOND, row) for path, row in zip(dtw(costs), probs, strict=True)]


def watch_attention(
    decoder: Decoder,
    tokenizer: Tokenizer,
    spoken: SpokenTexts,
    heads: Sequence[Sequence[int]],
    take: Callable[[int, int, Tensor], None],
) -> Tensor:
    """Run texts of n tokens through the decoder; its hidden states (B, T, D).

    take(layer, window, attention): for each window and each layer of `heads`, the attention (heads, n + 1, F) of its
    heads where they predict the text and its end, contrasted and smoothed.
    """
    prompts, states = spoken.prompts, spoken.states
    inputs = [[*prompt, *text, tokenizer.eot] for prompt, text in zip(prompts, spoken.texts, strict=True)]
    longest = max(map(len, inputs))
    filled = torch.tensor([row + [tokenizer.eot] * (longest - len(row)) for row in inputs])  # nothing looks ahead
    by_layer: defaultdict[int, list[int]] = defaultdict(list)
    for layer, head in heads:
        by_layer[layer].append(head)
    cache = decoder.start(states.states, states.log_weights)
    blocks = decoder.blocks()

    def watch(layer: int, x: Tensor) -> None:
        if layer in by_layer:
            logits = blocks[layer].encoder_attn.logits(x, cache.cross_keys[layer], by_layer[layer])
            for row, (tokens, prompt, frames) in enumerate(zip(inputs, prompts, spoken.num_frames, strict=True)):
                own = logits[row, :, : len(tokens), : max(1, frames)]
                take(layer, row, _contrasted(own)[:, len(prompt) - 1 : -1])

    return decoder.read(send(filled, states.states.device), cache, watch=watch)


def as_costs(attention: Tensor) -> Floats:
    """What `dtw` takes: attention (..., N, M) as costs, in float64 on the CPU."""
    costs: Floats = (-attention).double().cpu().numpy()
    return costs


def _contrasted(logits: Tensor) -> Tensor:
    """Attention logits (..., T, F) -> weights, each frame's centred and scaled over the tokens, smoothed over time."""
    weights = logits.softmax(dim=-1)
    std, mean = torch.std_mean(weights, dim=-2, keepdim=True, unbiased=False)
    return median_filter((weights - mean) / std.clamp_min(torch.finfo(std.dtype).tiny))


def _probabilities(logits: Tensor, tokens: Sequence[int], tokenizer: Tokenizer) -> Floats:
    """(n,) softmax of logits (n, V) over the text tokens, at these tokens."""
    special = torch.ones(logits.shape[-1], dtype=torch.bool, device=logits.device)
    special[: tokenizer.eot] = False
    special[list(tokenizer.added_text)] = False
    probs = logits.masked_fill(special, -torch.inf).softmax(-1)
    chosen = send(torch.tensor(tokens), logits.device)[:, None]
    found: Floats = probs.gather(1, chosen)[:, 0].double().cpu().numpy()
    return found


def median_filter(x: Tensor) -> Tensor:
    """The median of each 7 values along the last dimension, whose ends are mirrored; x itself if it is too short."""
    beyond = MEDIAN_WIDTH // 2
    length = x.shape[-1]
    if length <= beyond:
        return x
    mirrored = torch.cat([x[..., 1 : beyond + 1].flip(-1), x, x[..., -beyond - 1 : -1].flip(-1)], dim=-1)
    values = [mirrored[..., offset : offset + length] for offset in range(MEDIAN_WIDTH)]
    for low, high in EXCHANGES:
        values[low], values[high] = torch.minimum(values[low], values[high]), torch.maximum(values[low], values[high])
    return values[beyond]


def dtw(costs: Sequence[Floats]) -> list[tuple[Indices, Indices]]:
    """The cheapest monotonic path through each of B cost matrices (N, M), from its first corner to its last.

    As openai-whisper's `dtw`, sums in float32; all cells of an antidiagonal, of all matrices, at once. Returns the
    paths' row and column indices.
    """
    num_rows, num_columns = (max(cost.shape[axis] for cost in costs) for axis in (0, 1))
    diagonals = num_rows + num_columns - 1
    skewed = np.full((diagonals, len(costs), num_rows), np.inf)  # cell (i, j) is at [i + j, :, i]
    for number, cost in enumerate(costs):
        for row, values in enumerate(cost):
            skewed[row : row + len(values), number, row] = values
    steps = np.empty((diagonals, len(costs), num_rows), np.int8)
    # Sums on the last two antidiagonals, after one for a row above the first.
    before, last = np.full((2, len(costs), num_rows + 1), np.inf, np.float32)
    before[:, 0] = 0
    for diagonal in range(diagonals):
        both, up, left = before[:, :-1], last[:, :-1], last[:, 1:]
        step = np.where((up < both) & (up < left), NEXT_TOKEN, NEXT_FRAME)
        steps[diagonal] = step = np.where((both < up) & (both < left), DIAGONAL, step)
        least = np.where(step == DIAGONAL, both, np.where(step == NEXT_TOKEN, up, left))
        before, last = last, np.full_like(last, np.inf)
        last[:, 1:] = skewed[diagonal] + least
    return [_path(steps[:, number], *cost.shape) for number, cost in enumerate(costs)]


def _path(steps: npt.NDArray[np.int8], num_rows: int, num_columns: int) -> tuple[Indices, Indices]:
    row, column = num_rows - 1, num_columns - 1
    path = []
    while row >= 0 and column >= 0:
        path.append((row, column))
        step = steps[row + column, row]
        row -= int(step != NEXT_FRAME)
        column -= int(step != NEXT_TOKEN)
    rows, columns = np.array(path[::-1]).T
    return rows, columns


def entered(rows: Indices, columns: Indices) -> Floats:
    """The column at which a path enters each row."""
    return columns[np.flatnonzero(np.diff(rows, prepend=-1))].astype(np.float64)
