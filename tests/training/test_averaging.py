"""Averages of weights over epochs, mixtures with the untouched model: what they hold, which is kept."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_samples import (
    Moment,
    Runner,
    Samples,
    fabricated,
    make_trainer,
    metrics,
    outcome,
    random_states,
    tiny_targets,
    tiny_whisper,
    valid_rows,
    weights_of,
)

from whispertune import cli
from whispertune.report.runs import read_run
from whispertune.run import stages
from whispertune.training.freeze import apply_freeze
from whispertune.training.options import AverageOptions
from whispertune.training.trainer import Trainer


def trained(
    folder: Path, errors: list[int], average: AverageOptions, *, worse: bool = False, epochs: int = 3
) -> tuple[Trainer, dict[str, dict[str, torch.Tensor]], list[dict[str, torch.Tensor]]]:
    """A trainer after its run, the weights that were saved as best by model, and the model's at each validation."""
    whisper = tiny_whisper()
    apply_freeze(whisper, "encoder")
    saved: dict[str, dict[str, torch.Tensor]] = {}
    seen: list[dict[str, torch.Tensor]] = []

    def clones(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: tensor.detach().clone() for name, tensor in weights.items()}

    trainer = make_trainer(
        folder, whisper, random_states([20, 30, 40, 50]), tiny_targets([3, 4, 5, 6]), batch_size=2, epochs=epochs,
        average=average, is_worse=lambda model: worse,
        save_best=lambda weights, model: saved.update({model: clones(weights)}),
    )  # fmt: skip
    evaluations = iter(errors)

    def validate(name: str, model: str) -> object:
        seen.append(clones(dict(trainer.learner.working.model.named_parameters())))
        return fabricated([next(evaluations), 1])

    trainer.validate = validate  # type: ignore[assignment]
    trainer.run()
    return trainer, saved, seen


def mean_of(weights: list[dict[str, torch.Tensor]], name: str) -> torch.Tensor:
    return torch.stack([w[name].double() for w in weights]).mean(0).float()


@pytest.mark.parametrize("epochs", [2, 3])
def test_the_mean_of_the_last_epochs(tmp_path: Path, epochs: int) -> None:
    trainer, saved, seen = trained(tmp_path, [4, 4, 3, 3, 1], AverageOptions(epochs=epochs))
    assert [row["model"] for row in valid_rows(tmp_path)] == ["baseline", "epoch", "epoch", "epoch", "average"]
    assert [(row["epoch"], row["step"]) for row in valid_rows(tmp_path)][-2:] == [(3, 6), (3, 6)]
    of_epochs = seen[4 - epochs : 4]
    for name, tensor in saved["average"].items():
        assert torch.allclose(tensor, mean_of(of_epochs, name), atol=1e-6), name
        assert torch.equal(tensor, seen[4][name])
    assert trainer.progress.best_model == "average"
    # What a longer run would go on from are the weights of the last epoch, not the mean.
    state = load_file(tmp_path / "last" / "state.safetensors")
    assert torch.equal(state["parameter/model.decoder.layer_norm.weight"], seen[3]["model.decoder.layer_norm.weight"])
    assert torch.equal(
        dict(trainer.learner.model.named_parameters())["model.decoder.layer_norm.weight"],
        seen[3]["model.decoder.layer_norm.weight"],
    )


def test_the_mixture_of_untouched_and_fine_tuned(tmp_path: Path) -> None:
    _, saved, seen = trained(tmp_path, [4, 4, 3, 3, 3, 1, 2], AverageOptions(epochs=2, mix=(0.75, 0.5)))
    assert [row["model"] for row in valid_rows(tmp_path)][-3:] == ["average", "mixed-0.75", "mixed-0.5"]
    name = "model.decoder.embed_tokens.weight"
    expected = seen[0][name] + 0.75 * (mean_of(seen[2:4], name) - seen[0][name])
    assert torch.allclose(saved["mixed-0.75"][name], expected, atol=1e-6)
    assert "mixed-0.5" not in saved


def test_without_an_average_the_last_epoch_is_mixed(tmp_path: Path) -> None:
    _, saved, seen = trained(tmp_path, [4, 4, 3, 3, 1], AverageOptions(mix=(0.5,)))
    name = "model.decoder.layers.0.fc1.weight"
    assert torch.allclose(saved["mixed-0.5"][name], (seen[0][name] + seen[3][name]) / 2, atol=1e-6)


