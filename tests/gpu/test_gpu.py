"""Runs on a GPU against runs on the CPU: on a real one (`pytest -m gpu`), and anywhere on one that is none.

The latter (`pretend_gpu.py`) takes a GPU's branches, refuses what a GPU refuses, and counts how often it is waited for.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from training_samples import Samples, metrics, step_rows, valid_rows, weights_of

HERE = Path(__file__).parent
SHORT = "import sys; from whispertune.evaluation import evaluate; evaluate.MAX_TOKENS = 40; "
"""A random model does not end by itself."""
ON = {
    "cpu": SHORT + "from whispertune import cli; sys.exit(cli.main([*sys.argv[1:], '--device=cpu']))",
    "cuda": SHORT + "from whispertune import cli; sys.exit(cli.main([*sys.argv[1:], '--device=cuda']))",
    "pretend": f"import sys; sys.path.insert(0, {str(HERE)!r}); import pretend_gpu; {SHORT}"
    "sys.exit(pretend_gpu.main(sys.argv[1:]))",
}
WHERE_HELD = """
import json, os, sys
sys.path.insert(0, os.environ["HERE"])
import pretend_gpu
from whispertune.training.trainer import Trainer

held, original = set(), Trainer.backward

def backward(self, *arguments):
    working = self.learner.working
    parts = {"encoder": working.model.encoder, "decoder": working.model.decoder, "masters": working.master}
    for name, part in parts.items():
        held.update(f"{name} {'learns' if p.requires_grad else 'frozen'} {p.device.type}" for p in part.parameters())
    return original(self, *arguments)

