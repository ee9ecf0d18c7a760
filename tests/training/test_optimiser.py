"""AdamW's groups and its formula; clipping."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn
from training_samples import Samples, step_rows, tiny_whisper

from whispertune.errors import RecipeError
from whispertune.run.flags import parse_fields
from whispertune.run.recipe import Recipe
from whispertune.training import optimiser, working_copy
from whispertune.training.freeze import apply_freeze
from whispertune.training.optimiser import (
    build_optimizer,
    clip_gradients,
    norms_of,
    parameter_groups,
    set_rate,
    update_in_blocks,
    update_on_cpu,
)
from whispertune.training.options import OptimizerOptions

FIRST = ("model.encoder.layers.0.fc1.weight", "model.decoder.layers.0.fc1.weight")


@pytest.mark.parametrize("freeze", ["encoder", "none", "encoder:1", "decoder:1", "encoder,embeddings"])
def test_decay_spares_biases_gains_and_positions(freeze: str) -> None:
    whisper = tiny_whisper()
    apply_freeze(whisper, freeze)
    names = {id(parameter): name for name, parameter in whisper.named_parameters()}
    decay: dict[str, float] = {}
    for group in parameter_groups(whisper, 0.25):
        for parameter in group["params"]:
            assert names[id(parameter)] not in decay, "in two groups"
            decay[names[id(parameter)]] = group["weight_decay"]
    assert set(decay) == {name for name, parameter in whisper.named_parameters() if parameter.requires_grad}
    for name, value in decay.items():
        spared = name.endswith(".bias") or "layer_norm" in name or "embed_positions" in name
        assert value == (0.0 if spared else 0.25), name


@pytest.mark.parametrize("freeze", ["none", "auto", "encoder:1"])
def test_the_encoder_learns_at_a_rate_of_its_own(freeze: str) -> None:
    """Each update is AdamW's at the scaled rate for the encoder, and as without the scale for the decoder."""
    moved: list[dict[str, Tensor]] = []
    for scale in (1.0, 0.25):
        whisper = tiny_whisper()
        apply_freeze(whisper, freeze)
        optimizer = build_optimizer(whisper, OptimizerOptions(weight_decay=0.1), scale)
        before = {name: p.detach().clone() for name, p in whisper.named_parameters()}
        for name, parameter in whisper.named_parameters():
            if parameter.requires_grad:
                parameter.grad = torch.full_like(parameter, 0.5 if "bias" in name else -2.0)
        set_rate(optimizer, 1e-2)
        optimizer.step()
        moved.append({name: p.detach() - before[name] for name, p in whisper.named_parameters() if p.requires_grad})
    assert any(name.startswith("model.encoder.") for name in moved[0])
    for name, whole in moved[0].items():
        expected = 0.25 * whole if name.startswith("model.encoder.") else whole
        torch.testing.assert_close(moved[1][name], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("flags", "remedy"),
    [
        ({}, "add --freeze auto"),
        ({"freeze": "decoder:1"}, "add --freeze auto"),
        ({"lora.rank": 4}, "add --lora.where both"),
        ({"lora.rank": 4, "lora.where": "both"}, None),
        ({"freeze": "none"}, None),
        ({"freeze": "auto"}, None),
    ],
)
def test_a_scale_for_an_encoder_that_does_not_learn(flags: dict[str, object], remedy: str | None) -> None:
    fields: dict[str, object] = {
        "model": "m",
        "train": "t",
        "valid": "v",
        "output": "o",
        "schedule.encoder_scale": 0.3,
        **flags,
    }
    if remedy is None:
        assert parse_fields(Recipe, fields, [], command="train").schedule.encoder_scale == 0.3
        return
    with pytest.raises(RecipeError, match=f"nothing of the encoder learns; {remedy}"):
        parse_fields(Recipe, fields, [], command="train")


