"""Which windows make which optimiser step: a function of (seed, epoch) alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from whispertune.system.lazy import Lazy
from whispertune.system.processes import balance

Step = list[list[int]]
"""One optimiser update: its micro-batches, each a list of window indices."""


SAMPLES_A_WINDOW = 24_000
"""Cost of a window in addition to its own length, in samples (1.5 s): the frames of silence that are kept."""


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """How the windows of an optimiser update are cut into micro-batches; `Progress` holds the one of a run.

    batch_size: windows in a micro-batch, before `keep_original` copies.
    accumulation: micro-batches in an update, summed over the processes at the start of the run.
    """

    batch_size: int
    accumulation: int

    @property
    def windows(self) -> int:
        """Windows in an update, which decide its result; how they are cut does not."""
        return self.batch_size * self.accumulation

    def recut(self, batch_size: int) -> BatchPlan:
        """The same updates in micro-batches of this size, a divisor of `windows`."""
        return BatchPlan(batch_size, self.windows // batch_size)


def steps_per_epoch(num_windows: int, batches: BatchPlan) -> int:
    """Optimiser updates in an epoch; the last one may be smaller."""
    return -(-num_windows // batches.windows)


def expected_draws(
    languages: Sequence[str], weights: Sequence[float], temperature: float
) -> npt.NDArray[np.float64] | None:
    """How often each window is drawn in an epoch on average, the sum being their number; None where each is drawn once.

    A language's share is p ~ n^(1/temperature), n being the sum of its windows' weights (Arivazhagan et al. 2019,
    section 4.2: arXiv 1907.05019); within it windows are drawn in proportion to their weights.
    """
    if temperature == 1 and len(set(weights)) <= 1:
        return None
    names, language = np.unique(np.asarray(languages), return_inverse=True)
    weight = np.asarray(weights, np.float64)
    totals = np.bincount(language, weight, len(names))
    shares = totals ** (1 / temperature)
    shares /= shares.sum()
    draws: npt.NDArray[np.float64] = (shares / totals)[language] * weight * len(weight)
    return draws


def draw_windows(draws: npt.NDArray[np.float64], generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """As many windows as there are, in random order, window i floor or ceil of draws[i] times.

    Systematic sampling (Madow 1949): equidistant marks on the windows' expected draws, laid end to end at random.
    """
    order = generator.permutation(len(draws))
    ends = np.cumsum(draws[order])
    marks = (np.arange(len(draws)) + generator.random()) * (ends[-1] / len(draws))
    chosen = order[np.minimum(np.searchsorted(ends, marks, side="right"), len(draws) - 1)]
    return generator.permutation(chosen)


def epoch_plan(
    num_samples: Sequence[int],
    batches: BatchPlan,
    *,
    seed: int,
    epoch: int,
    draws: npt.NDArray[np.float64] | None = None,
) -> Sequence[Step]:
    """The steps of one epoch: every window once or, on average, `draws` times.

    A step's windows are drawn at random. How they are distributed over micro-batches changes no result, since the
    gradient is a mean over the whole step, so windows of similar length (samples) go together.
    """
    generator = np.random.default_rng((seed, epoch))
    drawn = generator.permutation(len(num_samples)) if draws is None else draw_windows(draws, generator)
    lengths, per_step, size = np.asarray(num_samples), batches.windows, batches.batch_size

    def step(number: int) -> Step:
        chosen = drawn[number * per_step : (number + 1) * per_step]
        chosen = chosen[np.lexsort((chosen, lengths[chosen]))]
        return [chosen[first : first + size].tolist() for first in range(0, len(chosen), size)]

    return Lazy(-(-len(drawn) // per_step), step)


def balance_step(step: Step, num_samples: Sequence[int], batch_size: int, processes: int) -> list[Step]:
    """Each process's micro-batches of a step: about equal in length (samples), equal in windows give or take one.

    One process does the step in its order. A step with fewer windows than processes leaves some with none.
    """
    members = [index for batch in step for index in batch]
    if processes == 1:
        return [[members[first : first + batch_size] for first in range(0, len(members), batch_size)]]
    costs = [num_samples[index] + SAMPLES_A_WINDOW for index in members]
    shares = []
    for places in balance(costs, processes, most=-(-len(members) // processes)):
        mine = [members[place] for place in sorted(places)]  # by length, as in the step
        shares.append([mine[first : first + batch_size] for first in range(0, len(mine), batch_size)])
    return shares


def total_steps(num_windows: int, batches: BatchPlan, epochs: int, max_steps: int | None) -> int:
    """Optimiser updates of the whole run, if none is skipped."""
    planned = epochs * steps_per_epoch(num_windows, batches)
    return planned if max_steps is None else min(planned, max_steps)


def last_epoch(num_windows: int, batches: BatchPlan, epochs: int, max_steps: int | None) -> int:
    """The number of the epoch in which a run ends."""
    return epochs if max_steps is None else min(epochs, -(-max_steps // steps_per_epoch(num_windows, batches)))
