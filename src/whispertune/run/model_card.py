"""The README of a run's best/: a model card with its results, as the Hugging Face Hub reads it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from whispertune.checkpoints.hub import looks_like_id
from whispertune.checkpoints.packaged import MODELS, PREFIX
from whispertune.data.readers.hub_data import PREFIX as HUB_DATA
from whispertune.data.sources import parse_sources
from whispertune.dataset.splits import Split
from whispertune.errors import CheckpointError
from whispertune.run.session import Session
from whispertune.system.console import percent, printable
from whispertune.system.counts import counted
from whispertune.system.files import write_text
from whispertune.text.languages import language_name
from whispertune.training.averaging import described
from whispertune.training.metrics import EvaluationRow

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

MODEL_IS = "`MODEL` is the folder of this model, or its name on the Hub.\n\n"
USAGE = (
    f"""## How to use it

{MODEL_IS}"""
    + """With transformers:

```python
from transformers import pipeline

transcribe = pipeline("automatic-speech-recognition", model="MODEL")
print(transcribe("audio.wav"{generate})["text"])
```

With faster-whisper, after `whispertune export --model MODEL --to ctranslate2 --output MODEL-ct2`:

```python
from faster_whisper import WhisperModel

segments, _ = WhisperModel("MODEL-ct2").transcribe("audio.wav"{keyword})
print("".join(segment.text for segment in segments))
```

With whisper.cpp, after `whispertune export --model MODEL --to ggml --output MODEL-ggml`:

```
whisper-cli --model MODEL-ggml/ggml-model.bin{flag} audio.wav
```
"""
)


def model_card(session: Session, step: int, model: str = "epoch", summary: str = "") -> str:
    """The card of the weights of an update, 0 being the pretrained model. model: as in metrics.jsonl.

    summary: a sentence about the results, which a finished run has.
    """
    recipe, pairs = session.recipe, _results(session, step, model)
    name = printable(Path(recipe.output).resolve().name)
    language, token, _ = trained_languages(session)
    lines = ["---", _metadata(session, name, pairs), "---", "", f"# {name}", ""]
    base = f"`{_base_model(recipe.model) or Path(recipe.model).name}`"
    made = f"{base}, fine-tuned with whispertune ({recipe.what_learns}, seed {recipe.seed}, update {step})."
    if model not in ("epoch", "baseline"):
        made += f" Its weights: {described(model, session.progress.averaged)}."
    if step == 0:
        made = f"{base} as it was: fine-tuning with whispertune did not improve it significantly."
    lines += [f"{made} The exact recipe is in the run's `recipe.yaml`.", ""]
    if token and language and language != token:
        borrowed = f"uses that of {language_name(token)} (`{token}`)"
        lines += [f"Whisper has no token for `{language}`: this model {borrowed}.", ""]
    if summary:
        lines += [summary, ""]
    if pairs:
        lines += ["## Results", "", *_table(pairs), ""]
        lines += [
            "Normalised (case and punctuation do not count), with 95 % intervals by a bootstrap. The checkpoint was "
            "chosen on valid, so its rates there are slightly too low.", "",
        ]  # fmt: skip
    lines += ["## Data", ""]
    lines += [_described(session, split) for split in session.splits]
    card = recipe.card
    data_license = card.data_license or "not stated; state it before you share this model (`card.data_license`)"
    license_ = card.license or "not chosen yet; choose one before you share this model (`card.license`)"
    lines += ["", f"Licence of the data: {data_license}", ""]
    lines += [_usage(token, recipe.task), "## Licence", "", f"Licence of the model: {license_}", ""]
    return "\n".join(lines)


def _usage(language: str | None, task: str) -> str:
    words = {"generate": "", "keyword": "", "flag": ""}
    if language:
        words = {
            "generate": f', generate_kwargs={{"language": "{language}", "task": "{task}"}}',
            "keyword": f', language="{language}", task="{task}"',
            "flag": f" --language {language}" + (" --translate" if task == "translate" else ""),
        }
    return USAGE.format(**words)


def card_for_hub(
    card: str | None, repository: str, *, model: str, language: str | None, task: str, license_: str | None
) -> str:
    """The card of a model on the Hub: its own, or else one that says how to use it.

    The code of our own cards gets the repository's name in place of MODEL. license_: goes before the card's own.

    Raises:
        CheckpointError: if the card's metadata cannot be read.
    """
    from huggingface_hub import ModelCard, ModelCardData

    if card is None:
        known: dict[str, Any] = {"language": language, "license": license_, "base_model": _base_model(model)}
        data = ModelCardData(
            library_name="transformers", pipeline_tag="automatic-speech-recognition", tags=["whisper"],
            **{field: value for field, value in known.items() if value},
        )  # fmt: skip
        name = repository.partition("/")[2]
        card = f"---\n{data.to_yaml()}\n---\n\n# {name}\n\nA Whisper model.\n\n{_usage(language, task)}"
    before, ours, after = card.partition(MODEL_IS)
    if ours:
        code, heading, rest = after.partition("\n## Licence\n")
        code = re.sub(r"\bMODEL-", f"{repository.partition('/')[2]}-", code)
        card = before + re.sub(r"\bMODEL\b", repository, code) + heading + rest
    if license_ is None:
        return card
    card = re.sub("(?m)^Licence of the model: .*$", f"Licence of the model: {license_}", card)
    try:
        parsed = ModelCard(card)
    except (ValueError, yaml.YAMLError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{model}: the metadata of its README.md cannot be read ({reason}); correct it") from None
    setattr(parsed.data, "license", license_)  # noqa: B010 - an attribute of the subclass that a card's data is of
    return str(parsed)


def license_of(card: str) -> str | None:
    """The licence in a card's metadata."""
    from huggingface_hub import ModelCard

    with suppress(ValueError, yaml.YAMLError):
        return getattr(ModelCard(card).data, "license", None)
    return None


