"""AdamW with moments in 8 bits: the library's updates, near those in float32, and the same bits after a resume.

Tests that need bitsandbytes are skipped where it is missing, as in continuous integration: it takes 124 MB. All is on
a CPU; nothing has been run on a GPU.
"""

from __future__ import annotations

import importlib.util
import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from process_samples import Launcher, distance, size, state_of
from safetensors.torch import load_file
from torch import nn
from training_samples import Moment, Runner, Samples, make_trainer, outcome, random_states, tiny_targets, tiny_whisper

from whispertune.errors import RecipeError
from whispertune.run.flags import parse_fields
from whispertune.run.recipe import Recipe
from whispertune.training import adamw8bit
from whispertune.training.adamw8bit import SMALLEST, is_quantized, moment_bytes, require_adamw8bit
from whispertune.training.freeze import apply_freeze
from whispertune.training.optimiser import build_optimizer, placeholder_moments, quantized_parameters, set_rate
from whispertune.training.options import OptimizerOptions
from whispertune.training.plan import BatchPlan
from whispertune.training.resume import Progress, load_state, save_state
from whispertune.training.working_copy import WorkingCopy

IN_8_BITS = OptimizerOptions(name="adamw8bit")
needs_library = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes, of the extra adamw8bit, is not installed"
)
# Of PyTorch's, at what bitsandbytes imports later than in `build_adamw8bit`.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
CPU = torch.device("cpu")


# Refusals.


def test_without_the_library(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name))
    assert samples.train_run(tmp_path / "run", optimizer__name="adamw8bit") == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line == (
        "error: optimizer.name is adamw8bit, which needs bitsandbytes; install it: pip install 'whispertune[adamw8bit]'"
    )


def test_a_device_that_the_library_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise NotImplementedError("no kernel found\nfor this device")

    monkeypatch.setattr(adamw8bit, "build_adamw8bit", fail)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(
        RecipeError, match=r"^optimizer\.name is adamw8bit, but bitsandbytes cannot run an update on cpu"
    ) as met:
        require_adamw8bit(CPU)
    assert "NotImplementedError: no kernel found" in str(met.value)
    assert "\n" not in str(met.value)


def test_it_cannot_be_sharded() -> None:
    given = {"model": "m", "train": "t", "valid": "v", "output": "o", "optimizer.name": "adamw8bit"}
    assert parse_fields(Recipe, given, [], command="train").optimizer.name == "adamw8bit"
    with pytest.raises(
        RecipeError, match=r"optimizer\.name is adamw8bit, whose moments processes\.shard cannot divide"
    ):
        parse_fields(Recipe, {**given, "processes.shard": True}, [], command="train")


# Updates.


