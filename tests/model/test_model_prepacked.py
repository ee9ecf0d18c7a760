"""Packed weights: the same decoder, in another layout."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_whisper import random_whisper, small_config
from torch import nn

from whispertune.model.prepacked import PackedLinear, for_decoding
from whispertune.model.whisper import inference_copy
from whispertune.training.working_copy import WorkingCopy

DECODER = random_whisper(small_config(layers=(1, 3))).decoder
PACKED = for_decoding(DECODER)


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 70), prompt=st.integers(1, 5), new=st.integers(0, 4), seed=st.integers(0, 99))
@torch.inference_mode()
def test_a_packed_decoder_computes_the_same(rows: int, prompt: int, new: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(rows, 12, 32, generator=generator)
    weights = torch.randint(1, 30, (rows, 12), generator=generator).float().log()
    tokens = torch.randint(0, 61, (rows, prompt + new), generator=generator)
    logits = []
    for decoder in (DECODER, PACKED):
        cache = decoder.start(states, weights)
        hidden = [decoder.step(tokens[:, :prompt], cache)]
        hidden += [decoder.step(tokens[:, i : i + 1], cache) for i in range(prompt, prompt + new)]
        logits.append(decoder.logits(torch.stack(hidden, 1)))
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-4, atol=1e-4)
    whole = [decoder.logits(decoder(tokens, states, weights)) for decoder in (DECODER, PACKED)]
    torch.testing.assert_close(whole[1], whole[0], rtol=1e-4, atol=1e-4)


def test_every_product_is_packed_and_the_original_is_left_alone() -> None:
    assert not any(isinstance(module, nn.Linear) for module in PACKED.modules())
    # Ten a layer (four in each attention, two behind them) and the vocabulary.
    assert sum(isinstance(module, PackedLinear) for module in PACKED.modules()) == 31
    assert not any(isinstance(module, PackedLinear) for module in DECODER.modules())
    assert all(parameter.requires_grad for parameter in DECODER.parameters())
    assert PACKED.embed_tokens.weight.data_ptr() == DECODER.embed_tokens.weight.data_ptr()


def test_the_vocabulary_alone() -> None:
    packed = for_decoding(DECODER, layers=False)
    assert sum(isinstance(module, PackedLinear) for module in packed.modules()) == 1
    assert sum(isinstance(module, nn.Linear) for module in packed.modules()) == 30
    hidden = torch.randn(3, 32)
    torch.testing.assert_close(packed.logits(hidden), DECODER.logits(hidden), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types_are_left_as_they_are(dtype: torch.dtype) -> None:
    other = inference_copy(DECODER, dtype)
    assert for_decoding(other) is other


def test_a_decoder_in_training_is_packed_without_a_copy_of_its_embedding() -> None:
    working = WorkingCopy(random_whisper(), torch.float32).model.decoder
    assert working.lookup_table is not None
    packed = for_decoding(working)
    assert packed.lookup_table is packed.embed_tokens.weight
    assert packed.embed_tokens.weight.data_ptr() == working.embed_tokens.weight.data_ptr()
    assert not packed.embed_tokens.weight.requires_grad


def test_what_is_packed_is_not_packed_again() -> None:
    assert for_decoding(PACKED) is PACKED
