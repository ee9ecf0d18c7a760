"""The copy of the model that computes while an adapter learns: its adapted weights are the merged ones."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from whispertune.errors import RecipeError
from whispertune.model.lora import Adapter, Factors, adapted_weights
from whispertune.model.options import LoraOptions
from whispertune.model.whisper import Whisper
from whispertune.system.processes import ALONE, Processes
from whispertune.training.all_reduce import GradientSum
from whispertune.training.working_copy import WorkingCopy


def build_adapter(model: Whisper, options: LoraOptions, seed: int) -> Adapter:
    """A new adapter for the model, all of whose parameters are frozen.

    Raises:
        RecipeError: if its rank exceeds a weight's.
    """
    model.requires_grad_(False)
    weights = adapted_weights(model, options)
    most = min(min(weight.shape) for weight in weights.values())
    if options.rank > most:
        raise RecipeError(f"is {options.rank}; this model's layers have a rank of at most {most}", field="lora.rank")
    return Adapter(weights, options, seed)


class AdaptedCopy(WorkingCopy):
    """A working copy of a frozen model with an adapter, whose factors are the parameters that learn.

    compute_params: the adapted weights. They are merged anew after each update, from the untouched ones in `master`;
    nothing else is kept for them, and only the factors have gradients that outlive a backward pass.
    """

    def __init__(self, master: Whisper, adapter: Adapter, dtype: torch.dtype, processes: Processes = ALONE) -> None:
        super().__init__(master, dtype, processes, merged=adapter.factors)
        self.adapter = adapter
        self.narrow_gradients = False
        self.master_params = list(adapter.parameters())
        self.gradient_sum = GradientSum(self.master_params, processes)
        untouched, copies = dict(master.named_parameters()), dict(self.model.named_parameters())
        for name, factors in adapter.factors.items():
            copy = copies[name]
            if copy.data_ptr() == untouched[name].data_ptr():
                copy.data = copy.data.clone()
            copy.requires_grad_(True)
            copy.register_post_accumulate_grad_hook(partial(self._project, factors))  # type: ignore[no-untyped-call]
        self._untouched = {name: untouched[name] for name in adapter.factors}
        self._adapted = {name: copies[name] for name in adapter.factors}
        self.compute_params = list(self._adapted.values())

    @property
    def learns(self) -> nn.Module:
        return self.adapter

    def weights(self) -> dict[str, Tensor]:
        return super().weights() | dict(self.adapter.merged(self._untouched))

    def _project(self, factors: Factors, copy: Tensor) -> None:
        assert copy.grad is not None
        factors.add_gradient(copy.grad)
        copy.grad = None
        for factor in factors.parameters():
            self.gradient_sum.add(factor)

    def refresh(self) -> None:
        """Merge all factors."""
        with torch.no_grad():
            for name, weight in self.adapter.merged(self._untouched):
                self._adapted[name].copy_(weight)
