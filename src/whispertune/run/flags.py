"""Fields of a dataclass from a recipe's and from command-line flags, with errors that say what to write instead."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import json
import re
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from itertools import pairwise
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from whispertune.errors import RecipeError
from whispertune.run.other_tools import of_another_tool

OptionsT = TypeVar("OptionsT")

SHORT = {"columns": "data.columns", "audio_root": "data.audio_root"}
"""Flags of `evaluate` and `check` by the names that `train` has for them, so that one command line serves all."""
UNWRITABLE = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")
"""NUL and lone surrogates, which YAML's and JSON's escapes can write; but for those that stand for a path's bytes."""
TEXTS = tuple[str, ...]
"""The annotation of a field that takes several texts: a list in a recipe, a flag given several times."""
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


@dataclasses.dataclass(frozen=True, slots=True)
class Section:
    """A dataclass among the options: what it is, its own fields."""

    title: str
    fields: list[Field]


def sections(options: type, prefix: str = "", default: Any = None) -> Iterator[Section]:
    """The options' fields: those that must be given, those of the class itself, of its bases, of each section.

    default: an instance whose values go before the class's defaults.
    """
    docs, hints = _docs(options), get_type_hints(options)
    own, nested = [], []
    for field in dataclasses.fields(options):
        required = default is None and field.default is field.default_factory is dataclasses.MISSING
        value = None if required else _default(field, default)
        if dataclasses.is_dataclass(hints[field.name]):
            nested.append((hints[field.name], _section(field, prefix), value))
        else:
            own.append(Field(prefix + field.name, hints[field.name], required, value, docs.get(field.name, "")))
    title, _, _ = inspect.cleandoc(options.__doc__ or "").partition("\n")
    themselves = {prefix + name for name in options.__annotations__}
    yield Section(title, sorted(own, key=lambda field: 0 if field.required else 1 + (field.name not in themselves)))
    for section in nested:
        yield from sections(*section)


def _default(field: dataclasses.Field[Any], default: Any) -> Any:
    if default is not None:
        return getattr(default, field.name)
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _section(field: dataclasses.Field[Any], prefix: str) -> str:
    """The prefix of the names of a nested dataclass's fields."""
    return prefix if field.metadata.get("flat") else f"{prefix}{field.name}."


@cache
def _docs(options: type) -> dict[str, str]:
    """The string under each field, those of base classes too."""
    docs = {}
    for base in reversed(options.__mro__[:-1]):
        for node, following in pairwise(_classes(base.__module__)[base.__name__].body):
            if isinstance(node, ast.AnnAssign) and isinstance(following, ast.Expr):
                docs[ast.unparse(node.target)] = " ".join(ast.literal_eval(following.value).split())
    return docs


@cache
def _classes(module: str) -> dict[str, ast.ClassDef]:
    body = ast.parse(inspect.getsource(sys.modules[module])).body
    return {node.name: node for node in body if isinstance(node, ast.ClassDef)}


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
    if annotation == TEXTS:
        return "text, or a list of texts"
    if get_origin(annotation) is tuple:
        return "a list of numbers, such as [0.9,1.1]"
    return {str: "text", int: "a whole number", float: "a number", bool: "true or false", NoneType: "null"}[annotation]


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Positional arguments (recordings, run folders), and flags with their values, in any order."""
    others: list[str] = []
    flags: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        if not argument.startswith("--"):
            others.append(argument)
            continue
        flags.append(argument)
        if "=" not in argument and (value := next(remaining, None)) is not None:
            flags.append(value)
    return others, flags


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
    given: dict[str, Any] = {}
    for name, value in fields.items():
        name = str(name).replace("-", "_")
        if value in (None, {}) and name in _prefixes(known):  # a section with nothing in it
            continue
        name = _known_field(name, known, f"{where}: unknown field '{name}'", command).name
        if name in given:  # with dashes, and with underscores
            raise RecipeError("is given twice; leave one out", field=name, file=where)
        given[name] = value
    flagged = _read_flags(flags, known, command)
    files = {name: where for name in given if name not in flagged}
    given |= flagged
    if missing := [f"--{field.name}" for field in known.values() if field.required and field.name not in given]:
        *others, last = missing
        names = f"{', '.join(others)} and {last} are" if others else f"{last} is"
        raise RecipeError(f"{names} missing; see whispertune {command} --help")
    try:
        values = {name: _value(known[name], value) for name, value in given.items()}
        return _build(options, values)
    except RecipeError as error:
        in_file = next((files[name] for name in (error.field, *error.others) if name in files), None)
        raise error.located(file=in_file) from None


def _build(options: type[OptionsT], values: Mapping[str, Any], prefix: str = "", default: Any = None) -> OptionsT:
    """The dataclass with these values of its dotted fields; the others are those of `default`, or the class's."""
    given = {}
    hints = get_type_hints(options)
    for field in dataclasses.fields(options):  # type: ignore[arg-type]
        if dataclasses.is_dataclass(hint := hints[field.name]):
            before = _default(field, default)
            given[field.name] = _build(hint, values, _section(field, prefix), before)  # type: ignore[arg-type]
        elif prefix + field.name in values:
            given[field.name] = values[prefix + field.name]
    try:
        return options(**given) if default is None else dataclasses.replace(default, **given)
    except RecipeError as error:
        raise error.located(prefix) from None


