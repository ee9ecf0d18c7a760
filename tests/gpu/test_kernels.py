"""Kernels of a training step as a GPU would launch them, counted on a device that holds nothing.

Operations that only change a tensor's shape launch none. Those in `SEVERAL` launch more than one.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from whispertune.model import loss, packed_lengths, padded_attention
from whispertune.model.config import WhisperConfig
from whispertune.model.loss import summed_nll
from whispertune.model.whisper import Whisper

LARGE = WhisperConfig(
    vocab_size=51_866, num_mel_bins=128, d_model=1280, encoder_layers=1, encoder_attention_heads=20,
    encoder_ffn_dim=5120, decoder_layers=32, decoder_attention_heads=20, decoder_ffn_dim=5120,
)  # fmt: skip
"""The decoder of large-v3."""
NONE = {
    "_unsafe_view", "alias", "as_strided", "detach", "empty", "empty_like", "empty_strided", "expand", "new_empty",
    "new_empty_strided", "permute", "select", "slice", "split", "split_with_sizes", "squeeze", "t", "transpose",
    "unsqueeze", "view",
}  # fmt: skip
SEVERAL = {
    "attention_backward": 3, "constant_pad_nd": 2, "embedding_dense_backward": 5, "native_layer_norm_backward": 2,
    "slice_backward": 2,
}  # fmt: skip
SORTING = 5
"""Of an index_put that adds up, which sorts."""


class Kernels(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.__name__.partition(".")[0]
        tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
        if name not in NONE and any(tensor.device.type == "meta" for tensor in tensors):
            adds_up = name in ("index_put", "index_put_") and len(args) > 3 and args[3]
            self.found[name] += SORTING if adds_up else SEVERAL.get(name, 1)
        return out


class _Attention(torch.autograd.Function):
    """A fused kernel, whose name is not looked for among the operations."""

    kernels: Kernels

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        ctx.save_for_backward(q, k, v)
        _Attention.kernels.found["attention"] += 1
        return torch.empty_like(q)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        _Attention.kernels.found["attention_backward"] += SEVERAL["attention_backward"]
        return tuple(torch.empty_like(saved) for saved in ctx.saved_tensors)


def test_kernels_of_a_decoders_forward_and_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (packed_lengths, padded_attention, loss):
        monkeypatch.setattr(module, "send", lambda tensor, device: tensor.to(device))
    monkeypatch.setattr(
        torch.nn.functional, "scaled_dot_product_attention",
        lambda q, k, v, attn_mask=None, is_causal=False: _Attention.apply(q, k, v),  # type: ignore[no-untyped-call]
    )  # fmt: skip
    with torch.device("meta"):
        decoder = Whisper(LARGE).to(torch.bfloat16).decoder
    tokens, frames = [*range(15, 31)], [*range(250, 500, 16)]
    ids = torch.zeros(16, 30, dtype=torch.long, device="meta")
    states = torch.zeros(16, max(frames), 1280, dtype=torch.bfloat16, device="meta")
    labels = torch.zeros(16, 30, dtype=torch.long)
    with Kernels() as kernels:
        _Attention.kernels = kernels
        hidden = decoder(ids, states, torch.zeros(16, max(frames), device="meta"), tokens, frames)
        summed_nll(decoder, hidden, labels).backward()
    # 3,855 with PyTorch's own indexing for packing and padding.
    assert 2000 < kernels.found.total() <= 2900, kernels.found.most_common()
