"""The fields of a recipe's YAML, dotted. A recipe is data: reading one runs no code and exhausts no memory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from whispertune.errors import RecipeError

MOST_BYTES = 1_000_000
DEEPEST = 20
"""Levels of nesting; a recipe has three."""


class _Loader(yaml.SafeLoader):
    """YAML as recipes need it: plain data only, `no` (Norwegian) and 2024-01-01 stay text, no key is given twice."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Refuses aliases, with which a few lines expand beyond any memory, and nesting that is too deep."""
        if self.check_event(yaml.AliasEvent):
            event: Any = self.peek_event()  # type: ignore[no-untyped-call]
            problem = f"*{event.anchor} stands for what is written elsewhere; write it out"
            raise yaml.composer.ComposerError(None, None, problem, event.start_mark)
        self._depth += 1
        if self._depth > DEEPEST:
            raise RecursionError
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key.value, str) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"'{key.value}' is given twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in ("bool", "timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))


def load_yaml(path: Path) -> dict[str, Any]:
    """Fields of a YAML file, dotted.

    Raises:
        RecipeError: if it can't be read, or is no mapping of fields to plain values.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
        if len(text) > MOST_BYTES:
            raise RecipeError(f"{path}: it is over a megabyte, so it is no recipe; give data to --train")
        content = yaml.load(text.decode("utf-8"), _Loader)
        if content is not None and not isinstance(content, dict):
            raise RecipeError(f"{path}: a recipe is a mapping of fields to values; data goes to --train")
        return flatten(content or {})
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such recipe; check the path") from None
    except OSError as error:
        raise RecipeError(f"{path}: cannot read the recipe ({error.strerror})") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = "" if mark is None else f"line {mark.line + 1}: "
        raise RecipeError(f"{path}: not YAML ({place}{error.problem or error.context})") from None
    # ValueError: no UTF-8, a NUL in the path, `flatten`; the others: a value that its tag (!!int, !!bool) is not for.
    except (yaml.YAMLError, ValueError, ArithmeticError, LookupError) as error:
        reason = " ".join(str(error).split())
        raise RecipeError(f"{path}: not YAML ({reason})") from None
    except RecursionError:
        raise RecipeError(f"{path}: nested without end") from None


def flatten(mapping: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Nested data as dotted fields: {'schedule': {'name': 'noam'}} -> {'schedule.name': 'noam'}. {} stays a value.

    Raises:
        ValueError: if a field is given both nested and dotted.
    """
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        name = f"{prefix}{key}"
        nested = isinstance(value, Mapping) and value
        for dotted, entry in flatten(value, f"{name}.").items() if nested else [(name, value)]:
            if dotted in flat:
                raise ValueError(f"'{dotted}' is given twice")
            flat[dotted] = entry
    return flat
