"""Explain folders from training that are not models yet, and how to get a model from them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from whispertune.checkpoints.json_files import read_json
from whispertune.errors import CheckpointError

ADAPTER = "adapter_config.json"


def explained(folder: Path) -> str | None:
    """What a folder without a model is, and what to do; None if unknown."""
    if (folder / ADAPTER).is_file():
        return _adapter(folder)
    numbers = [
        int(match[1])
        for path in folder.iterdir()
        if path.is_dir() and (match := re.fullmatch(r"checkpoint-(\d+)", path.name))
    ]
    if numbers:
        newest = folder / f"checkpoint-{max(numbers)}"
        return (
            f"{folder}: is the output folder of transformers' Trainer; give a checkpoint in it, the newest is {newest}"
        )
    if (folder / "recipe.yaml").is_file() and (folder / "environment.json").is_file():
        return (
            f"{folder}: is a run without a best/, as it was stopped before its first validation: "
            f"{shlex.join(['whispertune', 'resume', str(folder)])}"
        )
    return None


def _adapter(folder: Path) -> str:
    try:
        base = read_json(folder / ADAPTER).get("base_model_name_or_path")
    except CheckpointError:
        base = None
    base = base if isinstance(base, str) and base else "BASE"
    merged = f"{folder}-merged"
    code = (
        f"import peft, transformers as t; m = t.WhisperForConditionalGeneration.from_pretrained({base!r}); "
        f"peft.PeftModel.from_pretrained(m, {str(folder)!r}).merge_and_unload().save_pretrained({merged!r}); "
        f"t.WhisperProcessor.from_pretrained({base!r}).save_pretrained({merged!r})"
    )
    return (
        f"{folder}: is a LoRA adapter of peft, not a model; merge it with the model that it was trained on ({base}): "
        f'python -c "{code}"'
    )