def test_a_run_whose_encoder_is_slower(samples: Samples, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the precision, which decides how updates are made: half the rate is half the first movement."""
    moved = []
    for scale in (1.0, 0.5):
        run = tmp_path / f"{scale}"
        fields = {"freeze": "none", "max_steps": 1, "epochs": 1, "schedule__warmup_steps": 1, "precision": "bf16"}
        assert samples.train_run(run, **fields, schedule__encoder_scale=scale, optimizer__weight_decay=0) == 0
        state, begun = load_file(run / "last" / "state.safetensors"), load_file(samples.model / "model.safetensors")
        moved.append({name: state[f"parameter/{name}"] - begun[name].float() for name in FIRST})
    assert capsys.readouterr().err.count(", of the encoder 0.5 times that") == 1
    for name in FIRST:
        ratio = float((moved[1][name].norm() / moved[0][name].norm()).item())
        assert ratio == pytest.approx(0.5 if "encoder" in name else 1.0, rel=0.02), name


class Toy(nn.Module):
    """A matrix, a gain and position embeddings, in float64."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        draw = lambda *shape: nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64))  # noqa: E731
        self.matrix, self.gain = draw(5, 3), draw(3)
        self.embed_positions = nn.Embedding(4, 3, dtype=torch.float64)
        self.embed_positions.weight = draw(4, 3)


@given(
    decay=st.floats(0, 1), beta1=st.floats(0, 0.99), beta2=st.floats(0.5, 0.999), seed=st.integers(0, 100),
)  # fmt: skip
@settings(deadline=None)
def test_updates_follow_the_formula_of_decoupled_decay(decay: float, beta1: float, beta2: float, seed: int) -> None:
    """Loshchilov & Hutter 2019, algorithm 2 with the rate as schedule multiplier, over three updates."""
    toy, eps = Toy(), 1e-8
    options = OptimizerOptions(weight_decay=decay, beta1=beta1, beta2=beta2, eps=eps)
    optimizer = build_optimizer(toy, options)
    expected = {name: p.detach().clone() for name, p in toy.named_parameters()}
    mean = {name: torch.zeros_like(p) for name, p in expected.items()}
    square = {name: torch.zeros_like(p) for name, p in expected.items()}
    generator = torch.Generator().manual_seed(seed)
    for step, rate in enumerate([1e-2, 3e-2, 2e-2], start=1):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for name, parameter in toy.named_parameters():
            gradient = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.grad = gradient.clone()
            mean[name] = beta1 * mean[name] + (1 - beta1) * gradient
            square[name] = beta2 * square[name] + (1 - beta2) * gradient**2
            adam = (mean[name] / (1 - beta1**step)) / ((square[name] / (1 - beta2**step)).sqrt() + eps)
            own_decay = decay if name == "matrix" else 0.0
            expected[name] = expected[name] - rate * (adam + own_decay * expected[name])
        optimizer.step()
    for name, parameter in toy.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-9, atol=1e-12, msg=name)


def gradients(scale: float = 1.0) -> list[Tensor]:
    """Parameters with gradients, small ones first: the norm lies in the later ones."""
    generator = torch.Generator().manual_seed(0)
    parameters = []
    for number, shape in enumerate([(4,), (3, 5), (2, 3, 4), (6,)]):
        parameter = torch.zeros(shape, requires_grad=True)
        parameter.grad = torch.randn(shape, generator=generator) * scale * 10**number
        parameters.append(parameter)
    parameters.append(torch.zeros(7, requires_grad=True))  # one without a gradient
    return parameters


def norm_of(parameters: list[Tensor]) -> float:
    """By definition, in float64."""
    return math.sqrt(sum(float((p.grad.double() ** 2).sum()) for p in parameters if p.grad is not None))


@given(scale=st.floats(1e-6, 1e3), max_norm=st.floats(1e-3, 1e3))
@settings(deadline=None)
def test_clipping_is_over_all_parameters_together(scale: float, max_norm: float) -> None:
    parameters = gradients(scale)
    before = [None if p.grad is None else p.grad.clone() for p in parameters]
    norm = norm_of(parameters)
    assert clip_gradients(parameters, max_norm) == pytest.approx(norm, rel=1e-5)
    factor = min(1.0, max_norm / norm)
    for parameter, old in zip(parameters, before, strict=True):
        if old is not None:
            torch.testing.assert_close(parameter.grad, old * factor, rtol=1e-5, atol=0)
    assert norm_of(parameters) == pytest.approx(min(norm, max_norm), rel=1e-5)


def test_zero_disables_clipping() -> None:
    parameters = gradients(100.0)
    before = [p.grad.clone() for p in parameters if p.grad is not None]
    assert clip_gradients(parameters, 0.0) == pytest.approx(norm_of(parameters))
    assert all(torch.equal(p.grad, old) for p, old in zip(parameters, before, strict=False))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_gradients_that_are_not_finite_show_in_the_norm(bad: float) -> None:
    parameters = gradients()
    parameters[2].grad[0, 0, 0] = bad
    first = parameters[0].grad.clone()
    assert not math.isfinite(clip_gradients(parameters, 2.0))
    assert torch.equal(parameters[0].grad, first)


@pytest.mark.parametrize("block", [7, 16, 1000])
@pytest.mark.parametrize("divisor", [1.0, 2.5])
def test_updates_in_blocks_are_those_of_adamw(monkeypatch: pytest.MonkeyPatch, block: int, divisor: float) -> None:
    """Of gradients in bf16 and in float32; the copies follow, and the state is AdamW's own, to go on with."""
    monkeypatch.setattr(optimiser, "BLOCK_ELEMENTS", block)
    ours, theirs = (Toy().float() for _ in range(2))
    in_blocks, usual = (build_optimizer(toy, OptimizerOptions(weight_decay=0.1)) for toy in (ours, theirs))
    copies = {id(p): p.detach().bfloat16() for p in ours.parameters()}
    generator = torch.Generator().manual_seed(0)
    for step in range(4):
        for number, (p, other) in enumerate(zip(ours.parameters(), theirs.parameters(), strict=True)):
            gradient = torch.randn(p.shape, generator=generator).bfloat16()
            p.grad_dtype = None
            p.grad = None if (step, number) == (1, 0) else gradient if (step + number) % 2 else gradient.float()
            other.grad = None if p.grad is None else gradient.float() / divisor
        for group in (*in_blocks.param_groups, *usual.param_groups):
            group["lr"] = 0.01 * (step + 1)
        update_in_blocks(in_blocks, copies, divisor)
        usual.step()
    for p, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, other, rtol=1e-6, atol=1e-7)
        assert torch.equal(copies[id(p)], p.detach().bfloat16())


