"""Whole runs on real clips: precisions, augmentation, stitched windows, workers."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path
from typing import Any

import checkpoint_samples
import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from training_samples import (
    PAD_ID,
    Moment,
    Runner,
    Samples,
    fabricated,
    make_trainer,
    metrics,
    outcome,
    progress_of,
    random_states,
    step_rows,
    tiny_targets,
    tiny_whisper,
    valid_rows,
    write_manifest,
)

from whispertune import cli
from whispertune.checkpoints.checkpoint import load_checkpoint
from whispertune.checkpoints.huggingface import save_huggingface
from whispertune.data.audio.waveforms import load_waveform
from whispertune.decoding.loading import load_model
from whispertune.model import layers
from whispertune.run import stages
from whispertune.states.computed import ComputedStates, EncoderStates
from whispertune.system.files import read_jsonl
from whispertune.text.targets import Target, collate_targets
from whispertune.training import loss_scale, working_copy
from whispertune.training import trainer as trainer_module
from whispertune.training.freeze import apply_freeze
from whispertune.training.plan import BatchPlan
from whispertune.training.resume import Progress

AUGMENTED: dict[str, object] = {
    "augment__speed__probability": 0.9,
    "augment__drop_frequency__probability": 0.5,
    "augment__drop_chunk__probability": 0.5,
    "augment__spec_augment__probability": 0.9,
}


@pytest.mark.parametrize(
    ("precision", "freeze"),
    [("fp32", "encoder"), ("bf16", "encoder"), ("bf16", "none"), ("fp16", "encoder"), ("fp16", "none")],
)
def test_every_precision_ends_and_learns(samples: Samples, tmp_path: Path, precision: str, freeze: str) -> None:
    run = tmp_path / "run"
    assert samples.train_run(run, precision=precision, freeze=freeze, epochs=3) == 0
    losses = [row["loss"] for row in valid_rows(run)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 0.5
    assert progress_of(run)["finished"]
    applied = [row for row in step_rows(run) if "lr" in row]
    assert len(applied) + progress_of(run)["skipped"] == 9
    assert progress_of(run)["skipped"] <= (8 if precision == "fp16" else 0)
    assert (progress_of(run)["loss_scale"] is not None) == (precision == "fp16")


def test_precisions_agree(samples: Samples, tmp_path: Path) -> None:
    """The first loss and gradient in bf16 and fp16 are those of fp32, to their precision."""
    first: dict[str, dict[str, Any]] = {}
    for precision in ("fp32", "bf16", "fp16"):
        assert samples.train_run(tmp_path / precision, precision=precision, epochs=1) == 0
        first[precision] = next(row for row in step_rows(tmp_path / precision) if "lr" in row)
    for precision, bound in (("bf16", 0.05), ("fp16", 0.02)):
        assert first[precision]["step"] == 1
        assert first[precision]["loss"] == pytest.approx(first["fp32"]["loss"], rel=bound)
        assert first[precision]["grad_norm"] == pytest.approx(first["fp32"]["grad_norm"], rel=2 * bound)


BATCHES = BatchPlan(2, 1)


def fp16_trainer(folder: Path, progress: Progress, epochs: int = 2) -> Any:
    whisper = tiny_whisper()
    apply_freeze(whisper, "encoder")
    return make_trainer(
        folder, whisper, random_states([20, 30, 40, 50]), tiny_targets([3, 4, 5, 6]), dtype=torch.float16,
        progress=progress, epochs=epochs,
    )  # fmt: skip


def test_the_loss_scale_halves_on_overflow_and_leaves_the_log_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = working_copy.clip_gradients, 0

    def overflowing(parameters: list[torch.Tensor], max_norm: float) -> float:
        nonlocal calls
        calls += 1
        if calls in (2, 3):
            parameters[0].grad[:] = math.inf
        return original(parameters, max_norm)

    monkeypatch.setattr(working_copy, "clip_gradients", overflowing)
    trainer = fp16_trainer(tmp_path / "a", Progress(BATCHES, loss_scale=1024.0), epochs=3)
    trainer.run()
    rows = step_rows(tmp_path / "a")
    assert [row.get("loss_scale") for row in rows] == [None, 512.0, 256.0, None, None, None]
    assert trainer.progress.loss_scale == 256.0
    assert (trainer.progress.step, trainer.progress.skipped) == (4, 2)
    # Losses and norms are those of the unscaled loss.
    reference = fp16_trainer(tmp_path / "b", Progress(BATCHES, loss_scale=1.0), epochs=1)
    reference.run()
    for key in ("loss", "grad_norm"):
        assert rows[0][key] == pytest.approx(step_rows(tmp_path / "b")[0][key], rel=1e-2)


def test_a_process_that_owns_no_parameter_updates_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of few parameters divided among many processes some get none; their gradients have gone to the owners."""
    trainer = fp16_trainer(tmp_path / "a", Progress(BATCHES, loss_scale=1024.0), epochs=1)
    trainer.learner.optimizer.zero_grad(set_to_none=True)
    monkeypatch.setattr("whispertune.training.working_copy.WorkingCopy.clip", lambda self, most: 1.0)
    assert trainer._update() == 1.0
    assert trainer.progress.step == 1


