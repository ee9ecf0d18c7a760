"""A decoder's weights in the layout that products with few rows are quick in.

Decoding step by step, a product has as many rows as hypotheses run side by side, and reads its whole weight for them.
In float32 on a CPU torch's own product takes two to four times as long for that as oneDNN's does on a weight that
lies in oneDNN's blocked layout (docs/experiments.md, 2026-11-24).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from whispertune.model.whisper import Decoder, inference_copy

USUAL_ROWS = 8
"""What the layout is chosen for; other numbers of rows are computed as well."""


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
    """The decoder, without gradients, as it decodes fastest: a copy with packed weights, or itself where that is of no
    use (another device or type, a torch without oneDNN).

    What is not packed is shared with the original. layers: False packs the vocabulary alone, which is most of the gain
    where many rows run side by side, in less memory.
    """
    weight = decoder.embed_tokens.weight
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
