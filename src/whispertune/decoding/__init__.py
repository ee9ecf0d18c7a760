"""Encoder states -> token ids: logit rules, greedy and beam search."""
