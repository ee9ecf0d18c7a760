"""Timestamps against openai-whisper's."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from whispertune.decoding.loading import ReadyModel
from whispertune.decoding.rules import LogitRules
from whispertune.decoding.timestamps import TimestampRules

CPU = torch.device("cpu")


def test_the_grammar_is_openai_whispers(base: ReadyModel) -> None:
    """Rows that draw at random under theirs; ours forbids the same and gives the same log-probabilities."""
    theirs = pytest.importorskip("whisper.decoding")
    tokenizer = base.tokenizer
    named = SimpleNamespace(
        eot=tokenizer.eot, no_timestamps=tokenizer.no_timestamps, timestamp_begin=tokenizer.timestamp_begin
    )
    their_rules = theirs.ApplyTimestampRules(named, sample_begin=0, max_initial_timestamp_index=50)
    suppressed = base.checkpoint.generation["suppress_tokens"]
    rules = LogitRules(tokenizer.vocab_size, suppressed, [220, tokenizer.eot], CPU)
    rows = 4
    history = TimestampRules(tokenizer).start(rows, CPU)
    generator = torch.Generator().manual_seed(0)
    emitted = torch.zeros(rows, 0, dtype=torch.long)
    for step in range(12):
        logits = 2 * torch.randn(rows, tokenizer.vocab_size, generator=generator)
        logits[:, : tokenizer.timestamp_begin] += torch.tensor([-4.0, 0.0, 4.0, 8.0])[:, None]
        ours = history.restrict(rules.log_probs(logits, first=step == 0))
        logits[:, suppressed] = -torch.inf
        if step == 0:
            logits[:, [220, tokenizer.eot]] = -torch.inf
        their_rules.apply(logits, emitted)
        expected = logits.log_softmax(-1)
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)
        drawn = torch.multinomial(expected.exp(), 1, generator=generator)
        emitted = torch.cat([emitted, drawn], dim=1)
        history.append(drawn[:, 0])
