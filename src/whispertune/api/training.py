"""Runs: dividing a corpus, training on it, and what a run folder holds."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whispertune.api.fields import dotted, options_of
from whispertune.api.model import Model, load
from whispertune.commands import split as split_command
from whispertune.commands import train as train_command
from whispertune.data.audio.waveforms import Waveform, load_utterance
from whispertune.errors import DataError, RecipeError
from whispertune.report.before_after import leading_counts
from whispertune.report.runs import read_run
from whispertune.report.summary import summarise
from whispertune.run.recipe import Recipe, from_recipes_folder
from whispertune.run.run_folder import RunFolder
from whispertune.run.yaml_fields import flatten, load_yaml
from whispertune.system.files import read_jsonl


@dataclass(frozen=True, slots=True)
class Run:
    """A run folder, of a finished run or of one in progress."""

    path: Path

    def metrics(self, split: str | None = None) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl: one for each update, one for each evaluation (those have a `split`).

        split: only the evaluations of `valid`, `test`, or another test set.
        """
        rows = read_jsonl(RunFolder(self.path).metrics)
        return rows if split is None else [row for row in rows if row.get("split") == split]

    def frame(self) -> Any:
        """The same as a pandas DataFrame; needs pandas."""
        return importlib.import_module("pandas").DataFrame(self.metrics())

    def summary(self) -> str:
        """The result in a sentence, and what to do next, as the report says it.

        Raises:
            UserError: if there is no run here, or nothing has been measured yet.
        """
        found = summarise(read_run(self.path))
        return "\n".join([found.opening, *(f"- {line}" for line in found.advice)])

    def comparison(self) -> list[dict[str, Any]]:
        """Each utterance of test (without a test: of valid) before and after training, the most improved ones first.

        Fields: `id`, `reference`, the hypotheses `before` and `after`, and their word errors `errors_before` and
        `errors_after` (characters for languages that are judged by CER).
        """
        found = read_run(self.path).transcripts
        rows = [
            {
                "id": after["id"], "reference": after["reference"],
                "before": before["hypothesis"], "after": after["hypothesis"],
                "errors_before": leading_counts(before)[0], "errors_after": leading_counts(after)[0],
            }
            for before, after in (found.matched if found is not None else ())
        ]  # fmt: skip
        return sorted(rows, key=lambda row: row["errors_after"] - row["errors_before"])

    def waveform(self, utterance_id: str) -> Waveform:
        """The recording of an utterance in `comparison`: (num_samples,) float32 at 16 kHz.

        Raises:
            UserError: if it is not there, or its recording cannot be read.
        """
        run = read_run(self.path)
        utterances = {} if run.transcripts is None else run.utterances(run.transcripts.split)
        if utterance_id not in utterances:
            raise DataError(f"{utterance_id}: no such utterance among those that the run was tested on")
        return load_utterance(utterances[utterance_id])

    def model(self) -> Model:
        """The best model so far."""
        return load(self.path)


def train(recipe: str | Path | Mapping[str, Any] | None = None, **fields: Any) -> Run:
    """Fine-tune a model, or continue a run that was interrupted, as `whispertune train` does.

    recipe: a YAML file, or its content. fields: of the recipe, which override it (`schedule__peak_lr=1e-5`).

    Raises:
        UserError: whatever is wrong with recipe, model or data.
        KeyboardInterrupt: if it was stopped; its state has been saved, and the same call continues it.
    """
    given: dict[str, Any] = {}
    if isinstance(recipe, str | Path):
        given = from_recipes_folder(load_yaml(Path(recipe)), Path(recipe))
    elif recipe is not None:
        given = flatten(recipe)
    parsed = options_of(Recipe, {**given, **dotted(fields)}, "train")
    if parsed.seeds is not None:
        raise RecipeError("is for the command; call train once for each seed", field="seeds")
    if train_command.run(parsed):
        raise KeyboardInterrupt(f"stopped; continue with: {RunFolder(Path(parsed.output)).resume_command}")
    return Run(Path(parsed.output))


def split_corpus(data: str | Path, output: str | Path, **fields: Any) -> dict[str, Path]:
    """Divide a corpus as `whispertune split` does; the manifests by name, for `train(**split_corpus(…), …)`.

    data: a manifest or a folder. fields: of the command, such as valid=0.1, test="30min" or by="speaker".

    Raises:
        UserError: whatever is wrong with fields, data or folder.
    """
    given = {"output": str(output), **dotted(fields)}
    split_command.main([str(data), *(f"--{name}={value}" for name, value in given.items())])
    files = {name: Path(output) / f"{name}.jsonl" for name in ("train", "valid", "test")}
    return {name: file for name, file in files.items() if file.exists()}
