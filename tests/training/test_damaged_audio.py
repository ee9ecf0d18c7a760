"""Recordings whose headers are whole and whose content is not: left out when they are met, counted, listed; the run
goes on, and so does a resumed one, to the same bits."""

from __future__ import annotations

import csv
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from process_samples import Launcher, distance, size, state_of
from training_samples import (
    TEST_IDS,
    TRAIN_IDS,
    VALID_IDS,
    GivenStates,
    Moment,
    Runner,
    Samples,
    make_trainer,
    metrics,
    outcome,
    progress_of,
    random_states,
    step_rows,
    tiny_targets,
    tiny_whisper,
    valid_rows,
)

from whispertune import cli
from whispertune.errors import TrainingError
from whispertune.states.computed import EncoderStates
from whispertune.system.files import read_jsonl
from whispertune.training import working_copy
from whispertune.training.freeze import apply_freeze
from whispertune.training.metrics import MetricsFile, RunLog
from whispertune.training.plan import BatchPlan, epoch_plan

HEADERS: dict[str, object] = {"data__check_audio": "headers", "data__max_excluded": 0.3}


def zero_middle(path: Path) -> None:
    """The header and the last bytes stay."""
    content = bytearray(path.read_bytes())
    content[len(content) // 4 : -200] = bytes(len(content) - 200 - len(content) // 4)
    path.write_bytes(content)


@pytest.fixture
def flacs(samples: Samples, tmp_path: Path) -> Samples:
    """The samples' clips as FLACs that may be damaged."""
    manifests = []
    for manifest in (samples.train, samples.valid, samples.test):
        with manifest.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            audio = tmp_path / f"{row['id']}.flac"
            waveform, rate = soundfile.read(row["audio"], dtype="int16")
            soundfile.write(audio, waveform, rate)
            row["audio"] = str(audio)
        manifests.append(tmp_path / manifest.name)
        with manifests[-1].open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    return Samples(samples.model, *manifests)


def left_out(run: Path) -> list[tuple[str, str]]:
    return [(row["split"], row["id"]) for row in read_jsonl(run / "excluded.jsonl")]


# What a step makes of it.


class Unreadable(GivenStates):
    """Some windows' states are of silence."""

    unreadable: frozenset[int] = frozenset()

    def fetch(self, indices: Any, view: int = 0) -> EncoderStates:
        found = super().fetch(indices, view)
        rows = tuple(row for row, index in enumerate(indices) if index in self.unreadable)
        return EncoderStates(found.states, found.log_weights, found.num_frames, rows)


@pytest.mark.parametrize("missing", [{2}, {0, 3}, {0, 1, 2}])
def test_a_step_is_the_mean_over_the_tokens_that_are_there(
    tmp_path: Path, missing: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradient, loss and counts are those of a step that never had the others."""
    lengths, frames = [4, 9, 2, 6], [5, 9, 7, 6]
    rows: list[dict[str, Any]] = []
    gradients: list[list[torch.Tensor]] = []
    for name, keep in (("damaged", range(4)), ("without", [i for i in range(4) if i not in missing])):
        whisper = tiny_whisper()
        apply_freeze(whisper, "encoder")
        targets, states = tiny_targets(lengths), random_states(frames)
        given = Unreadable([states.states[i] for i in keep])
        given.unreadable = frozenset(missing if name == "damaged" else ())
        trainer = make_trainer(
            tmp_path / name, whisper, given, [targets[i] for i in keep], batch_size=4 if name == "without" else 2,
            accumulation=1 if name == "without" else 2,
        )  # fmt: skip
        kept: list[torch.Tensor] = []
        monkeypatch.setattr(
            working_copy, "update_on_cpu", lambda _, k=kept, t=trainer: k.extend(p.grad.clone() for p in t.trainable)
        )
        trainer.run()
        rows += step_rows(tmp_path / name)
        assert len(kept) == len(trainer.trainable)
        gradients.append(kept)
    ours, theirs = rows
    assert (ours["tokens"], ours["utterances"]) == (theirs["tokens"], theirs["utterances"])
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
    assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-6)


def test_a_step_of_which_nothing_is_there_changes_nothing(tmp_path: Path) -> None:
    whisper = tiny_whisper()
    states = Unreadable(random_states([5] * 4).states)
    plan = epoch_plan([5] * 4, BatchPlan(2, 1), seed=0, epoch=1)
    targets = tiny_targets([4] * 4)
    trainer = make_trainer(tmp_path, whisper, states, targets)
    lengths = trainer.data.split.num_samples
    plan = epoch_plan(lengths, BatchPlan(2, 1), seed=0, epoch=1)
    states.unreadable = frozenset(plan[0][0])
    before = {name: p.clone() for name, p in whisper.named_parameters()}
    trainer._run_step(plan, lambda *_, **__: None)
    assert all(torch.equal(p, before[name]) for name, p in whisper.named_parameters())
    assert (trainer.progress.step, trainer.progress.position, trainer.progress.skipped) == (0, 1, 0)
    (row,) = step_rows(tmp_path)
    assert (row["skipped"], row["tokens"], row["utterances"]) == (True, 0, 0)
    trainer._run_step(plan, lambda *_, **__: None)
    assert trainer.progress.step == 1


# Whole runs.


WAYS: dict[str, dict[str, object]] = {
    "stored": {},
    "in memory": {"states__store": "memory"},
    "computed": {"states__store": "off"},
    "encoder learns": {"freeze": "none", "accumulation": 3},
    "fresh copies beside clean ones": {
        "augment__speed__probability": 0.9, "augment__keep_original": "true", "augment__views": "fresh",
    },
    "stored copies": {"augment__speed__probability": 0.9, "augment__views": 2, "states__store": "disk"},
    "stitched": {"windows__stitched_share": 0.4, "augment__speed__probability": 0.9},
}  # fmt: skip
SLOW = {"in memory", "stitched", "fresh copies beside clean ones"}


@pytest.mark.parametrize("way", [pytest.param(w, marks=pytest.mark.slow if w in SLOW else ()) for w in WAYS])
def test_a_damaged_clip_is_left_out_and_a_resume_does_the_same(
    flacs: Samples, runner: Runner, tmp_path: Path, way: str
) -> None:
    zero_middle(tmp_path / f"{TRAIN_IDS[3]}.flac")
    zero_middle(tmp_path / f"{VALID_IDS[1]}.flac")
    options = {**HEADERS, **WAYS[way], "checkpoint__every_minutes": 0, "seed": 3}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert runner(flacs.arguments(whole, **options)) == 0, runner.log.read_text()
    log = runner.log.read_text()
    assert "Traceback" not in log
    assert log.count(f"left out  train: {flacs.train}, row 5: ") == 1, log
    assert sorted(left_out(whole)) == [("train", TRAIN_IDS[3]), ("valid", VALID_IDS[1])]
    reasons = [row["reason"] for row in read_jsonl(whole / "excluded.jsonl")]
    assert all(".flac" in reason and ";" in reason for reason in reasons)
    assert [row["utterances"] for row in valid_rows(whole)] == [3] * 3
    counts = [row["utterances"] for row in step_rows(whole) if row["epoch"] == 1]
    if way != "stitched":
        assert sum(counts) == len(TRAIN_IDS) - 1
    # Of other runs' states nothing is left but what is whole: each of these makes its own, or the rest.
    for nth in (2, 4):
        moment = Moment("whispertune.training.trainer", "Trainer._run_step", nth, "after")
        assert runner(flacs.arguments(killed, **options), moment) == -signal.SIGKILL, runner.log.read_text()
        assert runner(["resume", str(killed)]) == 0, runner.log.read_text()
        assert outcome(killed) == outcome(whole)
        assert sorted(left_out(killed)) == sorted(left_out(whole))
        shutil.rmtree(killed)


def test_a_run_without_damage_has_the_bits_of_one_that_decoded_everything(
    flacs: Samples, runner: Runner, tmp_path: Path
) -> None:
    found = []
    for check in ("headers", "all"):
        run = tmp_path / check
        assert runner(flacs.arguments(run, data__check_audio=check, states__store="off")) == 0, runner.log.read_text()
        came_to = outcome(run)
        came_to["files"].pop("best/checksums.json")  # of the model card, too, which names the run folder
        found.append([came_to[part] for part in ("metrics", "state", "files")])
    assert found[0] == found[1]


def test_too_many_end_the_run_saved_and_mended_files_take_it_up(flacs: Samples, runner: Runner, tmp_path: Path) -> None:
    """One line, status 2; the state is that of the last whole update."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    options = {**HEADERS, "data__max_excluded": 0.1, "states__store": "off", "checkpoint__every_minutes": 1000}
    assert runner(flacs.arguments(whole, **options)) == 0, runner.log.read_text()
    names = [f"{name}.flac" for name in TRAIN_IDS[:2]]
    kept = {name: (tmp_path / name).read_bytes() for name in names}
    for name in names:
        zero_middle(tmp_path / name)
    assert runner(flacs.arguments(run, **options)) == 2
    log = runner.log.read_text()
    assert "Traceback" not in log
    (line,) = [line for line in log.splitlines() if line.startswith("error: ")]
    assert f"{flacs.train}: 2 of 11 rows cannot be used, more than 10%" in line
    assert "--data.max_excluded" in line
    assert set(left_out(run)) == {("train", name) for name in TRAIN_IDS[:2]}
    assert progress_of(run)["step"] == len(step_rows(run)) <= 3
    again = runner(["resume", str(run)])
    assert again == 2  # nothing was mended
    for name, content in kept.items():
        (tmp_path / name).write_bytes(content)
    assert runner(["resume", str(run), "--data.max_excluded", "0.2"]) == 0, runner.log.read_text()
    assert progress_of(run)["finished"]
    assert sum(row["epoch"] == 2 for row in step_rows(run)) == 3


@pytest.mark.parametrize("split", ["valid", "test"])
def test_none_left_of_a_split(flacs: Samples, runner: Runner, tmp_path: Path, split: str) -> None:
    for name in VALID_IDS if split == "valid" else TEST_IDS:
        zero_middle(tmp_path / f"{name}.flac")
    options = {**HEADERS, "data__max_excluded": 1, "test": flacs.test, "search__beam_size": 1}
    assert runner(flacs.arguments(tmp_path / "run", **options)) == 2, runner.log.read_text()
    log = runner.log.read_text()
    assert "Traceback" not in log
    assert "which leaves none" in log
    if split == "test":
        assert progress_of(tmp_path / "run")["trained"]


def test_a_damaged_test_clip(flacs: Samples, runner: Runner, tmp_path: Path) -> None:
    zero_middle(tmp_path / "added.flac")
    options = {**HEADERS, "data__max_excluded": 0.4, "test": flacs.test, "freeze": "none", "max_steps": 1}
    run = tmp_path / "run"
    assert runner(flacs.arguments(run, **options)) == 0, runner.log.read_text()
    assert left_out(run) == [("test", "added")]
    assert [row["id"] for row in read_jsonl(run / "test" / "hypotheses.jsonl")] == ["vm-and", "letters_l"]
    assert {row["utterances"] for row in metrics(run) if row.get("split") == "test"} == {2}


@pytest.mark.parametrize("way", ["stored", pytest.param("computed", marks=pytest.mark.slow)])
def test_two_processes(flacs: Samples, launch: Launcher, tmp_path: Path, way: str) -> None:
    """All agree on the tokens that are there; what is learnt is what one process learns."""
    for name in (TRAIN_IDS[3], VALID_IDS[1]):
        zero_middle(tmp_path / f"{name}.flac")
    one, two = tmp_path / "one", tmp_path / "two"
    options = {**HEADERS, **WAYS[way], "optimizer__max_grad_norm": 0, "max_steps": 3}
    assert launch(flacs.arguments(one, **options, states__folder=tmp_path / "s1"), world_size=1).statuses == [0]
    arguments = flacs.arguments(two, **options | {"accumulation": 1, "states__folder": tmp_path / "s2"})
    ended = launch(arguments, rank=-1, fault="keep_every_state")
    assert ended.statuses == [0, 0], ended.logs
    exact = ("step", "lr", "tokens", "utterances")
    rows = [[{key: row.get(key) for key in exact} for row in metrics(run)] for run in (one, two)]
    assert rows[0] == rows[1]
    assert sum(row["utterances"] for row in step_rows(two)) == len(TRAIN_IDS) - 1
    assert [row["loss"] for row in metrics(two)] == pytest.approx([row["loss"] for row in metrics(one)], rel=1e-3)
    assert distance(state_of(one), state_of(two), "exp_avg/") <= 1e-3 * size(state_of(one), "exp_avg/")
    main, other = state_of(two), state_of(two, "rank-1")
    assert all(torch.equal(tensor, other[name]) for name, tensor in main.items())
    assert sorted(left_out(one)) == sorted(left_out(two)) == [("train", TRAIN_IDS[3]), ("valid", VALID_IDS[1])]
    # A second run reads the rest of the store, and tries the damaged batches again.
    third = tmp_path / "three"
    ended = launch(flacs.arguments(third, **options | {"accumulation": 1, "states__folder": tmp_path / "s2"}))
    assert ended.statuses == [0, 0], ended.logs
    assert outcome(third)["state"] == outcome(two)["state"]


def test_too_many_in_two_processes(flacs: Samples, launch: Launcher, tmp_path: Path) -> None:
    for name in TRAIN_IDS[:2]:
        zero_middle(tmp_path / f"{name}.flac")
    options = {**HEADERS, "data__max_excluded": 0.1, "states__store": "off", "processes__shard": "true"}
    ended = launch(flacs.arguments(tmp_path / "run", **options))
    assert ended.statuses == [2, 2], ended.logs
    (line,) = ended.errors
    assert "2 of 11 rows cannot be used" in line
    assert progress_of(tmp_path / "run")["step"] == len(step_rows(tmp_path / "run"))


def test_evaluate_with_headers_only(
    flacs: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from whispertune.dataset import splits
    from whispertune.evaluation import evaluate as validate

    monkeypatch.setattr(splits, "MOST_DECODED", 0)
    monkeypatch.setattr(validate, "MAX_TOKENS", 40)
    zero_middle(tmp_path / f"{VALID_IDS[1]}.flac")
    arguments = [
        "evaluate", "--model", str(flacs.model), "--data", str(flacs.valid), "--language", "en", "--beam_size", "1",
        "--output", str(tmp_path / "out"),
    ]  # fmt: skip
    assert cli.main(arguments) == 2
    assert "1 of 4 rows cannot be used, more than 5%" in capsys.readouterr().err
    assert not (tmp_path / "out" / "hypotheses.jsonl").exists()
    assert cli.main([*arguments, "--max_excluded", "0.3", "--long_form", "true"]) == 0
    assert [row["id"] for row in read_jsonl(tmp_path / "out" / "excluded.jsonl")] == [VALID_IDS[1]]
    rows = read_jsonl(tmp_path / "out" / "hypotheses.jsonl")
    assert [row["id"] for row in rows] == [name for name in VALID_IDS if name != VALID_IDS[1]]
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["excluded"] == 1


# Whatever else ends a run.


ERRORS: dict[str, Callable[..., Any]] = {
    "an error of ours": lambda *_, **__: (_ for _ in ()).throw(TrainingError("no more")),
    "a bug": lambda *_, **__: [][1],
    "no memory": lambda *_, **__: (_ for _ in ()).throw(MemoryError),
}


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("place", ["backward", "_update", "write"])
def test_the_state_is_saved_before_an_error_ends_the_run(tmp_path: Path, error: str, place: str) -> None:
    """Taken up again the run ends as one that met no error; from within an update nothing is saved."""
    found = []
    for fails in (True, False):
        run = tmp_path / str(fails)
        for attempt in ("first", "second") if fails else ("second",):
            whisper = tiny_whisper()
            trainer = make_trainer(run, whisper, random_states([5] * 8), tiny_targets([3, 4, 5, 6, 3, 4, 5, 6]))
            if attempt == "first":
                calls = 0
                owner = RunLog if place == "write" else type(trainer)
                original = getattr(owner, place)

                def failing(self: Any, *arguments: Any, original: Any = original, **named: Any) -> Any:
                    nonlocal calls
                    calls += 1
                    return ERRORS[error]() if calls == 3 else original(self, *arguments, **named)

                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(owner, place, failing)
                    with pytest.raises((TrainingError, IndexError, MemoryError)):
                        trainer.run()
                assert trainer.state.exists() == (place == "backward")
                if place == "backward":
                    assert progress_of(run)["step"] == 2
                else:
                    shutil.rmtree(run)
            else:
                if trainer.state.exists():
                    from whispertune.training.resume import load_state

                    trainer.progress = load_state(trainer.state, whisper, trainer.learner.optimizer)
                    trainer.log = RunLog(MetricsFile(run / "metrics.jsonl"), trainer.progress.metrics_size)
                    trainer.log.resume()
                trainer.run()
        found.append({name: p.clone() for name, p in whisper.named_parameters()})
        assert [row["step"] for row in step_rows(run)] == [1, 2, 3, 4]
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())
