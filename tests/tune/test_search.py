"""The search with fabricated runs: which trials there are, which wins, what is kept, what is said."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from whispertune.errors import Interrupted, RunFolderError, Stopped, TrainingError
from whispertune.run.flags import parse_fields
from whispertune.run.recipe import Recipe
from whispertune.run.run_folder import RunFolder
from whispertune.run.yaml_fields import load_yaml
from whispertune.system.files import write_jsonl, write_text
from whispertune.training.metrics import EvaluationRow, MetricsFile, Sink
from whispertune.training.plan import BatchPlan
from whispertune.training.resume import Progress, save_state
from whispertune.tune import search as search_module
from whispertune.tune.confirmation import conclude
from whispertune.tune.options import TuneOptions
from whispertune.tune.pruning import Pruning
from whispertune.tune.search import Search
from whispertune.tune.space import Space

UTTERANCES = 60
SMOOTHING = "loss.label_smoothing=0|0.1|0.2"
WEIGHT_DECAY = "optimizer.weight_decay=0.001..0.5 log"
Errors = Callable[[Recipe, int], Sequence[int]]
"""The errors in each utterance after an epoch."""


class Runs:
    """Trains nothing: writes what a run writes. errors: of 10 words in each utterance."""

    def __init__(self, errors: Errors, log: Path | None = None, seconds: float = 0.0) -> None:
        self.errors, self.log, self.seconds = errors, log, seconds
        self.names: list[str] = []

    def __call__(self, recipe: Recipe, sinks: Sequence[Sink]) -> int:
        folder = RunFolder(Path(recipe.output))
        self.names.append(folder.path.name)
        if self.log is not None:
            with self.log.open("a") as log:
                log.write(f"{folder.path.name}\n")
        time.sleep(self.seconds)
        folder.create()
        write_text(folder.recipe, "")
        file = MetricsFile(folder.metrics)
        file.path.unlink(missing_ok=True)
        progress = Progress(BatchPlan(1, 1))
        for epoch in range(1, recipe.epochs + 1):
            errors = self.errors(recipe, epoch)
            rows = [
                {"id": f"u{n}", "word_errors": wrong, "words": 10, "leads_with_cer": False}
                for n, wrong in enumerate(errors)
            ]
            write_jsonl(folder.validation(epoch), rows)
            rate = sum(errors) / (10 * UTTERANCES)
            row = EvaluationRow(
                step=epoch, epoch=epoch, split="valid", model="epoch", frames="thinned", wer=rate, cer=rate,
                wer_raw=rate, cer_raw=rate, wer_interval=[0, 1], cer_interval=[0, 1], leading="WER", leading_rate=rate,
                loss=1.0, loops=0, capped=0, utterances=UTTERANCES, beam_size=1, seconds=1.0,
            )  # fmt: skip
            for sink in (file, *sinks):
                sink.write(row)
            if progress.best_rate is None or rate <= progress.best_rate:
                progress.best_rate, progress.best_step, progress.best_epoch = rate, epoch, epoch
        folder.best.mkdir(exist_ok=True)
        (folder.best / "model.safetensors").touch()
        progress.metrics_size = file.size()
        linear = torch.nn.Linear(1, 1)
        save_state(folder.state, linear, torch.optim.SGD(linear.parameters()), progress)
        return 0


def by_smoothing(recipe: Recipe, epoch: int = 1) -> list[int]:
    """2 errors of 10 words, fewer with more smoothing."""
    fewer = {0.0: 0, 0.1: 20, 0.2: 40}[recipe.loss.label_smoothing]
    return [2] * (UTTERANCES - fewer) + [1] * fewer


def options_of(path: Path, *space: str, **fields: Any) -> TuneOptions:
    path.mkdir(exist_ok=True)
    given = {"epochs": 1, "trials": 8, **fields}
    return TuneOptions(model="m", train="t", valid="v", output=str(path), space=space, **given)


def search_of(path: Path, run: Any, *space: str, **fields: Any) -> Search:
    options = options_of(path, *space, **fields)
    return Search(path, Space(options.recipe, options.space, 512), run, options)


def searched(path: Path, run: Any, *space: str, **fields: Any) -> dict[str, Any]:
    """The summary of a whole search."""
    search = search_of(path, run, *space, **fields)
    search.run()
    conclude(search, run, "next:  train")
    found: dict[str, Any] = json.loads((path / "summary.json").read_text())
    return found


def test_the_lowest_wins_and_is_confirmed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = Runs(by_smoothing)
    found = searched(tmp_path, runs, SMOOTHING, WEIGHT_DECAY)
    rates = {trial["trial"]: trial["rate"] for trial in found["trials"] if trial["state"] == "complete"}
    best = min(rates, key=lambda number: (rates[number], number))
    assert len(found["trials"]) == 8
    assert rates[0] == pytest.approx(0.2)
    assert rates[best] == pytest.approx(0.2 - 40 / 600)
    assert (found["chosen"], found["confirmed"]["winner"]) == (best, best)
    assert runs.names[8:] == [f"trial-{number:04d}-seed-{seed}" for seed in (1, 2) for number in (0, best)]
    said = " ".join(capsys.readouterr().out.split())
    assert f"trial {best} against the recipe as it is, on 2 fresh seeds: -6.7 points" in said
    assert "better beyond chance" in said
    assert "nothing beats" not in said
    recipe = parse_fields(Recipe, load_yaml(tmp_path / "best.yaml"), [], command="train")
    assert (recipe.loss.label_smoothing, recipe.seed, recipe.output) == (0.2, 0, str(tmp_path / "tuned"))
    # Of models and states only the best trial's model is left.
    assert list(tmp_path.rglob("*.safetensors")) == [tmp_path / f"trial-{best:04d}" / "best" / "model.safetensors"]
    # Again: nothing is trained, and more trials go on where these ended.
    assert searched(tmp_path, runs, SMOOTHING, WEIGHT_DECAY)["trials"] == found["trials"]
    assert len(runs.names) == 12
    assert searched(tmp_path, runs, SMOOTHING, WEIGHT_DECAY, trials=10)["trials"][:8] == found["trials"]
    assert runs.names[12:14] == ["trial-0008", "trial-0009"]


def test_a_winner_by_luck_is_said_to_be_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def lucky(recipe: Recipe, epoch: int) -> list[int]:
        return by_smoothing(recipe) if recipe.seed == 0 else [2] * UTTERANCES

    found = searched(tmp_path, Runs(lucky), SMOOTHING)
    said = " ".join(capsys.readouterr().out.split())
    assert found["chosen"] == 0 != found["confirmed"]["winner"]
    assert "nothing beats the recipe as it is beyond chance best.yaml holds the recipe as it is" in said


def test_nothing_is_better(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = Runs(lambda recipe, epoch: [2] * UTTERANCES)
    found = searched(tmp_path, runs, SMOOTHING, trials=3)
    assert (found["chosen"], "confirmed" in found, len(runs.names)) == (0, False, 3)
    assert "nothing beats the recipe as it is: no trial has a lower" in " ".join(capsys.readouterr().out.split())


def test_trials_that_lag_behind_are_pruned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def slow(recipe: Recipe, epoch: int) -> list[int]:
        return [9 - epoch if recipe.optimizer.weight_decay == 0.01 else 9] * UTTERANCES

    found = searched(tmp_path, Runs(slow), WEIGHT_DECAY, epochs=4, trials=4)
    assert [(trial["state"], trial["note"]) for trial in found["trials"]] == [("complete", None)] + 3 * [
        ("pruned", "pruned")
    ]
    assert capsys.readouterr().out.count("pruned at 90.0 % after epoch ") == 3
    for number, epochs in ((0, 4), (1, 1)):
        assert len((tmp_path / f"trial-{number:04d}" / "metrics.jsonl").read_text().splitlines()) == epochs


def test_the_recipe_as_it_is_is_never_pruned(tmp_path: Path) -> None:
    class Judge:
        def __init__(self) -> None:
            self.reports: list[tuple[float, int]] = []

        def report(self, value: float, step: int) -> None:
            self.reports.append((value, step))

        def should_prune(self) -> bool:
            return True

    def runs_with(sink: Sink) -> None:
        recipe = Recipe(model="m", train="t", valid="v", output=str(tmp_path / "run"), epochs=3)
        Runs(by_smoothing)(recipe, [sink])

    judge = Judge()
    runs_with(Pruning(judge, 1, lambda: True, to_the_end=True))  # resumed after its first epoch
    assert judge.reports == [(0.2, 2), (0.2, 3)]
    with pytest.raises(Stopped, match="pruned"):
        runs_with(Pruning(judge, 0, lambda: False, to_the_end=False))


def test_minutes(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock on which an epoch takes a second, however busy the machine is."""
    now = 0.0

    def a_second_later(recipe: Recipe, epoch: int) -> Sequence[int]:
        nonlocal now
        now += 1
        return by_smoothing(recipe, epoch)

    monkeypatch.setattr(search_module, "time", SimpleNamespace(monotonic=lambda: now, sleep=time.sleep))
    runs = Runs(a_second_later)
    found = searched(tmp_path, runs, WEIGHT_DECAY, trials=1000, minutes=1)
    assert 2 <= len(found["trials"]) < 60
    assert now <= 60
    # There is no time for more than the recipe as it is.
    found = searched(tmp_path / "short", runs, WEIGHT_DECAY, trials=1000, minutes=1e-6)
    assert [trial["trial"] for trial in found["trials"]] == [0]
    assert "the time was up after 1 of 1,000 trials" in " ".join(capsys.readouterr().out.split())


