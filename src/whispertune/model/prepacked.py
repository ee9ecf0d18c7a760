"""A decoder's fastest form for decoding: on a CPU with prepacked weights, on a GPU with captured steps.

In step-by-step decoding a product has as many rows as there are hypotheses, and reads the whole weight for them. In
float32 on a CPU torch's product takes two to four times as long as oneDNN's with a weight in oneDNN's blocked layout
(docs/experiments.md, 2026-11-24).
"""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import Tensor, nn

from whispertune.model.step_graphs import CAPTURES, StepGraphs
from whispertune.model.whisper import Decoder, inference_copy

USUAL_ROWS = 8
"""Number of rows that the layout is chosen for; others work as well."""


class PackedLinear(nn.Module):
    """A linear layer for inference, its weight (out, in) in oneDNN's layout."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), USUAL_ROWS)
        self.bias = None if bias is None else bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], ""))


def for_decoding(decoder: Decoder, *, layers: bool = True) -> Decoder:
    """The decoder in its fastest form for inference: a copy with prepacked weights or captured steps, or the decoder
    itself if neither is supported (another type, torch without oneDNN).

    All other weights are shared with the original. layers: False packs only the output projection, which with many rows
    gives most of the gain in less memory.
    """
    weight = decoder.embed_tokens.weight
    if weight.device.type in CAPTURES:
        capturing = copy.copy(decoder)
        capturing.graphs = StepGraphs(CAPTURES[weight.device.type](weight.device))
        return capturing
    packing = hasattr(torch.ops.mkldnn, "_linear_pointwise") and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    if decoder.output is not None or (weight.device.type, weight.dtype, packing) != ("cpu", torch.float32, True):
        return decoder
    packed = inference_copy(decoder, weight.dtype)
    for module in list(packed.modules()) if layers else ():
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, PackedLinear(child.weight, child.bias))
    packed.output = PackedLinear(weight, None)
    return packed
