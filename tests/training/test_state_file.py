"""The training state on disk: bits that come back, and a file that is whole or absent."""

from __future__ import annotations

import errno
import json
from dataclasses import asdict, fields, make_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from training_samples import (
    Samples,
    make_trainer,
    metrics,
    outcome,
    progress_of,
    random_states,
    tiny_targets,
    tiny_whisper,
)

from whispertune import cli
from whispertune.errors import RecipeError, RunFolderError, StorageError
from whispertune.model.whisper import Whisper
from whispertune.system.files import replacing_file
from whispertune.system.tensor_file import replace_metadata
from whispertune.training import resume
from whispertune.training.freeze import apply_freeze
from whispertune.training.optimiser import build_optimizer
from whispertune.training.options import CheckpointOptions, OptimizerOptions
from whispertune.training.plan import BatchPlan
from whispertune.training.resume import Progress, load_state, read_progress, save_state

counts = st.integers(0, 2**40)
rates = st.none() | st.floats(0, 3, allow_nan=False)
progresses = st.builds(
    Progress, batches=st.builds(BatchPlan, counts, counts), step=st.integers(0, 2**24), epoch=counts, position=counts,
    validated=st.booleans(), skipped=counts, skipped_in_a_row=counts, loss_scale=st.none() | st.floats(1, 2.0**16),
    best_rate=rates, best_step=counts, best_epoch=counts, best_model=st.text(), since_best=counts, averaged=counts,
    stride=st.none() | counts, alignment_heads=st.none() | st.lists(st.lists(counts, max_size=2), max_size=9),
    trained=st.booleans(),
    finished=st.booleans(), metrics_size=counts,
    views=st.none() | counts, stored=st.none() | st.booleans(),
    metrics_sha256=st.text(), kept=st.dictionaries(st.text(), st.text()),
    began=st.dictionaries(st.text(), st.none() | st.booleans() | counts),
)  # fmt: skip


def trained(tmp_path: Path, freeze: str = "encoder") -> tuple[Whisper, torch.optim.Optimizer]:
    """A model and its optimiser after two updates."""
    whisper = tiny_whisper()
    apply_freeze(whisper, freeze)
    trainer = make_trainer(tmp_path / "run", whisper, random_states([20, 30]), tiny_targets([3, 9]), epochs=2)
    trainer.run()
    return whisper, trainer.learner.optimizer


def fresh(freeze: str = "encoder") -> tuple[Whisper, torch.optim.Optimizer]:
    whisper = tiny_whisper(seed=1)
    apply_freeze(whisper, freeze)
    return whisper, build_optimizer(whisper, OptimizerOptions())


BATCHES = BatchPlan(2, 1)