def _value(field: Field, given: Any) -> Any:
    """A field's value from what a file or a flag gives."""

    def refused(problem: str) -> RecipeError:
        return RecipeError(problem, field=field.name)

    if field.annotation == TEXTS and isinstance(given, list | tuple):
        each = dataclasses.replace(field, annotation=str)
        return tuple(_value(each, entry) for entry in given)
    try:
        text = given if isinstance(given, str) else json.dumps(given, default=str)
    except ValueError:  # of thousands of digits
        raise refused("is a number out of all bounds") from None
    wrong = f"is {'null' if given is None else _shown(given)}; it takes {takes(field.annotation)}"
    if given is None and NoneType not in get_args(field.annotation):
        raise refused(wrong)
    if isinstance(given, dict | bytes | set) or (isinstance(given, list) and get_origin(field.annotation) is not tuple):
        raise refused(wrong)
    if unwritable := UNWRITABLE.search(text):
        raise refused(f"holds {repr(unwritable.group())[1:-1]}, which no text and no path can; remove it")
    if field.required and not text.strip():
        raise refused("is empty")
    try:
        return _parsed(text, field.annotation)
    except OverflowError:
        raise refused(f"is {_shown(given)}; it must be finite, and below 2**62") from None
    except ValueError:
        raise refused(wrong) from None


def _parsed(text: str, annotation: Any) -> Any:
    """A value of the annotated type from its text.

    Raises:
        ValueError: if it is none.
        OverflowError: if it is a number that overflows sooner or later.
    """
    if get_origin(annotation) in (Union, UnionType):
        for kind in sorted(get_args(annotation), key=lambda kind: kind is str):  # which takes whatever is left
            with suppress(ValueError):
                return _parsed(text, kind)
    elif annotation in (int, float):
        number = annotation(text)
        if not abs(number) < MOST:  # NaN too
            raise OverflowError
        return number
    elif annotation == TEXTS:
        return (text,)
    elif get_origin(annotation) is tuple:
        if text.startswith("[") and text.endswith("]"):
            return tuple(_parsed(part, float) for part in text[1:-1].split(",") if text[1:-1].strip())
    elif annotation is bool:
        return bool(("false", "true").index(text.lower()))
    elif annotation is str or text in get_args(annotation):  # of a Literal
        return text
    elif annotation is NoneType and text in ("null", "None", "none", "~"):
        return None
    raise ValueError(text)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


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


def _read_flags(flags: Sequence[str], known: Mapping[str, Field], command: str) -> dict[str, Any]:
    """Values by name, of `--name value`, `--name=value`, and `--name` alone (true); dashes in names are underscores."""
    values: dict[str, Any] = {}
    remaining = deque(flags)
    while remaining:
        flag = remaining.popleft()
        if not flag.startswith("--") or not flag.strip("-"):
            raise RecipeError(f"unexpected argument {flag!r}; options are given as --field value")
        name, equals, value = flag[2:].partition("=")
        name = name.replace("-", "_")
        name = SHORT[name] if name not in known and SHORT.get(name) in known else name
        field = _known_field(name, known, f"unknown flag --{name}", command)
        if not equals:
            if not remaining or remaining[0].startswith("--"):
                if field.annotation is not bool:
                    raise RecipeError(f"--{name} needs a value: {takes(field.annotation)}")
                value = "true"
            else:
                value = remaining.popleft()
        if field.annotation == TEXTS:
            values.setdefault(name, []).append(value)
            continue
        if name in values:
            raise RecipeError(f"--{name} is given twice; leave one out")
        values[name] = value
    return values
