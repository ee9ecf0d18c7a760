"""The text of --help, made from the docstrings of the options' fields."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Iterator
from itertools import groupby
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from whispertune.run.flags import TEXTS, all_fields, sections

FEWEST_COLUMNS, MOST_COLUMNS = 40, 100
"""Shorter and longer lines of help are hard to read, whatever the terminal."""
MOST_PLACEHOLDER = 60
"""Characters of a flag's choices that are shown beside its name; more are listed below it."""


def _placeholder(annotation: Any) -> str:
    """A short form of `takes`, shown after a flag: `NUMBER|auto`."""
    if get_origin(annotation) in (Union, UnionType):
        return "|".join(_placeholder(kind) for kind in get_args(annotation) if kind is not NoneType)
    if get_origin(annotation) is Literal:
        return "|".join(map(str, get_args(annotation)))
    if annotation == TEXTS:
        return "TEXT (may be given several times)"
    if get_origin(annotation) is tuple:
        return "[NUMBER,…]"
    return {str: "TEXT", int: "N", float: "NUMBER", bool: "true|false"}[annotation]


def help_text(options: type, usage: str, description: str, *, without: type | None = None) -> str:
    """The --help of a command whose flags are the fields of `options`, as wide as the terminal.

    In the description, indented lines keep their breaks. without: a class whose optional fields are not listed.
    """
    width = columns()
    left_out = {name for name, field in all_fields(without).items() if not field.required} if without else set()
    lines = [f"usage: {usage}", "", *paragraphs(description, width)]
    for section in sections(options):
        fields = [field for field in section.fields if field.name not in left_out]
        lines += ["", *textwrap.wrap(f"{section.title.rstrip('.')}:", width)] if fields else []
        for field in fields:
            default = field.default if isinstance(field.default, str) else json.dumps(field.default)
            shown = "required" if field.required else "optional" if field.default is None else f"default: {default}"
            placeholder, text = _placeholder(field.annotation), field.help
            if len(placeholder) > MOST_PLACEHOLDER:
                placeholder, text = "NAME", f"{text} One of {', '.join(placeholder.split('|'))}."
            lines.append(f"  --{field.name} {placeholder}  ({shown})")
            lines += _wrapped(text, width, indent=" " * 6)
    return "\n".join(lines)


def columns() -> int:
    """The width of help: that of the terminal, within FEWEST_COLUMNS and MOST_COLUMNS."""
    return max(FEWEST_COLUMNS, min(shutil.get_terminal_size().columns, MOST_COLUMNS))


def paragraphs(text: str, width: int) -> Iterator[str]:
    """The lines of a text, filled to `width` columns, but for indented ones."""
    for kept, lines in groupby(text.split("\n"), key=lambda line: not line or line.startswith(" ")):
        block = list(lines)
        yield from block if kept else _wrapped(" ".join(block), width)


def _wrapped(text: str, width: int, *, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
    )
