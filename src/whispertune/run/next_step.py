"""The commands to run next, which a command prints at its end, quoted for a shell."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from whispertune.data.options import DataOptions
from whispertune.data.reading import Reading
from whispertune.data.splits_of_sources import as_data, as_flags
from whispertune.run.recipe import Recipe

SUGGESTED = ["--freeze", "auto", "--epochs", "2"]
"""Settings of the suggested training: a seventh fewer errors than the defaults in about the same time, on two languages
(docs/choosing.md). The defaults stay those of the field, a frozen encoder and four epochs."""


def evaluation_commands(recipe: Recipe) -> list[str]:
    """Commands that score the untouched model and the run's on test or, where there is none, on valid."""
    part = "valid" if recipe.test is None else "test"
    data, usual = recipe.data, DataOptions()
    flags = ["--data", as_data(recipe.test or recipe.valid, part), *as_flags(data.reading)]
    for name, value, default in (
        ("language", recipe.language, None),
        ("language_token", recipe.language_token, None),
        ("task", recipe.task, "transcribe"),
        ("max_excluded", data.max_excluded, usual.max_excluded),
        ("empty_text", data.empty_text, usual.empty_text),
        ("merge_segments", data.merge_segments, usual.merge_segments),
        ("exclude", data.exclude, None),
        ("device", recipe.device, "auto"),
    ):
        if value is not None and value != default:
            flags += [f"--{name}", str(value)]
    untouched = [recipe.model, *(["--base", recipe.base] if recipe.base else [])]
    return [
        shlex.join(["whispertune", "evaluate", "--model", *model, *flags]) for model in (untouched, [recipe.output])
    ]


def training_command(
    sources: Mapping[str, Sequence[str]], model: str, language: Sequence[str], reading: Reading
) -> str | None:
    """The command that trains on the checked data with the suggested settings, or None without both a train and a
    valid split.

    sources: the files of train, valid and test. language: the flags that name it.
    """
    if not sources.get("train") or not sources.get("valid"):
        return None
    flags = ["--model", model]
    for part in ("train", "valid", "test"):
        if sources.get(part):
            flags += [f"--{part}", " + ".join(sources[part])]
    flags += [*language, *as_flags(reading), *SUGGESTED, "--output", "runs/first"]
    return shlex.join(["whispertune", "train", *flags])
