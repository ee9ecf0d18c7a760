"""Explain folders from training that are not models yet, and how to get a model from them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path


def explained(folder: Path) -> str | None:
    """What a folder without a model is, and what to do; None if unknown."""
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
