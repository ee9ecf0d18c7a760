"""The copy that products are computed with: its gradients, and what is held in fewer bits."""

from __future__ import annotations

import pytest
import torch
from training_samples import tiny_whisper

from whispertune.model.loss import summed_nll
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_memory_that_is_kept_leaves_every_update_its_own_gradients(dtype: torch.dtype) -> None:
    """Three micro-batches of an update, and two updates, against autograd without anything kept."""
    whisper, reference = (tiny_whisper().to(torch.promote_types(dtype, torch.float32)) for _ in range(2))
    apply_freeze(whisper, "encoder")
    copy = WorkingCopy(whisper, dtype)
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(2, 5, whisper.config.d_model, generator=generator).to(dtype)
    for num_tokens in (4, 7):
        for _ in range(3):
            ids, labels = torch.randint(0, 60, (2, 2, num_tokens), generator=generator)
            for decoder in (copy.model.decoder, reference.decoder):
                hidden = decoder(ids, states.to(decoder.embed_tokens.weight.dtype), None)
                summed_nll(decoder, hidden, labels).backward()
        for name, parameter in whisper.named_parameters():
            if not parameter.requires_grad:
                continue
            expected = reference.get_parameter(name).grad
            assert parameter.grad is not None
            assert expected is not None
            bound = 0.05 if dtype == torch.bfloat16 else 1e-4
            away = (parameter.grad - expected.to_dense()).norm() / expected.norm()
            assert float(away) <= bound or float(expected.norm()) < 1e-3, name
            parameter.grad = reference.get_parameter(name).grad = None


def test_in_float32_gradients_are_not_copied() -> None:
    """The sum lies where the first micro-batch's gradient was computed; the vocabulary's always in the same place."""
    whisper = tiny_whisper()
    apply_freeze(whisper, "encoder")
    copy = WorkingCopy(whisper, torch.float32)
    states = torch.randn(1, 5, whisper.config.d_model, generator=torch.Generator().manual_seed(0))
    places = []
    for _ in range(2):
        hidden = copy.model.decoder(torch.tensor([[3, 7]]), states, None)
        summed_nll(copy.model.decoder, hidden, torch.tensor([[7, 9]])).backward()
        gradient = whisper.decoder.embed_tokens.weight.grad
        assert gradient is not None
        places.append(gradient.data_ptr())
        whisper.decoder.embed_tokens.weight.grad = None
    assert list(copy._sums) == [id(whisper.decoder.embed_tokens.weight)]
    assert places[0] == places[1] == copy.model.decoder.step_memory.gradient().data_ptr()  # type: ignore[misc]


def test_in_bf16_a_single_micro_batch_needs_no_sums_in_float32() -> None:
    """Its gradients stay as they are, the vocabulary's with the rows that were looked up; a second one makes sums."""
    whisper = tiny_whisper()
    apply_freeze(whisper, "encoder")
    copy = WorkingCopy(whisper, torch.bfloat16)
    states = torch.randn(1, 5, whisper.config.d_model, generator=torch.Generator().manual_seed(0)).bfloat16()
    for dtype in (torch.bfloat16, torch.float32):
        hidden = copy.model.decoder(torch.tensor([[3, 7, 7]]), states, None)
        summed_nll(copy.model.decoder, hidden, torch.tensor([[7, 7, 9]])).backward()
        assert {p.grad.dtype for p in copy.master_params if p.grad is not None} == {dtype}
        assert bool(copy._sums) == (dtype == torch.float32)
