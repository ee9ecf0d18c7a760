"""What a search may emit: suppressed tokens, and bounds that save time in validation."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from whispertune.system.precision import exact_dtype

BLOCK = 864
"""Tokens among which the likeliest is looked for at once (51,865 are 60 blocks and 25)."""


class LogitRules:
    """Whisper's suppressed tokens: some always, some (blank and end of text) as the first token."""

    def __init__(
        self, vocab_size: int, suppress: Sequence[int], begin_suppress: Sequence[int], device: torch.device
    ) -> None:
        self._always = torch.zeros(vocab_size, device=device)
        self._always[[i for i in suppress if 0 <= i < vocab_size]] = -torch.inf
        self._first = self._always.clone()
        self._first[[i for i in begin_suppress if 0 <= i < vocab_size]] = -torch.inf
        self._renormalise = False

    def renormalised(self) -> LogitRules:
        """The same rules, with the probability of suppressed tokens given to the others, as in openai-whisper."""
        other = copy.copy(self)
        other._renormalise = True
        return other

    def log_probs(self, logits: Tensor, *, first: bool) -> Tensor:
        """float32 log-probabilities (B, V) of the model, then -inf where a token may not be emitted.

        The probability of suppressed tokens is not given to the others (unless `renormalised`), so that scores are
        comparable across rules.
        """
        suppressed = self._first if first else self._always
        if self._renormalise:
            return (logits.float() + suppressed).log_softmax(dim=-1)
        return logits.float().log_softmax(dim=-1) + suppressed

    def likeliest(self, logits: Tensor, *, first: bool, log_normalisers: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Log-probability and id (B,) of the likeliest token in each row: on a CPU sooner than `log_probs(…).max(-1)`.

        log_normalisers: (B, 1) logarithms of the sums of the exponentials of logits, if they are known.
        """
        if logits.device.type != "cpu" or self._renormalise:
            return tuple(self.log_probs(logits, first=first).max(dim=-1))  # type: ignore[return-value]
        if log_normalisers is None:
            best, chosen = largest(logits.log_softmax(dim=-1, dtype=torch.float32))
        else:
            best, chosen = largest(logits)
            best = best.float() - log_normalisers[:, 0]
        # Suppressed tokens are hardly ever the likeliest.
        wrong = (self._first if first else self._always)[chosen].isinf()
        if wrong.any():
            best[wrong], chosen[wrong] = self.log_probs(logits[wrong], first=first).max(dim=-1)
        return best, chosen


def largest(values: Tensor) -> tuple[Tensor, Tensor]:
    """`values.max(-1)` of (B, V) on a CPU: PyTorch finds a row's largest value much sooner than its place."""
    whole = values.shape[1] // BLOCK * BLOCK
    if not whole:
        return tuple(values.max(dim=-1))  # type: ignore[return-value]
    blocks = values[:, :whole].view(len(values), -1, BLOCK)
    block = blocks.amax(dim=-1).argmax(dim=-1)
    best, place = blocks[torch.arange(len(values)), block].max(dim=-1)
    place += block * BLOCK
    if whole < values.shape[1]:
        last, behind = values[:, whole:].max(dim=-1)
        later = last > best
        best, place = torch.where(later, last, best), torch.where(later, behind + whole, place)
    return best, place


def to_lists(values: Tensor, indices: Tensor) -> tuple[list[Any], list[Any]]:
    """Both as lists, for which a GPU is waited for only once."""
    exact = exact_dtype(values.device)  # it holds either as it is: indices are below 2^24
    both = torch.stack((values.to(exact), indices.to(exact))).to("cpu")
    return both[0].tolist(), both[1].long().tolist()


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """Tokens of one search result, without prompt and end of text.

    log_prob: their sum, end of text included (natural logarithm). ended: whether the model ended it itself.
    looped: whether it was cut where it began to repeat itself. cut: tokens that were cut there; log_prob counts them.
    score: what it was ranked by, and alternatives: the hypotheses ranked below it, where a search had several.
    """

    tokens: tuple[int, ...]
    log_prob: float
    ended: bool = True
    looped: bool = False
    cut: int = 0
    score: float | None = None
    alternatives: tuple[Hypothesis, ...] = ()

    @property
    def mean_log_prob(self) -> float:
        """Per token; end of text is counted whether it was reached or not, as in openai-whisper."""
        return self.log_prob / (len(self.tokens) + self.cut + 1)

    @property
    def capped(self) -> bool:
        """Whether it was stopped by the bound on its tokens."""
        return not self.ended and not self.looped

    @property
    def repeats(self) -> bool:
        """Whether it repeats itself as a search that is caught in a loop does, cut there or not."""
        return self.looped or first_loop(self.tokens) is not None


def repeated_tail(tokens: Sequence[int], *, max_period: int = 16) -> int:
    """Length of the repetition at the end of `tokens` after its first period; 0 if there is none.

    A repetition is a stretch of a period p of at most `max_period` tokens that recurs at least 4 times and
    fills at least 16 tokens: more than speech repeats itself, less than a search that is caught in a loop.
    """
    num_tokens = len(tokens)
    for period in range(1, max_period + 1):
        needed = max(4 * period, 16)
        if num_tokens < needed or tokens[-1] != tokens[-1 - period]:  # as most often
            continue
        if all(tokens[-i] == tokens[-i - period] for i in range(1, needed - period + 1)):
            return needed - period
    return 0


def first_loop(tokens: Sequence[int]) -> int | None:
    """How many of these tokens come before their first repetition (`repeated_tail`), which is what a search that looks
    for loops as it goes would have kept; None if there is no repetition."""
    for end in range(1, len(tokens) + 1):
        if loop := repeated_tail(tokens[:end]):
            return end - loop
    return None
