"""Prompts run through the decoder, once for all searches of a window and for its loss.

Prompts with previous text differ in length. Shorter ones are padded on the left, with filler that nothing attends to,
so that rows with different prompts run side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from whispertune.model.cache import DecoderCache
from whispertune.model.whisper import Decoder
from whispertune.states.computed import EncoderStates
from whispertune.system.precision import send


@dataclass(frozen=True, slots=True)
class Prefill:
    """A batch whose prompts the decoder has seen.

    hidden: (B, D) after each prompt's last token. no_speech_probs: B, the probability of `<|nospeech|>` after
    `<|startoftranscript|>`, or empty if it was not asked for. last: whether only one more search follows, which then
    reuses the memory.
    """

    hidden: Tensor
    no_speech_probs: list[float]
    _cache: DecoderCache
    last: bool = False
    num_frames: int = 0
    """Frames of each window, padding included."""

    def fork(self) -> tuple[DecoderCache, Tensor]:
        """Cache and hidden states for one search. Several searches may follow one another, but not overlap."""
        cache = self._cache
        if cache.owner is not None:
            raise RuntimeError("a search followed the one that was said to be the last")
        if self.last:
            return cache, self.hidden
        # Tokens of an earlier search may still follow the prompts; each search writes its own before it reads them.
        own = replace(cache, cross_keys=list(cache.cross_keys), cross_values=list(cache.cross_values))
        return own, self.hidden

    def empty_cache(self, windows: slice = slice(None)) -> DecoderCache:
        """A cache of these windows without prompts: it shares their cross-attention keys and values."""
        return self._cache.emptied(windows)

    def select(self, rows: Sequence[int]) -> Prefill:
        """These rows alone."""
        cache, hidden = self.fork()
        chosen = torch.tensor(list(rows))
        cache.select(chosen, chosen)
        probs = [self.no_speech_probs[row] for row in rows] if self.no_speech_probs else []
        return Prefill(hidden[send(chosen, hidden.device)], probs, cache, last=True, num_frames=self.num_frames)


@torch.inference_mode()
def prefill(
    decoder: Decoder,
    states: EncoderStates,
    prompts: Sequence[Sequence[int]],
    *,
    sot: int | None = None,
    no_speech: int | None = None,
) -> Prefill:
    """Run the prompts (B lists of any lengths) of B windows through the decoder.

    With `sot` and `no_speech` (token ids) each prompt must have `sot` at the same distance from its end.
    """
    device = states.states.device
    longest = max(map(len, prompts))
    cache = decoder.start(states.states, states.log_weights)
    if any(len(prompt) < longest for prompt in prompts):
        cache.padding = send(torch.tensor([longest - len(prompt) for prompt in prompts]), device)
    filled = [[prompt[0]] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    tokens = send(torch.tensor(filled), device)
    probs: list[float] = []
    if sot is not None and no_speech is not None:
        behind_sot = max(place for place, token in enumerate(filled[0]) if token == sot) + 1
        hidden = decoder.read(tokens[:, :behind_sot], cache)[:, -1]
        probs = decoder.logits(hidden).float().softmax(-1)[:, no_speech].tolist()
        if behind_sot < longest:
            hidden = decoder.read(tokens[:, behind_sot:], cache)[:, -1]
    else:
        hidden = decoder.read(tokens, cache)[:, -1]
    cache.num_shared = cache.num_tokens
    return Prefill(hidden, probs, cache, num_frames=states.states.shape[1])
