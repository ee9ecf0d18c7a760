"""Tables of plain text, for the page, a terminal, a spreadsheet, a paper."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from whispertune.system.console import printable

LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "±": r"$\pm$", "−": r"$-$", "→": r"$\to$",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
}  # fmt: skip
MARKDOWN = "\\`*_{}[]<>|#~&"


@dataclass(frozen=True, slots=True)
class Table:
    """A table. numbers: columns that are aligned right. note: the text below it."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[int] = ()
    note: str = ""


def as_in_a_recipe(value: Any) -> str:
    """A field's value as YAML writes it: `true`, `null`."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def as_text(tables: Sequence[Table], kind: str, preface: Sequence[str] = ()) -> str:
    """The tables as Markdown, CSV or LaTeX; `preface`, which is for people, precedes those of Markdown."""
    make = {"md": _markdown, "csv": _csv, "latex": _latex}[kind]
    lines = "".join(f"{_escaped_markdown(line)}\n\n" for line in preface) if kind == "md" else ""
    return lines + "\n".join(make(table) for table in tables)


def _escaped_markdown(text: str) -> str:
    return "".join(f"\\{char}" if char in MARKDOWN else char for char in printable(text))


def _markdown(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(map(_escaped_markdown, cells)) + " |"

    rule = "|" + "|".join("---:" if place in table.numbers else "---" for place in range(len(table.headings))) + "|"
    note = f"\n{_escaped_markdown(table.note)}\n" if table.note else ""
    body = "".join(line(row) + "\n" for row in table.rows)
    return f"### {_escaped_markdown(table.title)}\n\n{line(table.headings)}\n{rule}\n{body}{note}"


def _csv(table: Table) -> str:
    """Every row begins with the table's title, so that one file holds several."""
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(["table", *map(printable, table.headings)])
    writer.writerows([table.title, *map(printable, row)] for row in table.rows)
    return content.getvalue()


def _latex(table: Table) -> str:
    """A `tabular` for the package booktabs."""

    def escaped(text: str) -> str:
        return "".join(LATEX.get(char, char) for char in printable(text))

    def line(cells: Sequence[str]) -> str:
        return " & ".join(map(escaped, cells)) + r" \\"

    columns = "".join("r" if place in table.numbers else "l" for place in range(len(table.headings)))
    note = f"% {printable(table.note)}\n" if table.note else ""
    body = "".join(line(row) + "\n" for row in table.rows)
    return (
        f"% {printable(table.title)}\n{note}\\begin{{tabular}}{{{columns}}}\n\\toprule\n{line(table.headings)}\n"
        f"\\midrule\n{body}\\bottomrule\n\\end{{tabular}}\n"
    )
