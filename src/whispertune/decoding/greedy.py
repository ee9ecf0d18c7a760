"""Greedy search: the likeliest token at each step; rows leave the batch as they finish."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from whispertune.decoding.prefill import Prefill
from whispertune.decoding.rules import Hypothesis, LogitRules, repeated_tail, to_lists
from whispertune.decoding.timestamps import TimestampRules
from whispertune.model.cache import rows_to_keep
from whispertune.model.whisper import Decoder
from whispertune.system.precision import send


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
    rows = list(range(len(max_tokens)))  # which input each batch row works for
    tokens: list[list[int]] = [[] for _ in rows]
    log_probs = [0.0] * len(rows)
    finished: dict[int, Hypothesis] = {}
    cache, hidden = prefilled.fork()
    history = None if timestamps is None else timestamps.start(len(rows), device)
    for step in range(max(max_tokens) + 1):
        log_probs_now = rules.log_probs(decoder.logits(hidden), first=step == 0)
        if history is not None:
            log_probs_now = history.restrict(log_probs_now)
        best, chosen = log_probs_now.max(dim=-1)
        chosen_log_probs, chosen_tokens = to_lists(best, chosen)
        staying = []
        for position, (row, token) in enumerate(zip(rows, chosen_tokens, strict=True)):
            if row in finished:
                continue
            if len(tokens[row]) == max_tokens[row] and token != eot:
                finished[row] = Hypothesis(tuple(tokens[row]), log_probs[row], ended=False)
                continue
            log_probs[row] += chosen_log_probs[position]
            if token == eot:
                finished[row] = Hypothesis(tuple(tokens[row]), log_probs[row])
                continue
            tokens[row].append(token)
            if cut_loops and (loop := repeated_tail(tokens[row])):
                said = tuple(tokens[row][:-loop])
                finished[row] = Hypothesis(said, log_probs[row], ended=False, looped=True, cut=loop)
                continue
            staying.append(position)
        if not staying:
            break
        going_on = rows_to_keep(staying, len(rows), device)
        if going_on is not None:
            kept = torch.tensor(going_on)
            cache.select(kept, kept)
            rows = [rows[position] for position in going_on]
            chosen = chosen[send(kept, device)]
            if history is not None:
                history.select(kept)
        if history is not None:
            history.append(chosen)
        hidden = decoder.step(chosen[:, None], cache)
    return [finished[row] for row in range(len(max_tokens))]
