"""Trials that are ended early: a sink of a run's rows that reports validations and asks whether to go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from whispertune.errors import Stopped
from whispertune.training.metrics import EvaluationRow, Row

PRUNED, TIME = "pruned", "out of time"


class Judge(Protocol):
    """What a trial's validations are reported to: a trial of Optuna."""

    def report(self, value: float, step: int) -> None: ...
    def should_prune(self) -> bool: ...


class Pruning:
    """Reports the first validation of each epoch, and ends the run if the trial is pruned or the time is up."""

    def __init__(self, judge: Judge, reported: int, time_is_up: Callable[[], bool], *, to_the_end: bool) -> None:
        """reported: the last epoch reported before a resume. to_the_end: never end this run."""
        self._judge, self._reported, self._time_is_up, self._to_the_end = judge, reported, time_is_up, to_the_end

    def write(self, row: Row) -> None:
        """Take one row.

        Raises:
            Stopped: if the run is to end.
        """
        if not isinstance(row, EvaluationRow) or row.split != "valid" or row.model != "epoch":
            return
        if row.epoch > self._reported:
            self._judge.report(row.leading_rate, row.epoch)
            self._reported = row.epoch
            # Asked in any case, as this records the value that later trials are compared with.
            if self._judge.should_prune() and not self._to_the_end:
                raise Stopped(PRUNED)
        if not self._to_the_end and self._time_is_up():
            raise Stopped(TIME)