def trained_languages(session: Session) -> tuple[str | None, str | None, dict[str, str]]:
    """The language of all training windows and its token, None if there are several, and each language's token."""
    tokens = {code: session.text.token_for(code) for code in sorted(set(session.train.languages))}
    return common(list(tokens)), common(list(tokens.values())), tokens


def common(values: Sequence[str]) -> str | None:
    """The value that all share, or None."""
    return values[0] if len(set(values)) == 1 else None


def write_card(session: Session, summary: str) -> None:
    """Write the card of a finished run over that of its best/."""
    best = session.progress
    write_text(session.folder.best / "README.md", model_card(session, best.best_step, best.best_model, summary))


def _results(session: Session, step: int, model: str) -> list[tuple[EvaluationRow, EvaluationRow]]:
    """The rows of the pretrained model and of this one that belong together."""
    rows = session.log.evaluations
    valid = [row for row in rows if row.split == "valid"]
    after = [row for row in valid if (row.step, row.model) == (step, model)]
    pairs = [(valid[0], after[-1])] if after else []
    for row in rows:
        if row.split != "valid" and row.model == "best" and row.step == step:
            same = [r for r in rows if (r.split, r.beam_size, r.model) == (row.split, row.beam_size, "baseline")]
            pairs += [(same[-1], row)] if same else []
    return pairs


def _search(row: EvaluationRow) -> str:
    return f"{'greedy' if row.beam_size == 1 else f'beam {row.beam_size}'}, {row.frames}"


def _table(pairs: Sequence[tuple[EvaluationRow, EvaluationRow]]) -> list[str]:
    lines = ["| set | search | rate | pretrained | this model |", "|---|---|---|---:|---:|"]
    for before, after in pairs:
        for rate, field in (("WER", "wer"), ("CER", "cer")):
            cells = [
                f"{percent(getattr(row, field))} ({100 * low:.1f} to {100 * high:.1f})"
                for row in (before, after)
                for low, high in (getattr(row, f"{field}_interval"),)
            ]
            lines.append(f"| {after.split} | {_search(after)} | {rate} | {' | '.join(cells)} |")
    return lines


def _metadata(session: Session, name: str, pairs: Sequence[tuple[EvaluationRow, EvaluationRow]]) -> str:
    """The card's YAML, with the results of this model as `model-index`."""
    from huggingface_hub import ModelCardData

    recipe = session.recipe
    known: dict[str, Any] = {"language": trained_languages(session)[0] or sorted(set(session.train.languages))}
    optional = {
        "license": recipe.card.license,
        "base_model": _base_model(recipe.model),
        "datasets": sorted({source for split in session.splits for source in _on_the_hub(session, split.name)}),
    }
    known |= {field: value for field, value in optional.items() if value}
    results = [result for _, row in pairs for result in _eval_results(session, row)]
    if results:
        known |= {"model_name": name, "eval_results": results}
    data = ModelCardData(
        library_name="transformers", pipeline_tag="automatic-speech-recognition", tags=["whisper", "whispertune"],
        **known,
    )  # fmt: skip
    return data.to_yaml()


def _eval_results(session: Session, row: EvaluationRow) -> list[EvalResult]:
    """Percent, as is usual on the Hub."""
    from huggingface_hub import EvalResult

    hub = _on_the_hub(session, row.split)
    return [
        EvalResult(
            task_type="automatic-speech-recognition", dataset_type=hub[0] if hub else "custom",
            dataset_name=f"{row.split} ({_names(session, row.split)})", dataset_split=row.split,
            metric_type=metric, metric_value=round(100 * value, 2),
            metric_name=f"{metric.upper()}, normalised, {_search(row)}",
        )
        for metric, value in (("wer", row.wer), ("cer", row.cer))
    ]  # fmt: skip


def _base_model(model: str) -> str | None:
    """The Hub id of a model, if it has one."""
    if model.startswith(PREFIX):
        return f"openai/{model.removeprefix(PREFIX)}" if model.removeprefix(PREFIX) in MODELS else None
    return model if looks_like_id(model) and not Path(model).exists() else None


def _sources(session: Session, split: str) -> list[str]:
    described = session.recipe.also_tests.get(split) or getattr(session.recipe, split, None)
    return [source.path for source in parse_sources(described)] if described else []


def _on_the_hub(session: Session, split: str) -> list[str]:
    """The Hub's data sets among the sources of a split."""
    paths = [path.removeprefix(HUB_DATA) for path in _sources(session, split) if path.startswith(HUB_DATA)]
    return [path.partition(":")[0] for path in paths]


def _names(session: Session, split: str) -> str:
    """Names of the sources, without the folders that they lie in, which are nobody else's business."""
    names = [path if path.startswith(HUB_DATA) else Path(path).name for path in _sources(session, split)]
    return printable(", ".join(names))


def _described(session: Session, split: Split) -> str:
    hours = f"{split.hours:.1f} hours" if split.hours >= 2 else f"{60 * split.hours:.1f} minutes"
    return f"- {split.name}: {counted(split.num_utterances, 'utterance')}, {hours} (`{_names(session, split.name)}`)"
