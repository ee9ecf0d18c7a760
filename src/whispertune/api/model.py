"""A model that is loaded: transcribe, evaluate, export, share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whispertune.api.fields import dotted, options_of
from whispertune.commands import evaluate as evaluate_command
from whispertune.commands import export as export_command
from whispertune.commands import transcribe as transcribe_command
from whispertune.commands.evaluate_options import EvaluateOptions
from whispertune.commands.export_hub import share
from whispertune.commands.export_options import HUB, ExportOptions
from whispertune.commands.transcribe_options import TranscribeOptions
from whispertune.decoding.loading import ReadyModel, load_to_decode
from whispertune.decoding.long_form import Transcript
from whispertune.errors import AudioError
from whispertune.evaluation.evaluate import Evaluation
from whispertune.system.precision import resolve_device


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
        given = {**self._source(), "to": to, "output": str(output), **dotted(fields)}
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
        options: ExportOptions = options_of(ExportOptions, self._source() | given, "export")
        card = export_command.card_of(self.name)
        return share(options, lambda: export_command.prepared(options, None), card)

    def _source(self) -> dict[str, Any]:
        """The fields that say which model to export."""
        return {"model": self.name} | ({"base": self.fields["base"]} if "base" in self.fields else {})

    def _options(self, kind: type[Any], command: str, fields: Mapping[str, Any]) -> Any:
        return options_of(kind, {"model": self.name, **self.fields, **dotted(fields)}, command)


def load(model: str | Path, **fields: Any) -> Model:
    """A model: a folder or file in any readable format, a Hub id, or a run's folder.

    fields: those of every later call, such as language="it", device="cpu" or precision="fp32".
    """
    return Model(str(model), dotted(fields))