def test_a_trial_that_runs_when_the_time_is_up_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = search_of(tmp_path, Runs(by_smoothing), WEIGHT_DECAY, epochs=3, trials=3, minutes=1)
    asked = iter([False, True])  # before the second trial, and after its first epoch
    monkeypatch.setattr(search, "time_is_up", lambda: next(asked, True))
    search.run()
    states = [(trial.state.name, trial.user_attrs.get("note")) for trial in search.trials()]
    assert states == [("COMPLETE", None), ("PRUNED", "out of time")]


def _search_in_a_process(path: Path, log: Path) -> None:
    search_of(path, Runs(by_smoothing, log, seconds=0.02), SMOOTHING, WEIGHT_DECAY, trials=12).run()
    os._exit(0)


def test_two_processes_share_the_trials(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    log = tmp_path / "log"
    processes = [context.Process(target=_search_in_a_process, args=(tmp_path / "search", log)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert sorted(log.read_text().split()) == [f"trial-{number:04d}" for number in range(12)]
    found = searched(tmp_path / "search", Runs(by_smoothing), SMOOTHING, WEIGHT_DECAY, trials=12)
    settings = [trial["settings"] for trial in found["trials"]]
    assert len(set(settings)) == 12


def test_a_killed_trial_is_taken_up_by_the_next_process(tmp_path: Path) -> None:
    def killed(recipe: Recipe, sinks: Sequence[Sink]) -> int:
        if recipe.output.endswith("2"):
            raise SystemExit  # as a kill, nothing is recorded
        return Runs(by_smoothing)(recipe, sinks)

    with pytest.raises(SystemExit):
        search_of(tmp_path, killed, WEIGHT_DECAY, trials=4).run()
    runs = Runs(by_smoothing)
    found = searched(tmp_path, runs, WEIGHT_DECAY, trials=4)
    assert runs.names == ["trial-0002", "trial-0003"]
    alone = searched(tmp_path / "alone", runs, WEIGHT_DECAY, trials=4)
    assert [trial["settings"] for trial in found["trials"]] == [trial["settings"] for trial in alone["trials"]]


def test_another_process_is_still_busy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search = search_of(tmp_path, Runs(by_smoothing), WEIGHT_DECAY, trials=2)
    search.run()
    held = search.hold("confirmation")
    conclude(search, Runs(by_smoothing), "next")
    assert "the one that ends last confirms the winner" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "best.yaml").exists()
    assert held is not None


def test_runs_that_fail(tmp_path: Path) -> None:
    def failing(recipe: Recipe, sinks: Sequence[Sink]) -> int:
        if recipe.loss.label_smoothing == 0.1:
            raise TrainingError("20 updates in a row")
        return Runs(by_smoothing)(recipe, sinks)

    found = searched(tmp_path, failing, SMOOTHING)
    assert {trial["settings"]: trial["note"] for trial in found["trials"]}["loss.label_smoothing=0.1"] == (
        "20 updates in a row"
    )
    assert found["confirmed"]["winner"] == found["chosen"] > 0
    with pytest.raises(TrainingError):  # the recipe as it is has to work
        searched(tmp_path / "other", failing, "epochs=1..3", loss=replace(search_loss(), label_smoothing=0.1))
    with pytest.raises(Interrupted):
        searched(tmp_path / "stopped", lambda recipe, sinks: 1, SMOOTHING)


def search_loss() -> Any:
    return Recipe(model="m", train="t", valid="v", output="o").loss


def test_a_run_that_cannot_be_resumed_starts_anew(tmp_path: Path) -> None:
    runs, calls = Runs(by_smoothing), 0

    def damaged(recipe: Recipe, sinks: Sequence[Sink]) -> int:
        nonlocal calls
        calls += 1
        if calls == 2:
            runs(recipe, [])
            raise RunFolderError("the training state is damaged")
        return runs(recipe, sinks)

    assert len(searched(tmp_path, damaged, WEIGHT_DECAY, trials=3)["trials"]) == 3
    assert runs.names[:4] == ["trial-0000", "trial-0001", "trial-0001", "trial-0002"]


def test_no_settings_are_tried_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = searched(tmp_path, Runs(by_smoothing), SMOOTHING, trials=20)
    assert sorted(trial["settings"] for trial in found["trials"]) == [
        "loss.label_smoothing=0.1", "loss.label_smoothing=0.2", "the recipe as it is",
    ]  # fmt: skip
    assert "the space is exhausted" in " ".join(capsys.readouterr().err.split())


def test_a_torn_line_of_the_journal_is_dropped(tmp_path: Path) -> None:
    search_of(tmp_path, Runs(by_smoothing), WEIGHT_DECAY, trials=2).run()
    with (tmp_path / "journal.log").open("a") as journal:
        journal.write('{"op_code": 5, "wor')
    assert len(searched(tmp_path, Runs(by_smoothing), WEIGHT_DECAY, trials=3)["trials"]) == 3
