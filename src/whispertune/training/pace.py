"""How fast a run is, how much memory it takes, and how long the rest of it will take."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypedDict

import torch

from whispertune.features.log_mel import SAMPLE_RATE
from whispertune.system.memory import peak_memory
from whispertune.training.metrics import RunLog
from whispertune.training.options import TrainingOptions
from whispertune.training.plan import Step, steps_per_epoch
from whispertune.training.resume import Progress

RECENT = 50
"""Updates over which the pace is averaged."""
TESTED_WINDOW = 2.0
"""Time of a test window, dense, for one model and search, in validated windows: a rough figure."""


class Cost(TypedDict):
    """What an update worked through, and what it took: the last fields of its row.

    audio_rate: seconds of audio per second, so hours of audio an hour. memory_gb: peak so far. seconds_left: of the
    whole run, about.
    """

    tokens: int
    utterances: int
    seconds: float
    audio_rate: float
    memory_gb: float
    seconds_left: int


def peak_memory_gb(device: torch.device) -> float:
    """Peak memory so far: allocated on the GPU, or resident."""
    used = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_memory()
    return round(used / 1e9, 3)


@dataclass(slots=True)
class Pace:
    """The pace of a run. num_samples: of each training window at 16 kHz. test_windows: windows of the test sets, each
    counted once for every model and search that will decode it."""

    options: TrainingOptions
    progress: Progress
    log: RunLog
    num_samples: Sequence[int]
    device: torch.device
    test_windows: int = 0
    _recent: deque[float] = field(init=False, default_factory=lambda: deque(maxlen=RECENT))

    def measure(self, step: Step, seconds: float, tokens: int, missing: Sequence[float] = (0, 0)) -> Cost:
        """The cost of an update that took so long; to be called after `progress` has moved past it.

        tokens: target tokens of all its windows. missing: of these, those of audio that could not be decoded; and the
        number of such windows.
        """
        self._recent.append(seconds)
        audio = sum(self.num_samples[index] for batch in step for index in batch) / SAMPLE_RATE
        return Cost(
            tokens=tokens - round(missing[0]),
            utterances=sum(map(len, step)) - round(missing[1]),
            seconds=round(seconds, 4),
            audio_rate=round(audio / max(seconds, 1e-9), 1),
            memory_gb=peak_memory_gb(self.device),
            seconds_left=round(self.seconds_left()),
        )

    def seconds_left(self) -> float:
        """About how long the rest of the run takes: updates, validations, and the test."""
        options, progress = self.options, self.progress
        per_epoch = steps_per_epoch(len(self.num_samples), progress.batches)
        updates = per_epoch * (options.epochs - progress.epoch + 1) - progress.position
        epochs = options.epochs - progress.epoch + 1.0
        if options.max_steps is not None and options.max_steps - progress.step < updates:
            updates = options.max_steps - progress.step
            epochs = -(-updates // per_epoch)
        every = options.validation.every_steps
        validations = epochs if every is None else max(epochs, updates / every)
        per_update = sum(self._recent) / max(len(self._recent), 1)
        validated = next((row for row in reversed(self.log.evaluations) if row.split == "valid"), None)
        if validated is None:
            return updates * per_update
        tested = TESTED_WINDOW * self.test_windows / max(validated.utterances, 1)
        return updates * per_update + (validations + tested) * validated.seconds


def shown_update(loss: float | None, cost: Cost) -> str:
    """An update for the progress bar, which shows the part before the comma alone where it has little room."""
    left = cost["seconds_left"]
    time = f"{left} s" if left < 100 else f"{left / 60:.0f} min" if left < 6000 else f"{left / 3600:.1f} h"
    known = [] if loss is None else [f"loss {loss:.3f}"]
    return ", ".join(
        [*known, f"{cost['audio_rate']:,.0f} x real time", f"{cost['memory_gb']:.1f} GB", f"run ends in {time}"]
    )
