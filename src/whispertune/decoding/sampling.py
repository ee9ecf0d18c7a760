"""Sampling: tokens drawn at a temperature, and the likeliest of several samples of a window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from whispertune.decoding.prefill import Prefill
from whispertune.decoding.rules import Hypothesis, LogitRules, repeated_tail, to_lists
from whispertune.decoding.timestamps import TimestampRules
from whispertune.model.whisper import Decoder
from whispertune.system.precision import exact_dtype, send


@torch.inference_mode()
def sample_search(
    decoder: Decoder,
    prefilled: Prefill,
    rules: LogitRules,
    eot: int,
    max_tokens: Sequence[int],
    *,
    temperature: float,
    seeds: Sequence[Sequence[int]],
    best_of: int = 1,
    cut_loops: bool = False,
    timestamps: TimestampRules | None = None,
) -> list[Hypothesis]:
    """The best of `best_of` samples of each of U windows, by log-probability per token (end of text counted); one
    whose loop was cut ranks below the others.

    Tokens are drawn from softmax(log-probabilities / temperature); log_prob is that of temperature 1. seeds: U; a
    window's draws depend on its seed alone, whatever else is in the batch. With `cut_loops` samples that repeat
    themselves are cut.
    """
    device = prefilled.hidden.device
    cache, hidden = prefilled.fork()
    spread = torch.arange(len(seeds)).repeat_interleave(best_of)
    cache.select(spread)
    hidden = hidden[send(spread, device)]
    history = None if timestamps is None else timestamps.start(len(spread), device)
    windows = [_Window(seed, best_of, bound) for seed, bound in zip(seeds, max_tokens, strict=True)]
    running = list(windows)
    first = True
    while True:
        log_probs = rules.log_probs(decoder.logits(hidden), first=first)
        if history is not None:
            log_probs = history.restrict(log_probs)
        chosen = _draw(log_probs / temperature, [u for window in running for u in window.uniform()])
        values, tokens = to_lists(log_probs.gather(1, chosen[:, None])[:, 0], chosen)
        for place, window in enumerate(running):
            own = slice(place * best_of, (place + 1) * best_of)
            window.add(tokens[own], values[own], eot, cut_loops)
        staying = [place for place, window in enumerate(running) if not all(s.done for s in window.samples)]
        if not staying:
            return [window.best() for window in windows]
        if len(staying) < len(running):
            kept = torch.tensor(staying)
            places = (kept[:, None] * best_of + torch.arange(best_of)).flatten()
            cache.select(places, kept)
            chosen = chosen[send(places, device)]
            if history is not None:
                history.select(places)
            running = [running[place] for place in staying]
        if history is not None:
            history.append(chosen)
        hidden = decoder.step(chosen[:, None], cache)
        first = False


def _draw(logits: Tensor, uniform: Sequence[float]) -> Tensor:
    """One token (B,) from each row of softmax(logits), where B uniform numbers fall in its cumulative sum."""
    exact = exact_dtype(logits.device)
    sums = logits.to(exact).softmax(-1).cumsum(-1)
    at = send(torch.tensor(uniform, dtype=exact), logits.device)[:, None] * sums[:, -1:]
    # right=True: a token of probability 0 adds nothing to the sum and is never drawn.
    return torch.searchsorted(sums, at, right=True)[:, 0].clamp(max=logits.shape[1] - 1)


@dataclass(slots=True)
class _Sample:
    tokens: list[int] = field(default_factory=list)
    log_prob: float = 0.0
    done: bool = False
    ended: bool = False
    looped: bool = False
    cut: int = 0


class _Window:
    """One window's samples and their random number generators."""

    def __init__(self, seed: Sequence[int], best_of: int, max_tokens: int) -> None:
        self.samples = [_Sample() for _ in range(best_of)]
        self._draws = [np.random.default_rng((*seed, number)) for number in range(best_of)]
        self._max_tokens = max_tokens

    def uniform(self) -> list[float]:
        return [draws.random() for draws in self._draws]

    def add(self, tokens: Sequence[int], log_probs: Sequence[float], eot: int, cut_loops: bool) -> None:
        for sample, token, log_prob in zip(self.samples, tokens, log_probs, strict=True):
            if sample.done:
                continue
            if token != eot and len(sample.tokens) == self._max_tokens:
                sample.done = True
                continue
            sample.log_prob += log_prob
            if token == eot:
                sample.done = sample.ended = True
                continue
            sample.tokens.append(token)
            if cut_loops and (loop := repeated_tail(sample.tokens)):
                del sample.tokens[-loop:]
                sample.done = sample.looped = True
                sample.cut = loop

    def best(self) -> Hypothesis:
        found = [Hypothesis(tuple(s.tokens), s.log_prob, s.ended, s.looped, s.cut) for s in self.samples]
        found = [replace(hypothesis, score=hypothesis.mean_log_prob) for hypothesis in found]
        # Repeated tokens are likely ones: by its score alone a loop would win.
        best, *others = sorted(found, key=lambda hypothesis: (hypothesis.looped, -hypothesis.mean_log_prob))
        return replace(best, alternatives=tuple(others))
