"""Keyword arguments as fields of the commands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whispertune.run.flags import parse_fields


def dotted(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields by their names in recipes (`schedule.peak_lr`); paths as strings."""
    return {name.replace("__", "."): str(value) if isinstance(value, Path) else value for name, value in fields.items()}


def options_of(kind: type[Any], fields: Mapping[str, Any], command: str) -> Any:
    """The options of a command, of this kind. Raises RecipeError if a field is unknown, missing or out of bounds."""
    return parse_fields(kind, dotted(fields), [], command=command, where="fields")
