from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from random_whisper import random_whisper

from whispertune.errors import RecipeError
from whispertune.model import loss as loss_module
from whispertune.model.loss import summed_nll
from whispertune.model.options import LossOptions
from whispertune.model.whisper import inference_copy
from whispertune.text.targets import IGNORE_INDEX
from whispertune.training.loss_scale import FIRST_LOSS_SCALE

DECODER = random_whisper().decoder
MASKED_LOGIT = torch.randn(2, 4, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([[IGNORE_INDEX, 3, 60, IGNORE_INDEX], [IGNORE_INDEX, 0, IGNORE_INDEX, IGNORE_INDEX]])
SCORED = [(0, 1, 3), (0, 2, 60), (1, 1, 0)]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@torch.no_grad()
def test_sum_over_scored_positions(smoothing: float) -> None:
    log_probs = (MASKED_LOGIT.double() @ DECODER.embed_tokens.weight.double().T).log_softmax(-1)
    expected = sum(
        -(1 - smoothing) * log_probs[row, t, label] - smoothing * log_probs[row, t].mean() for row, t, label in SCORED
    )
    assert float(summed_nll(DECODER, MASKED_LOGIT, LABELS, smoothing)) == pytest.approx(float(expected), rel=1e-5)


@torch.no_grad()
def test_half_precision_logits_are_summed_in_float32() -> None:
    decoder = inference_copy(DECODER, torch.bfloat16)
    loss = summed_nll(decoder, MASKED_LOGIT.bfloat16(), LABELS)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(summed_nll(DECODER, MASKED_LOGIT, LABELS)), rel=0.05)


def test_unscored_positions_get_no_gradient() -> None:
    hidden = MASKED_LOGIT.clone().requires_grad_()
    summed_nll(DECODER, hidden, LABELS).backward()
    assert hidden.grad is not None
    touched = {(row, t) for row, t, _ in SCORED}
    for row in range(2):
        for t in range(4):
            assert bool(hidden.grad[row, t].any()) == ((row, t) in touched)


@torch.no_grad()
def test_nothing_scored_is_zero() -> None:
    assert float(summed_nll(DECODER, MASKED_LOGIT, torch.full_like(LABELS, IGNORE_INDEX))) == 0


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_smoothing_bounds(smoothing: float) -> None:
    with pytest.raises(RecipeError, match="label_smoothing"):
        LossOptions(label_smoothing=smoothing)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_gradients_are_those_of_torchs_cross_entropy(
    monkeypatch: pytest.MonkeyPatch, smoothing: float, scale: float
) -> None:
    """In float64, over more positions than are held in the wide type at once."""
    monkeypatch.setattr(loss_module, "ROWS_AT_ONCE", 3)
    decoder = inference_copy(DECODER, torch.float64)
    weight = decoder.embed_tokens.weight.requires_grad_()
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(2, 6, 32, generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.randint(0, weight.shape[0], (2, 6), generator=generator)
    labels[0, :2] = IGNORE_INDEX
    ours = summed_nll(decoder, hidden, labels, smoothing) * scale
    logits = (hidden @ weight.T).flatten(0, 1)
    theirs = scale * F.cross_entropy(logits, labels.flatten(), reduction="sum", label_smoothing=smoothing)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    for left, right in zip(
        torch.autograd.grad(ours, [hidden, weight]), torch.autograd.grad(theirs, [hidden, weight]), strict=True
    ):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12)


def test_two_losses_before_either_is_differentiated() -> None:
    """Logits are computed in memory that is kept; it is only used again behind the backward pass."""
    decoder = inference_copy(DECODER, torch.float64)
    decoder.embed_tokens.weight.requires_grad_()
    summed_nll(decoder, MASKED_LOGIT.double(), LABELS).backward()  # leaves memory behind
    inputs = [(scale * MASKED_LOGIT).double().requires_grad_() for scale in (1, 2)]
    losses = [summed_nll(decoder, hidden, LABELS) for hidden in inputs]
    found = [torch.autograd.grad(loss, hidden)[0] for loss, hidden in zip(losses, inputs, strict=True)]
    for hidden, gradient in zip(inputs, found, strict=True):
        alone = torch.autograd.grad(summed_nll(DECODER.double(), hidden, LABELS), hidden)[0]
        assert torch.equal(gradient, alone)
    DECODER.float()


def test_projection_in_blocks_is_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "WEIGHT_ROWS_AT_ONCE", 7)
    hidden, weight = torch.randn(5, 32), torch.randn(61, 32)
    out = torch.full((5, 61), torch.nan)
    loss_module._project(hidden, weight, out)
    torch.testing.assert_close(out, hidden @ weight.T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradients_of_unlikely_tokens_do_not_vanish_in_half_precision(smoothing: float) -> None:
    """Against float64: tokens of probabilities from 1e-9 on, by the scale that a run starts with, over 400 tokens."""
    generator = torch.Generator().manual_seed(0)
    vocabulary, width = 40, 64
    weight = (0.3 * torch.randn(vocabulary, width, generator=generator)).half()
    # Hidden states whose logits fall evenly over the tokens.
    wanted = torch.linspace(0, -19.5, vocabulary, dtype=torch.float64).expand(16, -1)
    hidden = torch.linalg.lstsq(weight.double(), wanted.T).solution.T[None].half()
    labels = torch.zeros(1, 16, dtype=torch.long)
    outer, found = FIRST_LOSS_SCALE / 400, {}
    for dtype in (torch.float16, torch.float64):
        decoder = copy.deepcopy(DECODER)
        decoder.embed_tokens = torch.nn.Embedding.from_pretrained(weight.to(dtype), freeze=False)
        rows = hidden.to(dtype).clone().requires_grad_()
        (summed_nll(decoder, rows, labels, smoothing) * outer).backward()
        found[dtype] = decoder.embed_tokens.weight.grad.double()
        with torch.no_grad():
            logits = rows.double()[0] @ weight.double().T
    probs = logits.softmax(-1).mean(0)
    assert 1e-9 < float(probs.min()) < 5e-9  # what is tested is there
    assert int((probs < 6e-8).sum()) >= 5
    for token in range(vocabulary):
        ours, exact = found[torch.float16][token], found[torch.float64][token]
        assert float((ours - exact).norm()) < 0.2 * float(exact.norm())