class Small(nn.Module):
    """An encoder's and a decoder's matrix with moments in 8 bits, one of them not a multiple of 256 values, and a bias
    in float32."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.model = nn.ModuleDict({"encoder": nn.Linear(64, 100), "decoder": nn.Linear(100, 45)})
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.model["decoder"](torch.tanh(self.model["encoder"](x)))
        return output


@needs_library
def test_updates_are_the_library_s_own() -> None:
    """To the bit, each parameter at its own rate and decay."""
    require_adamw8bit(CPU)
    from bitsandbytes.optim import AdamW8bit

    ours, theirs = Small(), Small()
    optimizer = build_optimizer(ours, OptimizerOptions(name="adamw8bit", weight_decay=0.1), 0.25)
    plain = {
        name: AdamW8bit([p], lr=1.0, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.1 if p.ndim > 1 else 0.0)
        for name, p in theirs.named_parameters()
    }
    generator = torch.Generator().manual_seed(1)
    for rate in (1e-3, 3e-3, 2e-3, 1e-4):
        for (name, p), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            p.grad = torch.randn(p.shape, generator=generator)
            other.grad = p.grad.clone()
            plain[name].param_groups[0]["lr"] = rate * (0.25 if "encoder" in name else 1)
            plain[name].step()
        set_rate(optimizer, rate)
        optimizer.step()
    for (name, p), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, other), name
        dtype = torch.uint8 if p.numel() >= SMALLEST else torch.float32
        assert is_quantized(p) == (dtype == torch.uint8) == ("weight" in name)
        for key in ("state1", "state2"):
            assert optimizer.state[p][key].dtype == dtype
            assert torch.equal(optimizer.state[p][key], plain[name].state[other][key])


@needs_library
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_fifty_updates_are_near_those_in_float32(seed: int) -> None:
    """Of a regression: parameters within 3 % of how far they moved, the loss within 0.2 %."""
    ends, losses = [], []
    for options in (OptimizerOptions(), IN_8_BITS):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(256, 64, generator=generator)
        y = torch.tanh(x @ torch.randn(64, 45, generator=generator) / 8)
        model = Small(seed)
        optimizer = build_optimizer(model, options)
        set_rate(optimizer, 1e-3)
        for _ in range(50):
            rows = torch.randint(0, 256, (32,), generator=generator)
            optimizer.zero_grad()
            (model(x[rows]) - y[rows]).square().mean().backward()
            optimizer.step()
        ends.append([p.detach() for p in model.parameters()])
        losses.append((model(x) - y).square().mean().item())
    for exact, found, start in zip(*ends, Small(seed).parameters(), strict=True):
        assert (found - exact).norm() < 0.03 * (exact - start).norm()
    assert losses[1] == pytest.approx(losses[0], rel=0.002)


@needs_library
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_trainer_s_update(tmp_path: Path, dtype: torch.dtype) -> None:
    """Gradients are float32, unscaled and clipped before the library sees them; those that are not finite change
    nothing. On a CPU in bf16, AdamW's own update would have taken them as they are."""
    whisper, options = tiny_whisper(), OptimizerOptions(name="adamw8bit", max_grad_norm=0.5)
    apply_freeze(whisper, "encoder")
    trainer = make_trainer(
        tmp_path / "run", whisper, random_states([20, 30]), tiny_targets([3, 9]), dtype=dtype, optimizer_options=options
    )
    targets, working = tiny_targets([3, 9]), trainer.learner.working
    seen: list[float] = []

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        assert all(gradient.dtype == torch.float32 for gradient in gradients if gradient is not None)
        seen.append(math.sqrt(sum(float(g.double().square().sum()) for g in gradients if g is not None)))

    trainer.learner.optimizer.register_step_pre_hook(note)
    trainer.backward([0, 1], targets, 10)
    norm = trainer._update()
    assert norm is not None
    assert norm > 0.5
    assert seen == [pytest.approx(0.5, rel=1e-3)]
    for master, copy in zip(working.master_params, working.compute_params, strict=True):
        assert torch.equal(master.detach().to(dtype), copy.detach())
    before = {name: p.detach().clone() for name, p in whisper.named_parameters()}
    trainer.backward([0, 1], targets, 10)
    gradient = working.master_params[0].grad
    assert gradient is not None
    gradient[0] = math.inf
    assert trainer._update() is None
    assert len(seen) == 1
    assert all(torch.equal(p, before[name]) for name, p in whisper.named_parameters())


def test_a_copy_in_bf16_with_gradients_of_its_own_is_refused() -> None:
    """The update in blocks knows PyTorch's AdamW alone; another one would be given gradients that are not clipped."""
    working = WorkingCopy(tiny_whisper(), torch.bfloat16)
    assert working.narrow_gradients
    with pytest.raises(AssertionError):
        working.update(torch.optim.SGD(working.master.parameters()))


# Size and state.


def test_what_adamw_keeps_is_reserved() -> None:
    optimizer = build_optimizer(Small(), OptimizerOptions())
    assert sum(tensor.nbytes for tensor in placeholder_moments(optimizer)) == 8 * sum(
        p.numel() for p in Small().parameters()
    )
    assert quantized_parameters(optimizer) == 0


@needs_library
def test_what_is_kept_in_8_bits_is_reserved_and_counted() -> None:
    model = Small()
    optimizer = build_optimizer(model, IN_8_BITS)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    for p in model.parameters():
        # qmap: the table of what codes mean, of 256 values, which all tensors share.
        kept = {key: value for key, value in optimizer.state[p].items() if key not in ("step", "qmap1", "qmap2")}
        assert sum(value.nbytes for value in kept.values()) == 2 * moment_bytes(p)
    reserved = sum(tensor.nbytes for tensor in placeholder_moments(optimizer))
    assert reserved == sum(2 * moment_bytes(p) for p in model.parameters())
    assert quantized_parameters(optimizer) == 64 * 100 + 100 * 45