@pytest.mark.parametrize(
    ("rate", "worse", "kept"),
    [(1, True, "average"), (2, True, "average"), (3, False, "average"), (3, True, "epoch")],
)
def test_the_average_is_kept_unless_it_is_worse_beyond_chance(
    tmp_path: Path, rate: int, worse: bool, kept: str, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer, _, _ = trained(tmp_path, [4, 4, 2, 3, rate], AverageOptions(epochs=2), worse=worse)
    assert trainer.progress.best_model == kept
    assert (trainer.progress.best_step, trainer.progress.best_epoch) == ((6, 3) if kept == "average" else (4, 2))
    assert trainer.progress.best_rate == ((rate if kept == "average" else 2) + 1) / 8
    assert ("worse by no more than chance: kept" in capsys.readouterr().err) == (rate == 3 and not worse)


def test_none_without_two_epochs_in_it(tmp_path: Path) -> None:
    trained(tmp_path, [4, 4, 3], AverageOptions(epochs=3), epochs=1)
    assert [row["model"] for row in valid_rows(tmp_path)] == ["baseline", "epoch"]


@pytest.mark.parametrize("share", ["[0]", "[1]", "[0.5,1.5]", "[-0.5]"])
def test_shares_out_of_bounds(samples: Samples, tmp_path: Path, share: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert samples.train_run(tmp_path / "run", average__mix=share) == 2
    assert "average.mix is" in capsys.readouterr().err


def test_not_with_an_adapter_or_sharding(samples: Samples, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert samples.train_run(tmp_path / "run", average__mix="[0.5]", lora__rank=2) == 2
    assert "lower lora.alpha instead" in capsys.readouterr().err
    assert samples.train_run(tmp_path / "run", average__epochs=2, processes__shard="true") == 2
    assert "average.* cannot go with" in capsys.readouterr().err


AVERAGED: dict[str, object] = {"epochs": 3, "average__epochs": 2, "average__mix": "[0.5]", "precision": "bf16"}


def test_a_run_ends_with_its_average_in_best(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In files, table and report; tested as such; longer training starts from the last epoch."""
    evaluations = iter([fabricated([n] * 20) for n in (4, 3, 1, 2, 2, 3)])
    scored = stages.evaluate_split
    monkeypatch.setattr(
        stages, "evaluate_split",
        lambda split, *rest, **named: [next(evaluations)] if split.name == "valid" else scored(split, *rest, **named),
    )  # fmt: skip
    monkeypatch.setattr(stages, "is_worse_than_best", lambda session, model: False)
    run = tmp_path / "run"
    assert samples.train_run(run, test=samples.test, **AVERAGED) == 0
    assert json.loads((run / "best/checksums.json").read_text())["model"] == "average"
    kept = [row for row in metrics(run) if row.get("model") == "best"]
    assert {row["epoch"] for row in kept} == {3}
    assert (run / "valid/step-0000009-average.jsonl").exists()
    assert (run / "valid/step-0000009-mixed-0.5.jsonl").exists()
    found = read_run(run)
    assert found.chosen is not None
    assert (found.chosen["model"], found.chosen["leading_rate"]) == ("average", 0.5)
    assert "best: mean of 2 epochs; 0 updates" in " ".join(capsys.readouterr().out.split())


def test_resumed_to_the_bit(samples: Samples, runner: Runner, tmp_path: Path) -> None:
    """Killed after the first epoch of the mean, while a candidate is validated, and when best/ has just become one."""
    whole = tmp_path / "whole"
    assert runner(samples.arguments(whole, **AVERAGED)) == 0, runner.log.read_text()
    expected = outcome(whole)
    assert [row["model"] for row in expected["metrics"] if "split" in row][-2:] == ["average", "mixed-0.5"]
    moments = [
        Moment("whispertune.training.trainer", "Trainer._run_step", 8),
        Moment("whispertune.run.stages", "validate", 6),
        Moment("whispertune.run.stages", "is_worse_than_best", 1, "after"),
        Moment("whispertune.run.stages", "validate", 5, sent=signal.SIGTERM),
    ]
    for number, moment in enumerate(moments):
        run = tmp_path / str(number)
        runner(samples.arguments(run, **AVERAGED), moment)
        assert "best" in {path.name for path in run.iterdir()}
        assert runner(["resume", str(run)]) == 0, runner.log.read_text()
        assert outcome(run) == expected, moment


def test_killed_in_the_test_behind_them(samples: Samples, runner: Runner, tmp_path: Path) -> None:
    """Training is over, and candidates are not tried again: their rows must be there."""
    fields: dict[str, object] = {**AVERAGED, "test": samples.test, "search__beam_size": 1}
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert runner(samples.arguments(whole, **fields)) == 0, runner.log.read_text()
    moment = Moment("whispertune.run.stages", "_evaluate_test", 1)
    assert runner(samples.arguments(run, **fields), moment) == -signal.SIGKILL, runner.log.read_text()
    assert runner(["resume", str(run)]) == 0, runner.log.read_text()
    assert outcome(run) == outcome(whole)


def test_more_epochs_average_anew(samples: Samples, tmp_path: Path) -> None:
    fields = {**AVERAGED, "average__mix": None}
    assert samples.train_run(tmp_path / "long", **{**fields, "epochs": 4}) == 0
    assert samples.train_run(tmp_path / "run", **{**fields, "epochs": 2}) == 0
    assert cli.main(["resume", str(tmp_path / "run"), "--epochs", "4"]) == 0
    rows = [[row["model"] for row in valid_rows(tmp_path / name)] for name in ("run", "long")]
    assert rows[0] == ["baseline", "epoch", "epoch", "average", "epoch", "epoch", "average"]
    assert rows[1] == ["baseline", "epoch", "epoch", "epoch", "epoch", "average"]
    averages = [
        next(row["loss"] for row in reversed(valid_rows(tmp_path / name)) if row["model"] == "average")
        for name in ("run", "long")
    ]
    assert averages[0] == averages[1]
    assert weights_of(tmp_path / "run/best").keys() == weights_of(tmp_path / "long/best").keys()