def test_the_loss_scale_grows_after_good_updates_and_has_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss_scale, "GROW_EVERY", 2)
    trainer = fp16_trainer(tmp_path / "a", Progress(BATCHES, loss_scale=64.0))
    trainer.run()
    assert trainer.progress.step == 4
    assert trainer.progress.loss_scale == 64.0 * 4
    monkeypatch.setattr(loss_scale, "LARGEST_LOSS_SCALE", 128.0)
    trainer = fp16_trainer(tmp_path / "b", Progress(BATCHES, loss_scale=64.0))
    trainer.run()
    assert trainer.progress.loss_scale == 128.0
    # It starts at 2^13, and never falls below 1.
    trainer = fp16_trainer(tmp_path / "c", Progress(BATCHES))
    assert trainer.progress.loss_scale == 2.0**13
    monkeypatch.setattr(working_copy, "clip_gradients", lambda parameters, max_norm: math.inf)
    trainer = fp16_trainer(tmp_path / "d", Progress(BATCHES, loss_scale=2.0))
    trainer.run()
    assert trainer.progress.loss_scale == 1.0


# keep_original.


class Recorded:
    """What a run's training batches were made of."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fetched: list[tuple[list[int], int, EncoderStates]] = []
        self.targets: list[list[Target]] = []
        fetch, collate = ComputedStates.fetch, collate_targets

        def recorded_fetch(source: ComputedStates, indices: list[int], view: int = 0) -> EncoderStates:
            states = fetch(source, indices, view)
            self.fetched.append((list(indices), view, states))
            return states

        def recorded_collate(targets: list[Target], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
            self.targets.append(list(targets))
            return collate(targets, pad_id)

        monkeypatch.setattr(ComputedStates, "fetch", recorded_fetch)
        monkeypatch.setattr(trainer_module, "collate_targets", recorded_collate)


def test_keep_original_trains_on_both_copies(samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clean, both = tmp_path / "clean", tmp_path / "both"
    assert samples.train_run(clean, epochs=1, states__store="off") == 0
    recorded = Recorded(monkeypatch)
    augmented = {"augment__spec_augment__probability": 1.0, "augment__keep_original": "true", "states__store": "off"}
    assert samples.train_run(both, epochs=1, **augmented) == 0
    for ours, theirs in zip(step_rows(both), step_rows(clean), strict=True):
        assert ours["tokens"] == 2 * theirs["tokens"]
        assert ours["utterances"] == theirs["utterances"]
    training = [entry for entry in recorded.fetched if entry[1] > 0]
    assert len(training) == len(recorded.targets) == 6
    for (indices, view, states), targets in zip(training, recorded.targets, strict=True):
        half = len(indices)
        assert view == 1
        assert len(states.states) == len(targets) == 2 * half
        assert targets[:half] == targets[half:]
        # SpecAugment keeps the length: the two copies differ in what they hold only.
        assert states.log_weights is not None
        assert torch.equal(states.log_weights[:half], states.log_weights[half:])
        assert not torch.equal(states.states[:half], states.states[half:])


def test_the_first_half_of_a_keep_original_batch_is_clean(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = Recorded(monkeypatch)
    assert samples.train_run(tmp_path / "clean", epochs=1, states__store="off") == 0
    clean = {tuple(i): states for i, view, states in recorded.fetched if view == 1}
    recorded.fetched.clear()
    arguments = {**AUGMENTED, "augment__keep_original": "true", "states__store": "off"}
    assert samples.train_run(tmp_path / "both", epochs=1, **arguments) == 0
    for indices, view, states in recorded.fetched:
        if view == 1:
            expected = clean[tuple(indices)].states
            frames = expected.shape[1]
            weights = clean[tuple(indices)].log_weights
            assert weights is not None
            real = weights > -1000
            found = states.states[: len(indices), :frames]
            torch.testing.assert_close(found[real], expected[real], rtol=1e-4, atol=1e-5)


def test_one_update_with_keep_original_is_the_mean_over_both_copies(tmp_path: Path) -> None:
    """Labels are replicated, and the loss is per token of all copies."""
    states, targets = random_states([20, 30, 40, 50]), tiny_targets([3, 9])

    class Copies:
        def prepare(self, batches: list[list[int]], view: int = 0) -> None:
            pass

        def fetch(self, indices: list[int], view: int = 0) -> EncoderStates:
            return states.fetch([*indices, *(i + 2 for i in indices)])

    whisper = tiny_whisper()
    apply_freeze(whisper, "encoder")
    with torch.no_grad():
        total = 0.0
        for row, target in ((0, targets[0]), (1, targets[1]), (2, targets[0]), (3, targets[1])):
            fetched = states.fetch([row])
            input_ids, labels = collate_targets([target], PAD_ID)
            logits = whisper.decoder.logits(whisper.decoder(input_ids, fetched.states, fetched.log_weights))
            total += torch.nn.functional.cross_entropy(logits[0], labels[0], reduction="sum").item()
    make_trainer(tmp_path, whisper, Copies(), targets, copies=2).run()
    (row,) = step_rows(tmp_path)
    assert row["tokens"] == 2 * (3 + 9 + 2)
    assert row["loss"] == pytest.approx(total / row["tokens"], rel=1e-5)


# What must not matter, and what must.


def test_augmented_runs_are_the_same_for_any_number_of_workers(samples: Samples, tmp_path: Path) -> None:
    outcomes = []
    for workers in (1, 3):
        run = tmp_path / str(workers)
        assert samples.train_run(run, data__workers=workers, **AUGMENTED) == 0
        outcomes.append(outcome(run))
    assert outcomes[0] == outcomes[1]


def test_runs_that_train_the_encoder_are_the_same_for_any_number_of_workers(samples: Samples, tmp_path: Path) -> None:
    outcomes = []
    for workers in (1, 3):
        run = tmp_path / str(workers)
        assert samples.train_run(run, epochs=1, freeze="none", data__workers=workers) == 0
        outcomes.append(outcome(run))
    assert outcomes[0] == outcomes[1]


def whatever_the_recipe(run: Path) -> list[Any]:
    """What must be the same of two runs whose recipes differ: the best model's checksums name its recipe's digest."""
    found = outcome(run)
    found["files"].pop("best/checksums.json", None)
    return [found[part] for part in ("metrics", "state", "files")]


def test_recomputed_activations_change_no_result(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    original = layers.checkpoint

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        return original(*arguments, **named)

    monkeypatch.setattr(layers, "checkpoint", counted)
    runs = [tmp_path / name for name in ("kept", "again")]
    for run, recompute in zip(runs, (False, True), strict=True):
        assert samples.train_run(run, freeze="none", epochs=1, recompute=recompute) == 0
        assert (calls > 0) == recompute
    assert whatever_the_recipe(runs[0]) == whatever_the_recipe(runs[1])


@pytest.mark.parametrize("part", ["drop_chunk", "drop_frequency", "spec_augment"])
def test_augmentation_differs_by_epoch_and_seed(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    manifest = write_manifest(tmp_path / "one.csv", "train", ["agent-incorrect"])
    recorded = Recorded(monkeypatch)
    views: list[torch.Tensor] = []
    for seed, epochs in ((0, 3), (1, 1)):
        recorded.fetched.clear()
        fields: dict[str, object] = {f"augment__{part}__probability": 1.0, "seed": seed, "epochs": epochs}
        assert samples.train_run(tmp_path / str(seed), train=manifest, **fields) == 0
        views += [states.states for _, view, states in recorded.fetched if view > 0]
    assert len(views) == 4
    for number, view in enumerate(views):
        assert not any(torch.equal(view, other) for other in views[:number])


def test_seeds_decide_the_order(samples: Samples, tmp_path: Path) -> None:
    for seed in (0, 1):
        assert samples.train_run(tmp_path / str(seed), seed=seed, epochs=1) == 0
    assert [row["tokens"] for row in step_rows(tmp_path / "0")] != [row["tokens"] for row in step_rows(tmp_path / "1")]


def test_stored_states_train_as_fresh_ones(samples: Samples, tmp_path: Path) -> None:
    """What the store keeps is what would be encoded anew."""
    for store in ("memory", "off"):
        assert samples.train_run(tmp_path / store, states__store=store) == 0
    for ours, theirs in zip(metrics(tmp_path / "memory"), metrics(tmp_path / "off"), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)


def test_stitched_windows_in_a_run(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = trainer_module.collate_targets
    lengths: list[int] = []

    def collate(targets: list[Target], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
        lengths.extend(len(target.input_ids) for target in targets)
        return original(targets, pad_id)

    monkeypatch.setattr(trainer_module, "collate_targets", collate)
    run = tmp_path / "run"
    assert samples.train_run(run, epochs=1, windows__stitched_share=0.3) == 0
    # 0.3 of all windows, so 0.3 / 0.7 of the 11 clips.
    assert "16 windows (5 stitched, " in capsys.readouterr().err
    assert len(lengths) == 16
    assert sum(row["utterances"] for row in step_rows(run)) == 16


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_a_run_without_timestamps_says_what_that_may_cost(
    samples: Samples, tmp_path: Path, capsys: pytest.CaptureFixture[str], share: float
) -> None:
    extra = {"windows__stitched_share": share, "windows__timestamps": 1.0}
    assert samples.train_run(tmp_path / "run", epochs=1, max_steps=1, **extra) == 0
    assert ("no timestamps are trained" in capsys.readouterr().err) == (share == 0)


def segments_of(samples: Samples, folder: Path) -> Path:
    """The training clips as segments of one recording, each with start and end."""
    folder.mkdir()
    with samples.train.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    waveforms = [load_waveform(Path(row["audio"])) for row in rows]
    soundfile.write(folder / "whole.wav", np.concatenate(waveforms), 16000)
    ends = np.cumsum([len(waveform) / 16000 for waveform in waveforms]).tolist()
    with (folder / "segments.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["audio", "text", "start", "end"])
        for row, start, end in zip(rows, [0.0, *ends], ends, strict=False):
            writer.writerow(["whole.wav", row["text"], f"{start:.4f}", f"{end:.4f}"])
    return folder / "segments.csv"


def test_segments_of_recordings_train_timestamps_unasked_and_resume_to_the_bit(
    samples: Samples, tmp_path: Path, runner: Runner
) -> None:
    """What auto took is printed, the recipe keeps auto, and a run that is killed finds the same windows again."""
    manifest = segments_of(samples, tmp_path / "data")
    extra = {"windows__min_utterances": 2, "windows__timestamps": 1.0, "checkpoint__every_steps": 1}
    whole, killed = (
        [*samples.arguments(tmp_path / name, **extra), f"--train={manifest}"] for name in ("whole", "killed")
    )
    whole, killed = ([a for a in command if a != f"--train={samples.train}"] for command in (whole, killed))
    assert runner(whole) == 0, runner.log.read_text()
    shown = runner.log.read_text()
    assert "windows.stitched_share auto: 0.15" in " ".join(shown.split())
    assert "2 stitched, 2 with timestamps" in shown
    assert "stitched_share: auto" in (tmp_path / "whole" / "recipe.yaml").read_text(encoding="utf-8")
    assert runner(killed, Moment("whispertune.training.trainer", "Trainer.backward", 6)) != 0
    assert runner(["resume", str(tmp_path / "killed")]) == 0, runner.log.read_text()
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


def test_clips_alone_train_as_with_no_stitching(samples: Samples, tmp_path: Path) -> None:
    outcomes = []
    for name, extra in {"auto": {}, "none": {"windows__stitched_share": 0.0}}.items():
        assert samples.train_run(tmp_path / name, epochs=1, **extra) == 0
        outcomes.append(whatever_the_recipe(tmp_path / name))
    assert outcomes[0] == outcomes[1]


def test_timestamps_follow_the_augmented_copy(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of each pair of a clean and an augmented copy (fresh ones, and stored views) the second one's times differ."""
    original = trainer_module.collate_targets
    batches: list[list[Target]] = []

    def collate(targets: list[Target], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
        batches.append(targets)
        return original(targets, pad_id)

    monkeypatch.setattr(trainer_module, "collate_targets", collate)
    begin = checkpoint_samples.SPECIALS["<|notimestamps|>"] + 1
    extra = {
        "windows__stitched_share": 0.3, "windows__timestamps": 1.0, "windows__previous_text": 1.0, "epochs": 2,
        "windows__min_utterances": 2, "windows__max_utterances": 2,  # few, so that each finds one that shares none
        "augment__keep_original": "true", "augment__speed__probability": 1.0, "augment__speed__factors": "[0.8,0.9]",
    }  # fmt: skip
    found: dict[str, list[tuple[list[int], list[int]]]] = {}
    for views in ("fresh", "1"):
        batches.clear()
        assert samples.train_run(tmp_path / views, **extra, augment__views=views) == 0
        assert "(5 stitched, 5 with timestamps, 5 with a previous text)" in capsys.readouterr().err
        found[views] = []
        for batch in batches:
            for clean, augmented in zip(batch[: len(batch) // 2], batch[len(batch) // 2 :], strict=True):
                ours, theirs = ([token - begin for token in t.input_ids if token >= begin] for t in (clean, augmented))
                assert clean.num_target_tokens == augmented.num_target_tokens
                assert len(ours) == len(theirs)
                if ours:
                    assert theirs != ours
                    assert theirs[-1] > ours[-1]  # played slower
                    found[views].append((ours, theirs))
        assert len(found[views]) == 10
    assert len({tuple(theirs) for _, theirs in found["fresh"]}) > 5  # another one in the second epoch
    assert len({tuple(theirs) for _, theirs in found["1"]}) == 5


@pytest.mark.parametrize("extra", [{}, AUGMENTED, {"windows__timestamps": 0.6, "windows__previous_text": 0.6}])
def test_stitched_runs_repeat_exactly(samples: Samples, tmp_path: Path, extra: dict[str, object]) -> None:
    outcomes = []
    for name, workers in (("a", 1), ("b", 2)):
        run = tmp_path / name
        status = samples.train_run(run, epochs=1, windows__stitched_share=0.3, data__workers=workers, **extra)
        assert status == 0
        outcomes.append(outcome(run))
    assert outcomes[0] == outcomes[1]


def test_a_warm_up_longer_than_the_run_is_told(
    samples: Samples, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert samples.train_run(tmp_path / "run", schedule__warmup_steps=500, epochs=1) == 0
    shown = capsys.readouterr().err
    (line,) = [line for line in shown.splitlines() if "warm-up is longer than the whole run" in line]
    assert "6e-06" in line  # what it reaches: 1e-3 x 3 / 500
    assert line.endswith("or train longer")


def test_max_steps_ends_the_run(samples: Samples, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert samples.train_run(run, epochs=50, max_steps=4) == 0
    assert [row["step"] for row in step_rows(run)] == [1, 2, 3, 4]
    assert [(row["step"], row["epoch"]) for row in valid_rows(run)] == [(0, 0), (3, 1), (4, 2)]
    assert progress_of(run)["finished"]


def test_a_tiny_model_learns_three_clips_by_heart(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole path learns, and learns to stop: hypotheses of the clips it was trained on are right and end."""
    monkeypatch.setattr(stages, "evaluate_split", lambda *arguments, **named: [fabricated([1])])
    chosen = ("hello", "digits_7", "digits_30")
    # Many copies, so that few epochs, each of which saves best/, hold many updates.
    manifest = write_manifest(tmp_path / "train.csv", "train", chosen, times=100)
    run = tmp_path / "run"
    status = samples.train_run(
        run, train=manifest, epochs=2, batch_size=3, accumulation=1, schedule__peak_lr=2e-3, freeze="none",
        schedule__warmup_steps=20,
    )  # fmt: skip
    assert status == 0
    assert step_rows(run)[-1]["loss"] < 0.1
    output = tmp_path / "evaluation"
    manifest = write_manifest(tmp_path / "three.csv", "train", chosen)
    arguments = {"model": run, "data": manifest, "language": "en", "beam_size": 1, "precision": "fp32"}
    flags = [f"--{name}={value}" for name, value in arguments.items()]
    # Trained from random weights on thinned windows alone, it need not know dense ones.
    assert cli.main(["evaluate", *flags, "--frames.selection=thinned", f"--output={output}"]) == 0
    rows = read_jsonl(output / "hypotheses.jsonl")
    assert [row["hypothesis"] for row in rows] == [row["reference"] for row in rows]
    assert all(row["ended"] for row in rows)


@pytest.mark.parametrize("empty_text", ["keep", "exclude"])
def test_what_is_taught_to_say_nothing_can(samples: Samples, tmp_path: Path, empty_text: str) -> None:
    """Whisper's generation config forbids to end before a first token; a run that keeps empty texts lifts that."""
    run = tmp_path / "run"
    assert samples.train_run(run, data__empty_text=empty_text, max_steps=2) == 0
    config = json.loads((run / "best" / "generation_config.json").read_text(encoding="utf-8"))
    ready = load_model(str(run), torch.device("cpu"))
    first = ready.rules.log_probs(torch.zeros(1, ready.tokenizer.vocab_size), first=True)[0]
    eot = ready.tokenizer.eot
    assert (eot in config.get("begin_suppress_tokens", [])) == (empty_text == "exclude")
    assert (first[eot] == -torch.inf) == (empty_text == "exclude")


def test_an_english_only_model_refuses_rows_in_another_language(
    samples: Samples, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = samples.train.read_text(encoding="utf-8").splitlines()
    other = [f"{lines[0]},language", *(f"{line},en" for line in lines[1:-1]), f"{lines[-1]},it"]
    manifest = tmp_path / "train.csv"
    manifest.write_text("\n".join(other) + "\n", encoding="utf-8")
    assert samples.train_run(tmp_path / "run", train=manifest) == 2
    assert "this model is English-only and does not have 'it'" in capsys.readouterr().err


def test_the_test_scores_what_is_stored(samples: Samples, tmp_path: Path) -> None:
    """Also of a frozen encoder that is stored in a narrower type than it was trained with."""
    run = tmp_path / "run"
    assert samples.train_run(run, test=samples.test, checkpoint__dtype="bfloat16", epochs=1, search__beam_size=1) == 0
    flags = [f"--model={run}", f"--data={samples.test}", "--language=en", "--precision=fp32", "--beam_size=1"]
    assert cli.main(["evaluate", *flags, f"--output={tmp_path / 'again'}"]) == 0
    flags[0] = f"--model={samples.model}"
    assert cli.main(["evaluate", *flags, f"--output={tmp_path / 'before'}"]) == 0
    for name, again in (("hypotheses", "again"), ("hypotheses_baseline", "before")):
        rows, others = read_jsonl(run / "test" / f"{name}.jsonl"), read_jsonl(tmp_path / again / "hypotheses.jsonl")
        assert [row["hypothesis"] for row in rows] == [row["hypothesis"] for row in others]
        assert [row["log_prob"] for row in rows] == pytest.approx([row["log_prob"] for row in others], rel=1e-6)


def test_a_model_of_several_types_is_not_rounded(samples: Samples, tmp_path: Path) -> None:
    """Its embedding is in float16, its encoder in float32: best/ keeps the encoder's bits."""
    source, mixed = load_checkpoint(str(samples.model)), shutil.copytree(samples.model, tmp_path / "mixed")
    weights = {n: w.half() if "embed_tokens" in n else w.contiguous() for n, w in source.weights.items()}
    save_file(weights, mixed / "model.safetensors", metadata={"format": "pt"})
    assert samples.train_run(tmp_path / "run", model=mixed, epochs=1) == 0
    best = load_checkpoint(str(tmp_path / "run")).weights
    assert {weight.dtype for weight in best.values()} == {torch.float32}
    assert all(torch.equal(best[n], w) for n, w in source.weights.items() if n.startswith("model.encoder."))


def test_best_is_stored_as_the_pretrained_model_is(samples: Samples, tmp_path: Path) -> None:
    """Or as asked; the training state, which is in float32, is the same, and exports hold what best/ does."""
    source, half = load_checkpoint(str(samples.model)), tmp_path / "half"
    save_huggingface(half, source, source.weights, language=None, model_card=None, dtype=torch.float16)
    runs = {"auto": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
    states = []
    for name, dtype in runs.items():
        run = tmp_path / name
        assert samples.train_run(run, model=half, checkpoint__dtype=name, epochs=1) == 0
        states.append(load_file(run / "last" / "state.safetensors"))
        best = load_checkpoint(str(run)).weights
        assert {weight.dtype for weight in best.values()} == {dtype}
        learned = {n.removeprefix("parameter/"): w for n, w in states[-1].items() if n.startswith("parameter/")}
        assert learned
        assert all(torch.equal(best[n], weight.to(dtype)) for n, weight in learned.items())
        for to in ("huggingface", "ctranslate2"):
            output = tmp_path / f"{name} {to}"
            assert cli.main(["export", f"--model={run}", f"--to={to}", f"--output={output}"]) == 0
            exported = load_checkpoint(str(output)).weights
            assert all(torch.equal(exported[n].float(), weight.float()) for n, weight in best.items())
    for state in states[1:]:
        assert all(torch.equal(state[n], weight) for n, weight in states[0].items())
    # A run may go on in another type.
    assert samples.train_run(tmp_path / "auto", model=half, checkpoint__dtype="float32", epochs=1) == 0
