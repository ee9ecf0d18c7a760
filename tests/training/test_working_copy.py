"""The copy that products are computed with: its gradients, and what is held in fewer bits."""

from __future__ import annotations

import torch
from training_samples import tiny_whisper

from whispertune.training.freeze import apply_freeze
from whispertune.training.working_copy import WorkingCopy


def test_frozen_weights_are_narrowed_only_where_nothing_is_lost() -> None:
    whisper = tiny_whisper()
    apply_freeze(whisper, "encoder")
    with torch.no_grad():
        for parameter in whisper.encoder.layers[0].parameters():
            parameter.copy_(parameter.half())
    before = {name: parameter.detach().clone() for name, parameter in whisper.named_parameters()}
    copy = WorkingCopy(whisper, torch.bfloat16)
    narrow = {name for name, parameter in whisper.named_parameters() if parameter.dtype == torch.float16}
    assert {name for name in before if ".encoder.layers.0." in name} <= narrow
    assert not any(before[name].half().float().ne(before[name]).any() for name in narrow)
    for (name, parameter), working in zip(whisper.named_parameters(), copy.model.parameters(), strict=True):
        assert torch.equal(parameter.float(), before[name]), name
        assert torch.equal(working, before[name].bfloat16()), name
        assert not parameter.requires_grad or parameter.dtype == torch.float32


def test_both_gradients_of_the_embedding_are_summed_over_micro_batches() -> None:
    """As output projection and as lookup table, against autograd's own sum with one tied weight."""
    whisper = tiny_whisper()
    apply_freeze(whisper, "encoder")
    copy = WorkingCopy(whisper, torch.float32)
    reference = tiny_whisper()
    states = torch.randn(1, 5, whisper.config.d_model, generator=torch.Generator().manual_seed(0))
    for row in ([3, 7, 7], [7, 9]):
        ids = torch.tensor([row])
        for decoder in (copy.model.decoder, reference.decoder):
            decoder.logits(decoder(ids, states, None)).square().sum().backward()
    embedding, theirs = whisper.decoder.embed_tokens.weight, reference.decoder.embed_tokens.weight
    assert embedding.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(embedding.grad, theirs.grad.to_dense(), rtol=1e-4, atol=1e-6)
    assert copy.model.decoder.embed_tokens.weight.grad is None
    copy.release()
    assert embedding.grad is None
