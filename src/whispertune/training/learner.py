"""What a trainer works on: the model as it learns, and the data that it learns from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from whispertune.dataset.splits import Split
from whispertune.states.computed import StateSource
from whispertune.text.targets import Target
from whispertune.training.schedule import Schedule
from whispertune.training.working_copy import WorkingCopy


@dataclass(frozen=True, slots=True)
class Learner:
    """The model as it learns: `model` holds the float32 parameters that do (the whole model, or an adapter), `working`
    computes, `optimizer` updates those parameters at the rate of `schedule`."""

    model: nn.Module
    working: WorkingCopy
    optimizer: torch.optim.Optimizer
    schedule: Schedule


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What it learns from.

    copies: of each window in a batch (2 where clean and augmented ones go side by side).
    targets(index, epoch): of each copy of a window, all as long as the split's own.
    """

    split: Split
    states: StateSource
    targets: Callable[[int, int], Sequence[Target]]
    copies: int
    pad_id: int
