"""Read the small text files of a model folder, with helpful errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from whispertune.errors import CheckpointError


def read_text(path: Path) -> str:
    """The text of `path`. Raises CheckpointError if it is missing or not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: is missing; a model folder needs its {path.name}") from error
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: is not UTF-8 text") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in the JSON file `path`. Raises CheckpointError if it is missing or holds anything else."""
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: is not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: does not hold a JSON object")
    return content