@needs_library
def test_what_is_saved_comes_back_and_makes_the_same_update(tmp_path: Path) -> None:
    models = Small(0), Small(1)
    optimizers = [build_optimizer(model, IN_8_BITS) for model in models]

    def update(number: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for p in models[number].parameters():
            p.grad = torch.randn(p.shape, generator=generator)
        set_rate(optimizers[number], 1e-3)
        optimizers[number].step()

    for seed in (0, 1):
        update(0, seed)
    path = tmp_path / "state.safetensors"
    save_state(path, models[0], optimizers[0], Progress(BatchPlan(1, 1), step=2))
    saved = load_file(path)
    assert saved["state1/model.encoder.weight"].dtype == torch.uint8
    assert saved["state2/model.encoder.bias"].dtype == torch.float32
    load_state(path, models[1], optimizers[1])

    def assert_same() -> None:
        for ours, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
            left, right = optimizers[0].state[ours], optimizers[1].state[theirs]
            assert torch.equal(ours, theirs)
            assert left.keys() == right.keys()
            assert left["step"] == right["step"]
            for key in left.keys() - {"step"}:
                assert left[key].dtype == right[key].dtype
                assert torch.equal(left[key], right[key]), key

    assert_same()
    for number in (0, 1):
        update(number, seed=2)
    assert_same()


# Runs.

FIELDS: dict[str, dict[str, object]] = {
    "fp32": {"freeze": "none", "schedule__encoder_scale": 0.5},
    "bf16": {"precision": "bf16", "average__epochs": 2},
    "fp16": {"precision": "fp16", "batch__auto": "true"},
    "lora": {"precision": "bf16", "lora__rank": 64},
}


@needs_library
@pytest.mark.parametrize("name", FIELDS)
def test_a_run_that_was_killed_ends_with_the_same_bits(
    samples: Samples, runner: Runner, tmp_path: Path, name: str
) -> None:
    fields = {"checkpoint__every_steps": 1, **FIELDS[name], "optimizer__name": "adamw8bit"}
    assert runner(samples.arguments(tmp_path / "whole", **fields)) == 0, runner.log.read_text()
    run = tmp_path / "run"
    moment = Moment("whispertune.training.trainer", "Trainer.backward", 6)
    assert runner(samples.arguments(run, **fields), moment) == -signal.SIGKILL, runner.log.read_text()
    assert runner(["resume", str(run)]) == 0, runner.log.read_text()
    assert outcome(run) == outcome(tmp_path / "whole")
    state = load_file(run / "last" / "state.safetensors")
    parameters = {name: tensor for name, tensor in state.items() if name.startswith("parameter/")}
    in_8_bits = {name for name, tensor in state.items() if name.startswith("state") and tensor.dtype == torch.uint8}
    large = [name for name, tensor in parameters.items() if tensor.numel() >= SMALLEST]
    assert len(in_8_bits) == 2 * len(large) > 0


@needs_library
def test_the_state_is_smaller(samples: Samples, tmp_path: Path) -> None:
    sizes, steps = {}, {"max_steps": 1, "epochs": 1}
    for name in ("adamw", "adamw8bit"):
        assert samples.train_run(tmp_path / name, **steps, optimizer__name=name) == 0
        state = load_file(tmp_path / name / "last" / "state.safetensors")
        moments = {key: tensor.nbytes for key, tensor in state.items() if not key.startswith(("parameter/", "qmap"))}
        learning = sum(tensor.numel() for key, tensor in state.items() if key.startswith("parameter/"))
        sizes[name] = sum(moments.values()) / learning
    assert sizes["adamw"] == 8
    assert 2 < sizes["adamw8bit"] < 2.2


@needs_library
def test_two_processes_make_the_update_of_one(samples: Samples, launch: Launcher, tmp_path: Path) -> None:
    options = {"max_steps": 1, "optimizer__name": "adamw8bit"}
    assert samples.train_run(tmp_path / "one", **options) == 0
    ended = launch(samples.arguments(tmp_path / "two", accumulation=1, **options), rank=-1, fault="keep_every_state")
    assert ended.statuses == [0, 0], ended.logs
    one, two = state_of(tmp_path / "one"), state_of(tmp_path / "two")
    # Scales are float32 and follow the gradient; codes of values between two of them may fall to either.
    assert distance(one, two, "absmax1/") <= 1e-5 * size(one, "absmax1/")
    ranks = [state_of(tmp_path / "two", f"rank-{rank}") for rank in range(2)]
    assert all(torch.equal(tensor, rank[name]) for rank in ranks for name, tensor in two.items())
