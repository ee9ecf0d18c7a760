"""Candidates for the best model beside those of single epochs: averages over epochs, mixtures with the untouched model.

The mean of the weights after several epochs (Izmailov et al. 2018, "Averaging weights leads to wider optima and better
generalization") has less of the chance of one epoch. A mixture w0 + a (w1 - w0) of the untouched weights w0 and the
fine-tuned ones w1 retains more of what the model could do before (Wortsman et al. 2022, "Robust fine-tuning of
zero-shot models").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from whispertune.training.options import AverageOptions


@dataclass(slots=True)
class Averaging:
    """The running mean of the parameters that learn, and the candidates made of them.

    parameters: those that learn, by name. untouched: loads the weights of the model before training.
    mean: of the parameters after the epochs that count so far, in float32; empty before the first of them.
    """

    options: AverageOptions
    parameters: Mapping[str, Tensor]
    untouched: Callable[[], Mapping[str, Tensor]]
    mean: dict[str, Tensor] = field(default_factory=dict)

    def counts(self, epoch: int, last_epoch: int) -> bool:
        """Whether the weights after this epoch of a run are part of the mean."""
        return self.options.epochs > 1 and last_epoch - self.options.epochs < epoch <= last_epoch

    @torch.no_grad()
    def add(self, number: int) -> None:
        """Take the parameters into the mean, as the `number`-th (from 1)."""
        for name, parameter in self.parameters.items():
            if number == 1:
                self.mean[name] = parameter.detach().clone()
            else:
                self.mean[name].lerp_(parameter, 1 / number)

    def names(self, averaged: int) -> list[str]:
        """The candidates of a run that has `averaged` epochs in its mean."""
        mixed = [f"mixed-{share:g}" for share in self.options.mix]
        return [*(["average"] if averaged > 1 else []), *mixed]

    @contextmanager
    def trying(self, name: str, averaged: int, refresh: Callable[[], None]) -> Iterator[None]:
        """The parameters hold those of a candidate during the block; `refresh` follows them."""
        trained = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        values: Mapping[str, Tensor] = self.mean if averaged > 1 else trained
        try:
            self._set(values)
            if name != "average":
                before = self.untouched()
                with torch.no_grad():
                    for key, parameter in self.parameters.items():
                        parameter.copy_(torch.lerp(before[key].to(parameter), parameter, _share(name)))
            refresh()
            yield
        finally:
            self._set(trained)
            refresh()

    @torch.no_grad()
    def _set(self, values: Mapping[str, Tensor]) -> None:
        for key, parameter in self.parameters.items():
            parameter.copy_(values[key])


def described(name: str, averaged: int) -> str:
    """A candidate of a run that has `averaged` epochs in its mean, for people."""
    fine_tuned = f"mean of {averaged} epochs" if averaged > 1 else "last epoch"
    return fine_tuned if name == "average" else f"mixture: {100 * _share(name):g} % {fine_tuned}, the rest untouched"


def _share(name: str) -> float:
    """The share of the fine-tuning in a mixture."""
    return float(name.removeprefix("mixed-"))
