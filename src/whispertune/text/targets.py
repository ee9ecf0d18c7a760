"""From token ids to decoder input and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

IGNORE_INDEX = -100
"""Label of a position without loss (the padding id itself may be a real target: end of text)."""

MAX_TOKENS = 448
"""Decoder positions of every Whisper."""


@dataclass(frozen=True, slots=True)
class Target:
    """One window's decoder input and labels, equally long; labels are the input shifted left."""

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    prompt_length: int

    @property
    def num_target_tokens(self) -> int:
        """Positions with loss: the text and its end."""
        return sum(label != IGNORE_INDEX for label in self.labels)

    def without_loss(self) -> Target:
        """The same target with no loss at any position."""
        return Target(self.input_ids, (IGNORE_INDEX,) * len(self.labels), self.prompt_length)


def make_target(
    prompt: Sequence[int], text_ids: Sequence[int], eot: int, *, sot: int, prompt_loss: bool = False
) -> Target:
    """Target of `[prompt…, text…, eot]`.

    With `prompt_loss` the tokens between start-of-transcript and the text carry loss too; text before the
    start (a previous-text prompt) never does.
    """
    sequence = (*prompt, *text_ids, eot)
    first_scored = prompt.index(sot) + 1 if prompt_loss else len(prompt)
    labels = [token if i >= first_scored else IGNORE_INDEX for i, token in enumerate(sequence)][1:]
    return Target(sequence[:-1], tuple(labels), len(prompt))


def collate_targets(targets: Sequence[Target], pad_id: int, at_least: int = 0) -> tuple[Tensor, Tensor]:
    """Decoder input and labels, (B, T) each, padded at the end with `pad_id` and `IGNORE_INDEX`.

    T is the length of the longest, or `at_least`.
    """
    num_tokens = max(at_least, *(len(target.input_ids) for target in targets))
    input_ids = torch.full((len(targets), num_tokens), pad_id)
    labels = torch.full((len(targets), num_tokens), IGNORE_INDEX)
    for row, target in enumerate(targets):
        input_ids[row, : len(target.input_ids)] = torch.tensor(target.input_ids)
        labels[row, : len(target.labels)] = torch.tensor(target.labels)
    return input_ids, labels
