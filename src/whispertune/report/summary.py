"""A run in a few sentences: how its page begins, how `train` ends, and what its model card says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from whispertune.report.before_after import BeforeAfter, before_after
from whispertune.report.error_analysis import Aligned, align
from whispertune.report.runs import Pair, Row, Run
from whispertune.report.sentences import advice, opening


@dataclass(frozen=True)
class Summary:
    """The results of a run, the main one first, and what follows from them.

    pair: the outputs that are shown, if any were kept. aligned: with the transcripts, before and after.
    """

    run: Run
    results: list[BeforeAfter]
    opening: str
    advice: list[str]
    pair: Pair | None
    aligned: tuple[Sequence[Aligned], Sequence[Aligned]]

    @property
    def found(self) -> BeforeAfter | None:
        """The main result."""
        return main_result(self.results)

    @property
    def pairs(self) -> Sequence[tuple[Row, Row]]:
        """The outputs that are shown, before and after."""
        return self.pair.matched if self.pair else []


def main_result(results: Sequence[BeforeAfter]) -> BeforeAfter | None:
    """That on test or, without one, on valid."""
    return next((found for found in results if found.pair.split in ("test", "valid")), None)


def summarise(run: Run) -> Summary:
    """Read the outputs of a run, and compare those before with those after training."""
    pair = run.transcripts
    pairs = pair.matched if pair else []
    aligned = align([before for before, _ in pairs]), align([after for _, after in pairs])
    results = [before_after(one) for one in reversed(run.pairs)]
    found = main_result(results)
    return Summary(run, results, opening(run, found), advice(run, found, results, pairs, aligned), pair, aligned)
