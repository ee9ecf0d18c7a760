"""Fields of a dataclass from a recipe's and from command-line flags, with errors that say what to write instead."""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import docstring_parser  # comes with jsonargparse[signatures]

from whispertune.errors import RecipeError
from whispertune.run.other_tools import of_another_tool

OptionsT = TypeVar("OptionsT")

SHORT = {"columns": "data.columns", "audio_root": "data.audio_root"}
"""Flags of `evaluate` and `check` by the names that `train` has for them, so that one command line serves all."""
UNWRITABLE = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")
"""NUL and lone surrogates, which YAML's and JSON's escapes can write; but for those that stand for a path's bytes."""
HELP_WIDTH = 100
MOST = 2.0**62
"""No number of a recipe reaches this, so that none overflows later on."""


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """One flag: its dotted name, its type's annotation, its default and its help."""

    name: str
    annotation: Any
    required: bool
    default: Any
    help: str

    @property
    def optional(self) -> bool:
        return NoneType in get_args(self.annotation)


@dataclasses.dataclass(frozen=True, slots=True)
class Section:
    """A dataclass among the options: its dotted prefix (`schedule.`, or nothing), what it is, its own fields."""

    prefix: str
    title: str
    fields: list[Field]


def sections(options: type, prefix: str = "", default: Any = None) -> Iterator[Section]:
    """The options' own fields, then those of each dataclass among them.

    default: an instance whose values go before the class's defaults.
    """
    documented = docstring_parser.parse_from_object(options)
    docs = {entry.arg_name: " ".join((entry.description or "").split()) for entry in documented.params}
    own, nested = [], []
    hints = get_type_hints(options)
    for field in dataclasses.fields(options):
        required = field.default is field.default_factory is dataclasses.MISSING
        if default is not None:
            value = getattr(default, field.name)
        elif field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        else:
            value = None if required else field.default
        if dataclasses.is_dataclass(hints[field.name]):
            nested.append((hints[field.name], f"{prefix}{field.name}.", value))
        else:
            own.append(Field(prefix + field.name, hints[field.name], required, value, docs.get(field.name, "")))
    yield Section(prefix, documented.short_description or "", own)
    for section in nested:
        yield from sections(*section)


def all_fields(options: type) -> dict[str, Field]:
    """All fields of a dataclass, those of nested ones too, by dotted name."""
    return {field.name: field for section in sections(options) for field in section.fields}


def takes(annotation: Any) -> str:
    """What a type's values look like, in words: `a number or auto`."""
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join(takes(kind) for kind in get_args(annotation))
    if get_origin(annotation) is Literal:
        *others, last = map(str, get_args(annotation))
        return f"{', '.join(others)} or {last}" if others else last
    if get_origin(annotation) in (tuple, list):
        return "a list of numbers, such as [0.9,1.1]"
    return {str: "text", int: "a whole number", float: "a number", bool: "true or false", NoneType: "null"}[annotation]


def _placeholder(annotation: Any) -> str:
    """The same, short, behind a flag: `NUMBER|auto`."""
    if get_origin(annotation) in (Union, UnionType):
        return "|".join(_placeholder(kind) for kind in get_args(annotation) if kind is not NoneType)
    if get_origin(annotation) is Literal:
        return "|".join(map(str, get_args(annotation)))
    if get_origin(annotation) in (tuple, list):
        return "[NUMBER,…]"
    return {str: "TEXT", int: "N", float: "NUMBER", bool: "true|false"}[annotation]


