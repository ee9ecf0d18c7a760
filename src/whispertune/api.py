"""Python API for notebooks and scripts: the commands' own functions.

    import whispertune

    run = whispertune.train(
        model="openai/whisper-base", train="train.csv", valid="valid.csv", language="it", output="runs/first",
        schedule__peak_lr=1e-5,
    )
    print(run.summary())
    rows = run.metrics()
    model = whispertune.load("runs/first")
    print(model.transcribe("talk.mp3").text)
    print(model.evaluate("test.csv").summary()["wer"])
    model.export("ctranslate2", "runs/first-ct2")

Fields have the names of the commands' flags, with two underscores in place of a dot. A mistake raises
`whispertune.errors.UserError` with the line that the command would print.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whispertune.commands import evaluate as evaluate_command
from whispertune.commands import export as export_command
from whispertune.commands import split as split_command
from whispertune.commands import train as train_command
from whispertune.commands import transcribe as transcribe_command
from whispertune.commands.evaluate_options import EvaluateOptions
from whispertune.commands.export_hub import share
from whispertune.commands.export_options import HUB, ExportOptions
from whispertune.commands.transcribe_options import TranscribeOptions
from whispertune.data.audio.waveforms import Waveform, load_utterance
from whispertune.decoding.loading import ReadyModel, load_to_decode
from whispertune.decoding.long_form import Transcript
from whispertune.errors import AudioError, DataError, RecipeError
from whispertune.evaluation.evaluate import Evaluation
from whispertune.report.before_after import leading_counts
from whispertune.report.runs import read_run
from whispertune.report.summary import summarise
from whispertune.run.flags import parse_fields
from whispertune.run.recipe import Recipe, from_recipes_folder
from whispertune.run.run_folder import RunFolder
from whispertune.run.yaml_fields import flatten, load_yaml
from whispertune.system.files import read_jsonl
from whispertune.system.precision import resolve_device


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
    parsed = _options(Recipe, {**given, **_dotted(fields)}, "train")
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
    given = {"output": str(output), **_dotted(fields)}
    split_command.main([str(data), *(f"--{name}={value}" for name, value in given.items())])
    files = {name: Path(output) / f"{name}.jsonl" for name in ("train", "valid", "test")}
    return {name: file for name, file in files.items() if file.exists()}


@dataclass(slots=True)
class Model:
    """A model in any readable format, loaded at its first use."""

    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    _ready: ReadyModel | None = field(init=False, default=None, repr=False)

    def transcribe(self, audio: str | Path, **fields: Any) -> Transcript:
        """Transcribe a recording of any length: its `text`, `language`, and `segments` with their times.

        fields: of `whispertune transcribe` that concern decoding, such as beam_size=1.

        Raises:
            UserError: whatever is wrong with fields, model or recording.
        """
        options = self._options(TranscribeOptions, "transcribe", fields)
        if self._ready is None:
            device = resolve_device(options.device)
            self._ready = load_to_decode(options.model, device, options.precision, base=options.base)
        long_form, _ = transcribe_command.long_form_of(self._ready, options)
        ((_, found),) = long_form.transcribe([Path(audio)], lambda seconds: None)
        if isinstance(found, AudioError):
            raise found
        return found

    def evaluate(self, data: str | Path, output: str | Path | None = None, **fields: Any) -> Evaluation:
        """Decode and score data: `.summary()` holds the error rates, `.rows()` every hypothesis.

        output: a folder for hypotheses.jsonl and excluded.jsonl. fields: of `whispertune evaluate`.

        Raises:
            UserError: whatever is wrong with fields, model or data.
        """
        options = self._options(EvaluateOptions, "evaluate", {"data": str(data), **fields})
        found, _, _, _ = evaluate_command.evaluate(options, None if output is None else Path(output))
        return found

    def export(self, to: str, output: str | Path, **fields: Any) -> Path:
        """Write the model for another program, as `whispertune export` does; returns the folder.

        Raises:
            UserError: whatever is wrong with fields, model or folder.
        """
        given = {**self._source(), "to": to, "output": str(output), **_dotted(fields)}
        export_command.main([f"--{name}={value}" for name, value in given.items()])
        return Path(output)

    def push_to_hub(self, name: str, *, public: bool = False, license: str | None = None) -> str:
        """Upload the model with its card to the Hugging Face Hub, as USER/NAME; returns its address.

        license: of the model, as the Hub names it, instead of the one in its card.

        Raises:
            UserError: whatever is wrong with name, token or model.
            ExportError: if the Hub cannot be reached.
        """
        given = {"to": f"{HUB}{name}", "public": public, "license": license}
        options: ExportOptions = _options(ExportOptions, self._source() | given, "export")
        card = export_command.card_of(self.name)
        return share(options, lambda: export_command.prepared(options, None), card)

    def _source(self) -> dict[str, Any]:
        """The fields that say which model to export."""
        return {"model": self.name} | ({"base": self.fields["base"]} if "base" in self.fields else {})

    def _options(self, kind: type[Any], command: str, fields: Mapping[str, Any]) -> Any:
        return _options(kind, {"model": self.name, **self.fields, **_dotted(fields)}, command)


def load(model: str | Path, **fields: Any) -> Model:
    """A model: a folder or file in any readable format, a Hub id, or a run's folder.

    fields: those of every later call, such as language="it", device="cpu" or precision="fp32".
    """
    return Model(str(model), _dotted(fields))


def _dotted(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name.replace("__", "."): str(value) if isinstance(value, Path) else value for name, value in fields.items()}


def _options(kind: type[Any], fields: Mapping[str, Any], command: str) -> Any:
    return parse_fields(kind, _dotted(fields), [], command=command, where="fields")
