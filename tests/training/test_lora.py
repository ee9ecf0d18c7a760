"""Training an adapter: what learns, what is kept of it, what goes with it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.func import functional_call
from training_samples import Samples, fabricated, random_states, step_rows, tiny_whisper, weights_of

from whispertune import cli
from whispertune.checkpoints.checkpoint import load_checkpoint
from whispertune.errors import RecipeError
from whispertune.model.loss import summed_nll
from whispertune.model.options import LoraOptions
from whispertune.run import stages
from whispertune.run.recipe import Recipe
from whispertune.system.options import ProcessOptions
from whispertune.training.adapted_copy import AdaptedCopy, build_adapter


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_working_copy_computes_with_merged_weights(dtype: torch.dtype) -> None:
    """Its gradients are those of an explicit LoRA; the untouched weights stay as they were."""
    whisper, generator = tiny_whisper(), torch.Generator().manual_seed(0)
    untouched = {name: weight.clone() for name, weight in whisper.state_dict().items()}
    adapter = build_adapter(whisper, LoraOptions(rank=2, targets="attention"), seed=0)
    for factors in adapter.factors.values():
        factors.lora_B.data.normal_(std=0.05, generator=generator)
    copy = AdaptedCopy(whisper, adapter, dtype)
    copy.refresh()
    states = random_states([5]).states[0][None]
    ids, labels = torch.randint(0, 60, (2, 1, 4), generator=generator)
    decoder = copy.model.decoder
    summed_nll(decoder, decoder(ids, states.to(dtype), None), labels).backward()
    ours = {name: parameter.grad for name, parameter in adapter.named_parameters()}
    learn = {name for name, parameter in copy.model.named_parameters() if parameter.requires_grad}
    assert learn == set(adapter.factors)
    assert all(weight.grad is None for weight in copy.model.parameters())

    for factors in adapter.factors.values():
        factors.zero_grad()
    merged = {n: untouched[n] + f.scale * f.lora_B @ f.lora_A for n, f in adapter.factors.items()}
    reference = tiny_whisper()
    prefix = "model.decoder."
    weights = {n.removeprefix(prefix): w for n, w in merged.items()}
    hidden = functional_call(reference.decoder, weights, (ids, states, None))
    summed_nll(reference.decoder, hidden, labels).backward()
    for name, parameter in adapter.named_parameters():
        found = ours[name]
        assert found is not None
        assert parameter.grad is not None
        away = (found - parameter.grad).norm() / parameter.grad.norm()
        assert float(away) < (1e-5 if dtype == torch.float32 else 0.2), name
    for name, weight in whisper.state_dict().items():
        assert torch.equal(weight.float(), untouched[name]), name
    for name, weight in copy.weights().items():
        torch.testing.assert_close(weight.detach().float(), merged.get(name, untouched[name]).detach())


def test_only_adapted_weights_change_and_the_state_holds_the_adapter(samples: Samples, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert samples.train_run(run, lora__rank=4, lora__targets="q,v", epochs=3, schedule__peak_lr=1e-2) == 0
    before, after = weights_of(samples.model), weights_of(run / "best")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    decoder = {name for name in before if ".decoder.layers." in name}
    assert changed == {name for name in decoder if name.endswith(("q_proj.weight", "v_proj.weight"))}
    for name in changed:
        assert torch.linalg.matrix_rank(after[name] - before[name], atol=1e-5) <= 4
    assert step_rows(run)[-1]["loss"] < step_rows(run)[0]["loss"] - 0.05
    state = load_file(run / "last" / "state.safetensors")
    names = {f"{n.removesuffix('.weight')}.lora_{factor}" for n in changed for factor in "AB"}
    assert set(state) == {f"{kind}/{name}" for kind in ("parameter", "exp_avg", "exp_avg_sq") for name in names}


def test_in_the_decoder_alone_stored_states_stay_valid(
    samples: Samples, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert samples.train_run(tmp_path / "whole", epochs=1, states__store="disk") == 0
    capsys.readouterr()
    assert samples.train_run(tmp_path / "lora", epochs=1, states__store="disk", lora__rank=2) == 0
    assert "encoding train: 11 windows read from the store" in capsys.readouterr().err
    assert samples.train_run(tmp_path / "both", epochs=1, lora__rank=2, lora__where="both") == 0
    assert "below the encoder's layer 0" in " ".join(capsys.readouterr().err.split())  # the convolutions stay
    before, after = weights_of(samples.model), weights_of(tmp_path / "both" / "best")
    assert any(".encoder." in name and not torch.equal(before[name], after[name]) for name in before)


def test_an_adapter_is_a_model_for_every_command(
    samples: Samples, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, moved = tmp_path / "run", tmp_path / "moved"
    assert samples.train_run(run, lora__rank=4, epochs=1, schedule__peak_lr=1e-2) == 0
    assert f"adapter: {run / 'adapter'}" in capsys.readouterr().out
    shutil.copytree(samples.model, moved)
    found = []
    for model in ([run], [run / "adapter"], [run / "adapter", "--base", moved]):
        folder = tmp_path / f"scored-{len(found)}"
        data = ["--data", samples.test, "--output", folder, "--beam_size", 1]
        assert cli.main([str(part) for part in ("evaluate", "--model", *model, *data)]) == 0
        found.append((folder / "hypotheses.jsonl").read_text())
    assert found[0] == found[1] == found[2]
    # Trained further, it is the merged model; resumed where the base model was moved.
    again = tmp_path / "again"
    assert samples.train_run(again, model=run / "adapter", base=moved, epochs=1, freeze="encoder,embeddings") == 0
    further = samples.arguments(again, model=run / "adapter", epochs=2, freeze="encoder,embeddings")
    assert cli.main(further) == 0
    best, begun = weights_of(again / "best"), weights_of(run / "best")
    embeddings = "model.decoder.embed_tokens.weight"
    assert torch.equal(best[embeddings], begun[embeddings])
    moved_by = {n: float((best[n] - begun[n]).norm() / begun[n].norm()) for n in best if n.endswith("fc1.weight")}
    assert max(moved_by.values()) < 0.1
    capsys.readouterr()
    assert samples.train_run(tmp_path / "on top", model=run / "adapter", lora__rank=2) == 2
    assert "an adapter; merge it first (whispertune export --to huggingface)" in capsys.readouterr().err


def test_the_untouched_model_is_an_adapter_that_changes_nothing(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluations = iter([fabricated([errors] * 20) for errors in (0, 4, 3)])
    monkeypatch.setattr(stages, "evaluate_split", lambda *arguments, **named: [next(evaluations)])
    assert samples.train_run(tmp_path / "run", lora__rank=4) == 0
    before = weights_of(samples.model)
    for folder in ("best", "adapter"):
        found = load_checkpoint(str(tmp_path / "run" / folder)).weights
        assert all(torch.equal(weight, before[name]) for name, weight in found.items())


def test_what_does_not_go_together(samples: Samples, tmp_path: Path) -> None:
    given = {"model": "", "train": "", "valid": "", "output": "", "lora": LoraOptions(rank=4)}
    with pytest.raises(RecipeError, match=r"is 'none', but with lora\.rank nothing learns but the adapter"):
        Recipe(**given, freeze="none")
    with pytest.raises(RecipeError, match="hardly anything to shard"):
        Recipe(**given, processes=ProcessOptions(shard=True))
    assert samples.train_run(tmp_path / "run", lora__rank=4000) == 2