def help_text(options: type, usage: str, description: str) -> str:
    """The --help of a command whose flags are the fields of `options`."""
    lines = [f"usage: {usage}", "", description]
    for section in sections(options):
        lines += ["", f"{section.title.rstrip('.')}:"] if section.fields else []
        for field in section.fields:
            default = list(field.default) if isinstance(field.default, tuple) else field.default
            shown = "required" if field.required else f"default: {_as_argument(default)}"
            if field.default is None and not field.required:
                shown = "optional"
            lines.append(f"  --{field.name} {_placeholder(field.annotation)}  ({shown})")
            lines += textwrap.wrap(field.help, HELP_WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


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
    known = all_fields(options)
    given: dict[str, str] = {}
    for name, value in fields.items():
        name = str(name).replace("-", "_")
        if value in (None, {}) and name in _prefixes(known):  # a section with nothing in it
            continue
        field = _known_field(name, known, f"{where}: unknown field '{name}'", command)
        if isinstance(value, list | dict | bytes | set) and not isinstance(value, _accepted(field)):
            raise RecipeError(f"{where}: {name} is {_shown(value)}; it takes {takes(field.annotation)}")
        given[name] = _as_argument(value, f"{where}: {name}")
    origin = dict.fromkeys(given, f"{where}: ")
    flagged: set[str] = set()
    for name, value in _read_flags(flags, known, command):
        if name in flagged:
            raise RecipeError(f"--{name} is given twice; leave one out")
        flagged.add(name)
        given[name] = value
        origin.pop(name, None)
    for name, value in given.items():
        if unwritable := UNWRITABLE.search(value):
            shown = repr(unwritable.group())[1:-1]
            raise RecipeError(f"{origin.get(name, '--')}{name} holds {shown}, which no text and no path can; remove it")
    for field in known.values():
        if field.required and field.name not in given:
            what = field.help.rstrip(".")
            raise RecipeError(f"--{field.name} is missing ({what}); see whispertune {command} --help")
        if field.required and not given[field.name].strip():
            raise RecipeError(f"{origin.get(field.name, '--')}{field.name} is empty")
        if field.optional and given.get(field.name) in ("None", "none", "~"):
            given[field.name] = "null"
    from jsonargparse import ArgumentError, ArgumentParser  # slow to import, and --help needs none of it

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(options, None, fail_untyped=True)
    try:
        parsed = parser.parse_args([f"--{name}={value}" for name, value in given.items()])
        built = _build(options, parsed)
    except RecipeError as error:  # out of range
        section = str(error).split(" ")[0].rpartition(".")[0]
        near = [name for name in origin if name.rpartition(".")[0] == section]
        named = [name for name in near if name.rpartition(".")[2] in re.findall(r"\w+", str(error))]
        raise RecipeError((origin[named[0]] if named else "") + str(error)) from None
    except ArgumentError as error:
        raise RecipeError(_readable(" ".join(str(error).split()), given, known, origin)) from None
    for name, field in known.items():
        value = reduce(getattr, name.split("."), built)
        if isinstance(value, int | float) and not abs(value) < MOST:  # nan and inf too
            raise RecipeError(f"{origin.get(name, '')}{name} is {value}; it takes {takes(field.annotation)} in bounds")
    return built


def _build(options: type[OptionsT], values: Any) -> OptionsT:
    """The dataclass of parsed values. (jsonargparse renames its own function for this from version to version.)"""
    hints = get_type_hints(options)
    built = {name: getattr(values, name) for name in hints}
    for name, hint in hints.items():
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            built[name] = _build(hint, built[name])
    return options(**built)


def _as_argument(value: Any, named: str = "") -> str:
    try:
        return value if isinstance(value, str) else json.dumps(value)
    except ValueError:  # of thousands of digits
        raise RecipeError(f"{named} is a number out of all bounds") from None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _accepted(field: Field) -> type | tuple[()]:
    return list if get_origin(field.annotation) in (tuple, list) else ()


def _prefixes(known: Mapping[str, Field]) -> set[str]:
    """Names of sections: `augment`, `augment.speed`, …"""
    return {name.rsplit(".", depth)[0] for name in known for depth in range(1, name.count(".") + 1)}


def _known_field(name: str, known: Mapping[str, Field], complaint: str, command: str) -> Field:
    if name in known:
        return known[name]
    if advice_of := of_another_tool(name, known):
        raise RecipeError(f"{complaint}; {advice_of}")
    if name in _prefixes(known):
        first = next(candidate for candidate in known if candidate.startswith(f"{name}."))
        raise RecipeError(f"{complaint}; it is a section: give a field of it, such as {first}")
    same_leaf = [candidate for candidate in known if candidate.split(".")[-1] == name.split(".")[-1]]
    near = same_leaf or difflib.get_close_matches(name, known, 1, 0.6)
    if not near:  # a field's own name alone, slightly off: --warm_up_steps
        leaves = {candidate.split(".")[-1]: candidate for candidate in reversed(list(known))}
        leaf = name.split(".")[-1]
        near = [leaves[close] for close in difflib.get_close_matches(leaf, leaves, 1, 0.75)]
        near += [candidate for candidate in known if leaf in candidate.split(".")[-1].split("_")]  # lr: peak_lr
    advice = f"did you mean '{near[0]}'?" if near else f"see whispertune {command} --help for all"
    raise RecipeError(f"{complaint}; {advice}")


def _read_flags(flags: Sequence[str], known: Mapping[str, Field], command: str) -> Iterator[tuple[str, str]]:
    """(name, value) of `--name value` and `--name=value`; dashes in names are underscores."""
    remaining = iter(flags)
    for flag in remaining:
        if not flag.startswith("--") or not flag.strip("-"):
            raise RecipeError(f"unexpected argument {flag!r}; options are given as --field value")
        name, equals, value = flag[2:].partition("=")
        name = name.replace("-", "_")
        name = SHORT[name] if name not in known and SHORT.get(name) in known else name
        field = _known_field(name, known, f"unknown flag --{name}", command)
        if not equals:
            following = next(remaining, None)
            if following is None or following.startswith("--"):
                raise RecipeError(f"--{name} needs a value: {takes(field.annotation)}")
            value = following
        yield name, value


def _readable(message: str, given: Mapping[str, str], known: Mapping[str, Field], origin: Mapping[str, str]) -> str:
    """jsonargparse's many lines as: field, value, and what it takes."""
    match = re.search(r'(?:key|argument) "?-*([\w.]+)"?', message)
    name = "" if match is None else match[1]
    if name not in known or name not in given:
        return message[:300]
    return f"{origin.get(name, '')}{name} is {_shown(given[name])}; it takes {takes(known[name].annotation)}"
