"""Activation checkpointing: the same gradients, and less kept for the backward pass."""

from __future__ import annotations

import numpy as np
import torch
from random_whisper import random_whisper, small_config
from torch import Tensor

from whispertune.features.options import FrameOptions
from whispertune.model.loss import summed_nll
from whispertune.states.computed import encode, window_features


def gradients_and_kept_bytes(recompute: bool) -> tuple[dict[str, Tensor], int]:
    """Of one batch of unlike utterances, everything trained."""
    whisper = random_whisper(small_config(layers=(4, 4)))
    for half in (whisper.encoder, whisper.decoder):
        half.recompute = recompute
    waveforms = [(0.1 * np.random.default_rng(n).standard_normal(n)).astype(np.float32) for n in (9_000, 30_000)]
    input_ids = torch.tensor([[1, 2, 3, 4, 5], [1, 2, 9, 0, 0]])
    labels = torch.tensor([[2, 3, 4, 5, 6], [2, 9, 6, -100, -100]])
    weights = {parameter.data_ptr() for parameter in whisper.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        states = encode(whisper.encoder, [window_features(w, 80, FrameOptions()) for w in waveforms])
        hidden = whisper.decoder(input_ids, states.states, states.log_weights, [5, 3])
        loss = summed_nll(whisper.decoder, hidden, labels)
    loss.backward()  # type: ignore[no-untyped-call]
    found = {name: p.grad.to_dense() for name, p in whisper.named_parameters() if p.grad is not None}
    return found, sum(kept.values())


def test_the_same_gradients_from_less() -> None:
    plain, kept_plain = gradients_and_kept_bytes(recompute=False)
    again, kept_again = gradients_and_kept_bytes(recompute=True)
    assert plain.keys() == again.keys()
    assert any("encoder.layers.0" in name for name in plain)
    for name, gradient in plain.items():
        assert torch.equal(gradient, again[name]), name
    assert kept_again < 0.5 * kept_plain
