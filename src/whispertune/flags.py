"""Fields of a dataclass from YAML and command-line flags, with errors that say what to write instead."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from whispertune.errors import RecipeError

set_parsing_settings(docstring_parse_attribute_docstrings=True)

OptionsT = TypeVar("OptionsT")


def load_yaml(path: Path) -> dict[str, Any]:
    """Fields of a YAML file, dotted.

    Raises:
        RecipeError: if it can't be read, or is no mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: cannot read the recipe ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of fields to values")
    return flatten(content)


def flatten(mapping: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Nested data as dotted fields: {'schedule': {'name': 'noam'}} -> {'schedule.name': 'noam'}."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def field_names(options: type, prefix: str = "") -> list[str]:
    """Dotted names of all fields of a dataclass, those of nested ones too."""
    names: list[str] = []
    for field in dataclasses.fields(options):
        nested = field.default_factory
        if isinstance(nested, type) and dataclasses.is_dataclass(nested):
            names += field_names(nested, f"{prefix}{field.name}.")
        else:
            names.append(prefix + field.name)
    return names


def help_text(options: type, prog: str, description: str) -> str:
    """The --help of a command whose flags are the fields of `options`."""
    parser = ArgumentParser(prog=prog, description=description, usage=argparse_usage(prog))
    parser.add_class_arguments(options, None, fail_untyped=True)
    return str(parser.format_help())


def argparse_usage(prog: str) -> str:
    """A usage line that leaves the flags to their list."""
    return f"{prog} [--field value …]"


def parse_fields(
    options: type[OptionsT],
    fields: Mapping[str, Any],
    flags: Sequence[str],
    *,
    command: str,
    where: str = "recipe",
) -> OptionsT:
    """An instance of a dataclass from dotted fields (of a file named `where`), overridden by flags.

    Raises:
        RecipeError: an unknown field (with the nearest known one), a missing one, or a bad value.
    """
    known = field_names(options)
    for name in fields:
        _require_known(str(name), known, f"{where}: unknown field '{name}'", command)
    arguments = [f"--{name}={_as_argument(value)}" for name, value in fields.items()]
    arguments += _normalize_flags(flags, known, command)
    given = {argument[2:].partition("=")[0] for argument in arguments}
    for field in dataclasses.fields(options):  # type: ignore[arg-type]
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and field.name not in given:
            raise RecipeError(f"--{field.name} is missing; see whispertune {command} --help")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(options, None, fail_untyped=True)
    try:
        return options(**vars(parser.instantiate_classes(parser.parse_args(arguments))))
    except ArgumentError as error:
        raise RecipeError(_readable(" ".join(str(error).split()), arguments, known)) from None


def _as_argument(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _require_known(name: str, known: Sequence[str], complaint: str, command: str) -> None:
    if name in known:
        return
    same_leaf = [candidate for candidate in known if candidate.split(".")[-1] == name.split(".")[-1]]
    near = same_leaf or difflib.get_close_matches(name, known, 1, 0.5)
    advice = f"did you mean '{near[0]}'?" if near else f"see whispertune {command} --help for all"
    raise RecipeError(f"{complaint}; {advice}")


def _normalize_flags(flags: Sequence[str], known: Sequence[str], command: str) -> list[str]:
    """`--name value` and `--name=value` as the latter, dashes in names as underscores."""
    normalized: list[str] = []
    remaining = iter(flags)
    for flag in remaining:
        if not flag.startswith("--"):
            raise RecipeError(f"unexpected argument {flag!r}; options are given as --field value")
        name, equals, value = flag[2:].partition("=")
        name = name.replace("-", "_")
        _require_known(name, known, f"unknown flag --{name}", command)
        if not equals:
            following = next(remaining, None)
            if following is None:
                raise RecipeError(f"--{name} needs a value")
            value = following
        normalized.append(f"--{name}={value}")
    return normalized


def _readable(message: str, arguments: Sequence[str], known: Sequence[str]) -> str:
    """jsonargparse's many lines as: field, value, and what it takes."""
    match = re.search(r'(?:key|argument) "?-*([\w.]+)"?', message)
    if match is None or match[1] not in known:
        return message[:300]
    values = [value for name, _, value in (a[2:].partition("=") for a in arguments) if name == match[1]]
    expected = re.findall(r"Expected a? ?(?:type )?(.+?)(?:\. Got|; got|$)", message)
    takes = expected[0] if expected else message.partition(match[1])[2].strip(' ":')[:200]
    return (
        f"{match[1]} is {values[-1]!r} if given; it takes {takes}"
        if not values
        else f"{match[1]} is {values[-1]!r}; it takes {takes}"
    )