Trainer.backward = backward
status = pretend_gpu.main(sys.argv[1:])
print(json.dumps({name: 1 for name in held}))
sys.exit(status)
"""
"""Where parameters are in training steps, in place of the waits."""
ON["held"] = SHORT + WHERE_HELD
DEVICES = ["pretend", pytest.param("cuda", marks=pytest.mark.gpu)]


def run_on(
    device: str, arguments: list[str], cache: Path, told: list[str] | None = None, **variables: str
) -> dict[str, int]:
    """A whispertune command in a process of its own; on the GPU that is none: how often it was waited for, by where.

    told: gets what it says on the way.
    """
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache / device), "OMP_NUM_THREADS": "1", **variables}
    command = [sys.executable, "-c", ON[device], *arguments]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    if told is not None:
        told.append(" ".join(ended.stderr.split()))
    waits: dict[str, int] = json.loads(ended.stdout.splitlines()[-1]) if device not in ("cpu", "cuda") else {}
    return waits


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "stored": {"test": True, "search__beam_size": 3},
    "trained, fp16": {"precision": "fp16", "freeze": "none", "batch__auto": "true"},
    "adamw8bit, bf16": {"precision": "bf16", "optimizer__name": "adamw8bit", "batch__auto": "true"},
    "lora, bf16": {"precision": "bf16", "lora__rank": 4, "lora__where": "both", "batch__auto": "true"},
    "augmented, stitched, bf16": {
        "precision": "bf16", "augment__speed__probability": 0.9, "augment__keep_original": "true",
        "windows__stitched_share": 0.3, "loss__label_smoothing": 0.1, "augment__views": "fresh",
    },
}  # fmt: skip


MARKS = {
    "augmented, stitched, bf16": [pytest.mark.slow],
    "adamw8bit, bf16": [
        pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
    ],
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", [pytest.param(name, marks=MARKS.get(name, [])) for name in CONFIGURATIONS])
def test_a_run_is_that_of_the_cpu(samples: Samples, tmp_path: Path, device: str, name: str) -> None:
    options = dict(CONFIGURATIONS[name])
    if options.pop("test", False):
        options["test"] = samples.test
    runs = {where: tmp_path / where for where in ("cpu", device)}
    waits = {where: run_on(where, samples.arguments(run, **options), tmp_path) for where, run in runs.items()}
    ours, theirs = metrics(runs[device]), metrics(runs["cpu"])
    rough = 1e-4 if "precision" not in options else 0.02
    assert [row.get("split") for row in ours] == [row.get("split") for row in theirs]
    for row, expected in zip(ours, theirs, strict=True):
        for key in ("step", "epoch", "lr", "tokens", "utterances"):
            assert row.get(key) == expected.get(key)
        if row.get("loss") is not None and expected.get("loss") is not None:
            assert row["loss"] == pytest.approx(expected["loss"], rel=rough)
    if "precision" not in options:
        assert [row["wer"] for row in valid_rows(runs[device])] == [row["wer"] for row in valid_rows(runs["cpu"])]
        weights, same = weights_of(runs[device] / "best"), weights_of(runs["cpu"] / "best")
        moved = sum(float((same[n] - w).norm()) for n, w in weights_of(samples.model).items())
        assert sum(float((weights[n] - same[n]).norm()) for n in weights) < 0.05 * moved
    if device == "pretend":
        steps = len(step_rows(runs[device]))
        by_file: dict[str, int] = {}
        for where, count in waits[device].items():
            file = where.split()[-1].partition(":")[0]
            by_file[file] = by_file.get(file, 0) + count
        # A step waits for its loss and for the gradient's norm, whatever the number of its micro-batches.
        assert by_file["training/optimiser.py"] == steps
        assert by_file["training/trainer.py"] == steps
        assert "model/attention.py" not in by_file
        # A step of decoding waits for its numbers; nothing else does, not even a copy.
        assert by_file.pop("decoding/rules.py") > 0
        assert by_file.pop("model/step_graphs.py") > 0  # it compares what it has captured, once for each shape
        quiet = [f"decoding/{name}" for name in ("beam", "greedy", "prompts", "sampling", "timestamps", "windows")]
        quiet += ["model/loss", "model/packed_lengths", "model/padded_attention", "model/cache", "states/views"]
        assert not [file for file in by_file if file.startswith(tuple(quiet))]


LEARNING = {"decoder learns pretend", "masters learns pretend", "masters frozen cpu"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # Views are encoded as their epochs begin, and the test needs the encoder once more.
        ({"augment__views": 2, "test": True}, {"encoder frozen cpu"}),
        ({"augment__views": "fresh"}, {"encoder frozen pretend"}),
        ({"freeze": "encoder:1", "precision": "bf16"}, {"encoder frozen pretend", "encoder learns pretend"}),
    ],
)
def test_what_training_does_not_need_leaves_the_gpu(
    samples: Samples, tmp_path: Path, options: dict[str, Any], expected: set[str]
) -> None:
    options = {"augment__speed__probability": 0.9, "max_steps": 4} | options
    if test := options.pop("test", False):
        options["test"] = samples.test
    arguments = [samples.arguments(tmp_path / where, **options) for where in ("held", "cpu")]
    assert set(run_on("held", arguments[0], tmp_path, HERE=str(HERE))) == LEARNING | expected
    if test:
        run_on("cpu", arguments[1], tmp_path)
        for ours, theirs in zip(metrics(tmp_path / "held"), metrics(tmp_path / "cpu"), strict=True):
            assert ours.get("wer") == theirs.get("wer")
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_a_model_is_scored_as_on_the_cpu(samples: Samples, tmp_path: Path, device: str) -> None:
    found = {}
    for where in ("cpu", device):
        arguments = ["evaluate", f"--model={samples.model}", f"--data={samples.test}", "--language=en", "--beam_size=2"]
        run_on(where, [*arguments, f"--output={tmp_path / where}-out"], tmp_path)
        rows = (tmp_path / f"{where}-out" / "hypotheses.jsonl").read_text(encoding="utf-8").splitlines()
        found[where] = [json.loads(row)["hypothesis"] for row in rows]
    assert found[device] == found["cpu"]


@pytest.mark.parametrize("device", DEVICES)
def test_states_that_are_read_again_are_on_the_gpu(samples: Samples, tmp_path: Path, device: str) -> None:
    """Those of train and valid, clean and augmented, from their second time on; with the losses of a CPU."""
    told: list[str] = []
    for where in ("cpu", device):
        arguments = samples.arguments(
            tmp_path / where, epochs=3, augment__speed__probability=0.9, augment__keep_original="true", augment__views=1
        )
        run_on(where, arguments, tmp_path, told)
    assert [text.count("on the GPU from here on") for text in told] == [0, 3]
    losses = [[row["loss"] for row in metrics(tmp_path / where)] for where in (device, "cpu")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_gpu_without_float64_and_sparse_tensors(samples: Samples, tmp_path: Path) -> None:
    """As Apple's are (`--device mps`). Its own precision is fp32."""
    for where, limited in (("cpu", ""), ("pretend", "1")):
        arguments = samples.arguments(tmp_path / where, max_steps=2)
        run_on(where, arguments, tmp_path, PRETEND_LIMITED=limited)
    losses = [[row["loss"] for row in metrics(tmp_path / where)] for where in ("pretend", "cpu")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_deterministic_runs_repeat(samples: Samples, tmp_path: Path, device: str) -> None:
    """With the flag PyTorch refuses operations that have no deterministic form; it knows those of real GPUs alone."""
    for name in ("one", "other"):
        options: dict[str, Any] = {"deterministic": "true", "max_steps": 2, "freeze": "none", "precision": "fp16"}
        run_on(device, samples.arguments(tmp_path / name, **options), tmp_path)
    one, other = (weights_of(tmp_path / name / "best") for name in ("one", "other"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_devices_cannot_be_mixed_on_the_one_that_is_none() -> None:
    """Or the tests above would show nothing."""
    code = f"""
import sys; sys.path.insert(0, {str(HERE)!r})
import pretend_gpu, torch
with pretend_gpu.pretended() as device:
    far, near = torch.ones(3, device=device), torch.ones(3)
    assert far.device.type == "pretend" and (far + 1).tolist() == [2, 2, 2]
    for mixed in (lambda: far + near, lambda: near @ far, lambda: far.__setitem__(slice(1), near[:1])):
        try:
            mixed()
        except RuntimeError as error:
            assert "of the CPU and of the device" in str(error)
        else:
            raise SystemExit("nothing was refused")
    weight = torch.nn.Parameter(far.clone())
    (weight * 3).sum().backward()
    assert weight.grad.device == device and weight.grad.tolist() == [3, 3, 3]
    assert pretend_gpu.waits.total() == 2
"""
    assert subprocess.run([sys.executable, "-c", code], check=True).returncode == 0


def test_few_attention_shapes() -> None:
    """As many as a GPU that plans each anew would plan in the demo's run of 4 epochs, and in one validation of it."""
    command = [sys.executable, str(HERE / "demo_shapes.py")]
    met = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert 0 < len(met["training"]) <= 12  # 125 without rounding
    assert 0 < len(met["steps"]) <= 12  # 180 without rounding
    assert len(met["validation"]) <= 20  # with the prompts, and the transcripts read for the loss


@pytest.mark.gpu
def test_a_gpu_is_there() -> None:
    """`pytest -m gpu` must not pass for want of one."""
    assert torch.cuda.is_available()