def test_updates_on_a_cpu_are_those_of_adamw_to_the_bit() -> None:
    ours, theirs = (Toy().float() for _ in range(2))
    own, usual = (build_optimizer(toy, OptimizerOptions(weight_decay=0.1)) for toy in (ours, theirs))
    generator = torch.Generator().manual_seed(0)
    for step in range(4):
        for number, (p, other) in enumerate(zip(ours.parameters(), theirs.parameters(), strict=True)):
            p.grad = None if (step, number) == (1, 0) else torch.randn(p.shape, generator=generator)
            other.grad = None if p.grad is None else p.grad.clone()
        for group in (*own.param_groups, *usual.param_groups):
            group["lr"] = 0.01 * (step + 1)
        update_on_cpu(own)
        usual.step()
    for p, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, other)
        assert own.state[p].keys() == usual.state[other].keys()
        assert all(torch.equal(own.state[p][name], value) for name, value in usual.state[other].items())


def test_the_norm_of_bf16_gradients_is_summed_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimiser, "BLOCK_ELEMENTS", 100)
    gradient = torch.randn(37, 51, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert float(norms_of([gradient])[0]) == pytest.approx(float(gradient.double().norm()), rel=1e-6)


def test_norms_of_float32_gradients_are_computed_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """One kernel for each of a large model's 800 gradients would take a GPU longer than the norms themselves."""
    calls: list[int] = []
    at_once = torch._foreach_norm

    def counted(tensors: list[Tensor]) -> tuple[Tensor, ...]:
        calls.append(len(tensors))
        return at_once(tensors)

    monkeypatch.setattr(torch, "_foreach_norm", counted)
    parameters = gradients()
    clip_gradients(parameters, 0.0)
    assert calls == [sum(p.grad is not None for p in parameters)]


@pytest.mark.parametrize(
    ("max_grad_norm", "freeze", "precision"),
    [(0.5, "encoder", "fp32"), (0.5, "none", "fp32"), (0.5, "encoder", "bf16"), (0.0, "encoder", "fp32")],
)
def test_a_run_clips_every_parameter_and_logs_the_norm_before(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_grad_norm: float, freeze: str, precision: str
) -> None:
    """The fault of others: only the first parameter group clipped."""
    before: list[float] = []
    applied: list[float] = []
    clip, on_cpu, in_blocks = working_copy.clip_gradients, working_copy.update_on_cpu, working_copy.update_in_blocks

    def norm_applied(optimizer: torch.optim.AdamW) -> float:
        return norm_of([p for group in optimizer.param_groups for p in group["params"]])

    def recorded_clip(parameters: list[Tensor], max_norm: float) -> float:
        before.append(norm_of(list(parameters)))
        return clip(parameters, max_norm)

    def recorded_step(optimizer: torch.optim.AdamW) -> None:
        applied.append(norm_applied(optimizer))
        on_cpu(optimizer)

    def recorded_blocks(optimizer: torch.optim.AdamW, copies: dict[int, Tensor], divisor: float) -> None:
        applied.append(norm_applied(optimizer) / divisor)
        in_blocks(optimizer, copies, divisor)

    monkeypatch.setattr(working_copy, "update_in_blocks", recorded_blocks)
    monkeypatch.setattr(working_copy, "clip_gradients", recorded_clip)
    monkeypatch.setattr(working_copy, "update_on_cpu", recorded_step)
    status = samples.train_run(
        tmp_path / "run", epochs=1, optimizer__max_grad_norm=max_grad_norm, freeze=freeze, precision=precision
    )
    assert status == 0
    logged = [row["grad_norm"] for row in step_rows(tmp_path / "run")]
    assert logged == pytest.approx(before, rel=1e-5)
    assert min(logged) > 0.5  # so that clipping had work to do
    assert applied == pytest.approx([max_grad_norm or norm for norm in logged], rel=1e-4)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weight_decay", -0.1),
        ("beta1", 1.0),
        ("beta2", -0.1),
        ("eps", 0.0),
        ("max_grad_norm", -1.0),
        ("max_skipped_in_a_row", 0),
    ],
)
def test_bad_values_name_their_field(field: str, value: float) -> None:
    with pytest.raises(RecipeError, match=f"^{field} is"):
        OptimizerOptions(**{field: value})  # type: ignore[arg-type]