def bits(whisper: Whisper, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Everything that decides the next update, but for the rate."""
    found = {}
    for name, parameter in whisper.named_parameters():
        if parameter.requires_grad:
            found[name] = parameter.detach()
            found |= {f"{key}/{name}": value for key, value in optimizer.state[parameter].items()}
    return found


@pytest.mark.parametrize("freeze", ["encoder", "encoder,embeddings", "encoder:2"])
def test_what_is_saved_comes_back_bit_by_bit(tmp_path: Path, freeze: str) -> None:
    ours = trained(tmp_path, freeze)
    # Bits that a detour through text or bf16 would lose.
    with torch.no_grad():
        ours[0].decoder.layer_norm.weight[:4] = torch.tensor([0.1 + 1e-7, 1e-42, 3.0e38, -0.0])
    path = tmp_path / "state.safetensors"
    progress = Progress(BATCHES, step=2, epoch=3, best_rate=0.1 + 0.2, loss_scale=8192.0, validated=True, stride=10)
    save_state(path, *ours, progress)
    theirs = fresh(freeze)
    frozen = {n: p.clone() for n, p in theirs[0].named_parameters() if not p.requires_grad}
    assert load_state(path, *theirs) == progress
    left, right = bits(*ours), bits(*theirs)
    assert set(left) == set(right)
    for name, value in left.items():
        assert value.dtype == right[name].dtype, name
        assert torch.equal(value.flatten().view(torch.uint8), right[name].flatten().view(torch.uint8)), name
    assert all(torch.equal(p, frozen[n]) for n, p in theirs[0].named_parameters() if not p.requires_grad)


def test_the_next_update_is_the_same(tmp_path: Path) -> None:
    """A resume that resumed the weights alone would move them otherwise."""
    ours, theirs = trained(tmp_path), fresh()
    save_state(tmp_path / "state.safetensors", *ours, Progress(BATCHES, step=2))
    load_state(tmp_path / "state.safetensors", *theirs)
    for whisper, optimizer in (ours, theirs):
        generator = torch.Generator().manual_seed(0)
        for parameter in whisper.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.randn(parameter.shape, generator=generator)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3
        optimizer.step()
    left, right = bits(*ours), bits(*theirs)
    assert all(torch.equal(value, right[name]) for name, value in left.items())


@given(progress=progresses)
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_progress_comes_back_exactly(tmp_path: Path, progress: Progress) -> None:
    whisper = torch.nn.Linear(1, 1)
    optimizer = torch.optim.AdamW(whisper.parameters())
    save_state(tmp_path / "state", whisper, optimizer, progress)
    assert read_progress(tmp_path / "state") == progress
    assert load_state(tmp_path / "state", whisper, optimizer) == progress


def test_every_field_of_progress_is_tried() -> None:
    """A field that is added is to be added to `progresses` as well."""
    assert len(fields(Progress)) == 24


@pytest.mark.parametrize("written", [0, 1000])
def test_a_full_disk_leaves_the_old_state_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int) -> None:
    ours = trained(tmp_path)
    path = tmp_path / "state.safetensors"
    save_state(path, *ours, Progress(BATCHES, step=2))
    before = path.read_bytes()

    def full(tensors: Any, target: Path, **named: Any) -> None:
        Path(target).write_bytes(b"x" * written)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(resume, "save_file", full)
    with pytest.raises(StorageError) as error:
        save_state(path, *ours, Progress(BATCHES, step=3))
    line = str(error.value)
    assert "\n" not in line
    assert str(path) in line
    assert "No space left on device" in line
    assert "free some disk space, then resume" in line
    assert path.read_bytes() == before
    assert {file.name for file in tmp_path.iterdir()} == {"state.safetensors", "run"}


def test_a_full_disk_in_a_run(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The third save fails: one line, status 1, and the state is saved once more before that ends the run. With
    space again it ends as if nothing had been."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert samples.train_run(whole, checkpoint__every_steps=1) == 0
    original, calls = resume.save_file, 0

    def full(*arguments: Any, **named: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(*arguments, **named)

    monkeypatch.setattr(resume, "save_file", full)
    capsys.readouterr()
    assert samples.train_run(run, checkpoint__every_steps=1) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "No space left on device" in errors[0]
    assert progress_of(run)["step"] == 3
    assert cli.main(["resume", str(run)]) == 0
    assert outcome(run) == outcome(whole)


def test_a_full_disk_leaves_the_old_progress_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.safetensors"
    save_state(path, *trained(tmp_path), Progress(BATCHES, step=2))
    before = path.read_bytes()

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(resume, "replace_metadata", full)
    with pytest.raises(StorageError, match="No space left on device"):
        resume.save_progress(path, Progress(BATCHES, step=3))
    assert path.read_bytes() == before
    assert StorageError.exit_status == 1


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "header", "another"])
def test_a_damaged_state_is_told(
    samples: Samples, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    run = tmp_path / "run"
    assert samples.train_run(run, epochs=1) == 0
    path = run / "last" / "state.safetensors"
    content = path.read_bytes()
    damaged = {
        "cut": content[: len(content) // 2],
        "empty": b"",
        "text": b"not a state\n",
        "header": b"\xff" * 8 + content[8:],
        "another": (run / "best" / "model.safetensors").read_bytes(),
    }[damage]
    path.write_bytes(damaged)
    capsys.readouterr()
    assert cli.main(["resume", str(run)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert str(path) in line
    assert "damaged" in line
    assert "remove the file" in line
    assert path.read_bytes() == damaged
    # What the line advises works.
    path.unlink()
    assert cli.main(["resume", str(run)]) == 0
    assert [row["step"] for row in metrics(run)] == [0, 1, 2, 3, 3]


def test_a_state_that_cannot_be_read_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is to remove a whole state because of a permission."""
    path = tmp_path / "state"
    save_state(path, *trained(tmp_path), Progress(BATCHES, step=2))

    def denied(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(RunFolderError) as error:
        read_progress(path)
    assert (
        str(error.value) == f"{path}: cannot read the training state (Permission denied); make it readable, then resume"
    )
    monkeypatch.undo()
    assert read_progress(path).step == 2
    with pytest.raises(RunFolderError, match=r"cannot read the training state \(Is a directory\)"):
        read_progress(tmp_path)


def test_a_state_of_another_version_is_told(tmp_path: Path) -> None:
    model = torch.nn.Linear(1, 1)
    newer = make_dataclass("Newer", [("warmth", int, 3)], bases=(Progress,), slots=True)
    save_state(tmp_path / "state", model, torch.optim.AdamW(model.parameters()), newer(BATCHES, step=2))
    with pytest.raises(RunFolderError) as error:
        read_progress(tmp_path / "state")
    assert "is of another version of whispertune (it has warmth)" in str(error.value)
    assert "remove" not in str(error.value)


@pytest.mark.parametrize(
    ("found_by_trying", "began", "expected"),
    [
        (None, {"recipe": {"batch_size": 8, "accumulation": 2}, "processes": 3}, BatchPlan(8, 6)),
        (4, {"recipe": {"batch_size": 8, "accumulation": 2}, "processes": 3}, BatchPlan(4, 12)),
        (None, {}, "it has micro_batch"),
    ],
)
def test_a_state_without_batches(
    tmp_path: Path, found_by_trying: int | None, began: dict[str, Any], expected: BatchPlan | str
) -> None:
    """The version before kept the size of micro-batches only if it had found it by trying."""
    path, model = tmp_path / "state", torch.nn.Linear(1, 1)
    save_state(path, model, torch.optim.AdamW(model.parameters()), Progress(BATCHES, step=2, began=began))
    before = {**asdict(read_progress(path)), "micro_batch": found_by_trying}
    del before["batches"]
    with replacing_file(path) as temporary:
        replace_metadata(path, temporary, {"progress": json.dumps(before)})
    if isinstance(expected, BatchPlan):
        assert read_progress(path) == Progress(expected, step=2, began=began)
    else:
        with pytest.raises(RunFolderError, match=expected):
            read_progress(path)


def test_a_state_of_other_parameters_is_refused(tmp_path: Path) -> None:
    save_state(tmp_path / "state", *trained(tmp_path, "encoder,embeddings"), Progress(BATCHES, step=2))
    with pytest.raises(RunFolderError, match="belongs to another run"):
        load_state(tmp_path / "state", *fresh("encoder"))


@pytest.mark.parametrize(("field", "value"), [("every_minutes", -1.0), ("every_steps", 0)])
def test_bad_values_name_their_field(field: str, value: Any) -> None:
    with pytest.raises(RecipeError, match=f"^{field} is"):
        CheckpointOptions(**{field: value})
