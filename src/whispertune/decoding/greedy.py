"""Greedy search: the likeliest token at each step; rows leave the batch as they finish."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from whispertune.decoding.prefill import Prefill
from whispertune.decoding.rules import Hypothesis, LogitRules, repeated_tail, to_lists
from whispertune.decoding.timestamps import TimestampRules
from whispertune.model.cache import rows_to_keep
from whispertune.model.whisper import Decoder
from whispertune.system.precision import send


@dataclass(slots=True)
class Row:
    """A hypothesis as it grows. max_tokens: how many tokens it may have; cut_loops: whether it ends where it loops."""

    max_tokens: int
    cut_loops: bool
    tokens: list[int] = field(default_factory=list)
    log_prob: float = 0.0

    def add(self, token: int, log_prob: float, eot: int) -> Hypothesis | None:
        """Add the next token; the hypothesis, if that ends it."""
        if len(self.tokens) == self.max_tokens and token != eot:
            return Hypothesis(tuple(self.tokens), self.log_prob, ended=False)
        self.log_prob += log_prob
        if token == eot:
            return Hypothesis(tuple(self.tokens), self.log_prob)
        self.tokens.append(token)
        if self.cut_loops and (loop := repeated_tail(self.tokens)):
            said = tuple(self.tokens[:-loop])
            return Hypothesis(said, self.log_prob, ended=False, looped=True, cut=loop)
        return None


@torch.inference_mode()
def greedy_search(
    decoder: Decoder,
    prefilled: Prefill,
    rules: LogitRules,
    eot: int,
    max_tokens: Sequence[int],
    *,
    cut_loops: bool = False,
    timestamps: TimestampRules | None = None,
) -> list[Hypothesis]:
    """One hypothesis for each row.

    prefilled: B windows with their prompts; max_tokens: B, how many tokens a row may emit before it is stopped. With
    `cut_loops` a row that repeats itself is cut. With `timestamps` (their grammar) tokens include timestamps, for which
    the prompts must ask.
    """
    device = prefilled.hidden.device
    running = list(range(len(max_tokens)))  # which input each batch row works for
    rows = [Row(most, cut_loops) for most in max_tokens]
    finished: dict[int, Hypothesis] = {}
    cache, hidden = prefilled.fork()
    history = None if timestamps is None else timestamps.start(len(rows), device)
    for step in range(max(max_tokens) + 1):
        logits = decoder.logits(hidden)
        if history is None:
            best, chosen = rules.likeliest(logits, first=step == 0)
        else:
            best, chosen = history.restrict(rules.log_probs(logits, first=step == 0)).max(dim=-1)
        staying = []
        for position, (row, log_prob, token) in enumerate(zip(running, *to_lists(best, chosen), strict=True)):
            if row in finished:
                continue
            found = rows[row].add(token, log_prob, eot)
            if found is None:
                staying.append(position)
            else:
                finished[row] = found
        if not staying:
            break
        going_on = rows_to_keep(staying, len(running), device)
        if going_on is not None:
            kept = torch.tensor(going_on)
            cache.select(kept, kept)
            running = [running[position] for position in going_on]
            chosen = chosen[send(kept, device)]
            if history is not None:
                history.select(kept)
        if history is not None:
            history.append(chosen)
        hidden = decoder.step(chosen[:, None], cache)
    return [finished[row] for row in range(len(rows))]
