"""The key-value cache of step-by-step decoding.

Shapes: B rows, U utterances (B = U x beams in beam search), K kept frames, D width, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from whispertune.model.packed_lengths import MASKED_LOGIT
from whispertune.system.precision import send

CACHE_TOKENS = 64
"""The cache grows by this many tokens per row."""
FEWEST_ROWS = 16
"""Rows below which a GPU's batch is not made smaller."""


@dataclass(slots=True)
class DecoderCache:
    """The key-value cache.

    self_keys, self_values: (layers, B, H, capacity, D / H), filled up to `num_tokens`.
    cross_keys, cross_values: (U, H, K, D / H) per layer; cross_bias: (U, 1, 1, K) or None.
    num_shared: number of first tokens that all rows of an utterance share (the prompt).
    padding: (B,) number of padding tokens at the start of each row, if prompts differ in length, or None.
    whole: whether attention looks at tokens that are not used yet, too, masked, so that they must be finite.
    owner: of the buffers of captured steps (`step_graphs.py`), if this cache was moved into them.
    """

    self_keys: Tensor
    self_values: Tensor
    cross_keys: list[Tensor]
    cross_values: list[Tensor]
    cross_bias: Tensor | None
    num_tokens: int = 0
    num_shared: int = 0
    padding: Tensor | None = None
    whole: bool = False
    owner: object | None = None

    def tensors(self) -> dict[str, Tensor]:
        """All that a decoding step reads and writes, by name."""
        found = {"self_keys": self.self_keys, "self_values": self.self_values}
        for name, layers in (("cross_keys", self.cross_keys), ("cross_values", self.cross_values)):
            found |= {f"{name}.{number}": layer for number, layer in enumerate(layers)}
        optional = {"cross_bias": self.cross_bias, "padding": self.padding}
        return found | {name: tensor for name, tensor in optional.items() if tensor is not None}

    def replace(self, name: str, tensor: Tensor) -> None:
        """Put another tensor of the same content in the place of one of `tensors`."""
        attribute, _, layer = name.partition(".")
        if layer:
            getattr(self, attribute)[int(layer)] = tensor
        else:
            setattr(self, attribute, tensor)

    def emptied(self, utterances: slice = slice(None)) -> DecoderCache:
        """A cache for the frames of the same utterances, or of some of them, without any tokens; it shares them."""
        empty = self.self_keys[:, utterances, :, :0]
        keys, values = ([layer[utterances] for layer in kept] for kept in (self.cross_keys, self.cross_values))
        bias = None if self.cross_bias is None else self.cross_bias[utterances]
        return DecoderCache(empty, empty, keys, values, bias, whole=self.whole)

    def reserve(self, num_tokens: int) -> None:
        """Make room for `num_tokens` tokens per row."""
        capacity = self.self_keys.shape[3]
        if num_tokens <= capacity:
            return
        more = -(-num_tokens // CACHE_TOKENS) * CACHE_TOKENS - capacity
        self.self_keys = F.pad(self.self_keys, (0, 0, 0, more))
        self.self_values = F.pad(self.self_values, (0, 0, 0, more))

    def select(self, rows: Tensor, utterances: Tensor | None = None) -> None:
        """Keep these rows, in this order, and (if given) these utterances; both are indices on the CPU.

        Without utterances and with as many rows as before, rows are beams that are reordered within their utterances.
        """
        used, device = self.num_tokens, self.self_keys.device
        if utterances is None and len(rows) == self.self_keys.shape[1]:
            moved = (rows != torch.arange(len(rows))).nonzero()[:, 0]
            to, source = send(moved, device), send(rows[moved], device)
            for kept in (self.self_keys, self.self_values):
                kept[:, to, :, self.num_shared : used] = kept[:, source, :, self.num_shared : used]
            return
        rows = send(rows, device)
        utterances = None if utterances is None else send(utterances, device)
        for name in ("self_keys", "self_values"):
            old = getattr(self, name)
            if self.whole:
                new = old[:, rows]
            else:
                new = old.new_empty(old.shape[0], len(rows), *old.shape[2:])
                new[:, :, :, :used] = old[:, rows, :, :used]
            setattr(self, name, new)
        self.padding = None if self.padding is None else self.padding[rows]
        if utterances is not None:
            for layer in range(len(self.cross_keys)):  # one by one, as all at once would take twice the memory
                self.cross_keys[layer] = self.cross_keys[layer][utterances]
                self.cross_values[layer] = self.cross_values[layer][utterances]
            self.cross_bias = None if self.cross_bias is None else self.cross_bias[utterances]


def rows_to_keep(staying: Sequence[int], num_rows: int, device: torch.device) -> Sequence[int] | None:
    """Which of a batch's rows to go on with when only some are still running (`staying`); None for all.

    Fewer rows make later steps cheaper, but dropping rows copies the cache. On a CPU a quarter at a time is dropped. On
    a GPU the batch is halved, from powers of two on, so that few shapes occur, and filled up with finished rows.
    """
    if device.type == "cpu":
        return staying if len(staying) <= 0.75 * num_rows else None
    size = max(FEWEST_ROWS, 2 ** (len(staying) - 1).bit_length())
    if 2 * size > num_rows:
        return None
    running = set(staying)
    finished = [row for row in range(num_rows) if row not in running]
    return sorted([*staying, *finished[: size - len(staying)]])


def causal_mask(places: Tensor, padding: Tensor | None, visible: int) -> Tensor:
    """A bias (B or 1, 1, T, visible) that masks each row's `padding` (B,) and future tokens for new tokens.

    places: (T,) or (B, T) of the new tokens in the cache. visible: keys that attention looks at.
    """
    keys = torch.arange(visible, device=places.device)
    seen = keys <= places[..., None]
    seen = seen[None] if seen.ndim == 2 else seen
    if padding is not None:
        seen = seen & (keys >= padding[:, None, None])
    # Not torch.where, which copies its numbers to a GPU and waits for that, as a captured step must not.
    return torch.zeros(seen.shape, device=places.device).masked_fill_(~seen, MASKED_LOGIT)[:, None]
