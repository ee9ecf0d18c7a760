"""What mkdocs builds the site from besides docs/*.md: pages made from the code, and files that lie elsewhere.

The reference is written from the dataclasses' docstrings at build time, as `--help` is. Links to files outside docs/
that are no pages of the site (code, recipes) lead to the repository where `repo_url` is set; otherwise they are plain
text.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from whispertune.cli import COMMANDS
from whispertune.run.flags import Field, sections, takes
from whispertune.run.recipe import Recipe

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
RESULTS = "benchmarks/results"
LINK = re.compile(r"\]\(((?:\.\./)+[^)#\s]+)(#[^)\s]*)?\)")
"""A link that leaves docs/."""
GENERATED = {"fields.md": "fields_page", "commands.md": "commands_page", "changes.md": "changes_page"}


def fields_page() -> str:
    """Every field of a recipe: its type, its default, what it does."""
    lines = [
        "# Fields of a recipe",
        "",
        "Each is a line of a YAML recipe and a flag of `whispertune train` under the same name; `whispertune train "
        "--help` prints the same.",
    ]
    return "\n".join([*lines, *_tables(Recipe)]) + "\n"


def commands_page() -> str:
    """Every flag of every command but train's."""
    lines = ["# Commands", "", "`whispertune train` takes [the fields of a recipe](fields.md)."]
    for command in COMMANDS:
        if command in ("train", "resume"):  # resume has no fields of its own
            continue
        module = importlib.import_module(f"whispertune.commands.{command}_options")
        options = getattr(module, f"{command.capitalize()}Options")
        first, _, rest = module.DESCRIPTION.partition("\n\n")
        lines += ["", f"## whispertune {command}", "", first, "", "```text", module.USAGE, "```", "", _fenced(rest)]
        own = None if command != "tune" else Recipe  # tune takes the fields of a recipe as well
        lines += _tables(options, without=own, level=3)
    return "\n".join(lines) + "\n"


def _fenced(text: str) -> str:
    """A description whose indented lines are code."""
    parts: list[str] = []
    for indented, lines in groupby(text.split("\n"), key=lambda line: line.startswith(" ")):
        fence = ["", "```text"], ["```", ""]
        parts += [*(fence[0] if indented else []), *lines, *(fence[1] if indented else [])]
    return "\n".join(parts)


def _tables(options: type, *, without: type | None = None, level: int = 2) -> Iterator[str]:
    """Each section's fields: name, what it takes, default, help."""
    known = set() if without is None else {field.name for section in sections(without) for field in section.fields}
    for section in sections(options):
        fields = [field for field in section.fields if field.name not in known]
        if fields:
            yield from ["", f"{'#' * level} {section.title.rstrip('.')}"]
        for field in fields:
            yield from ["", f"`{field.name}`: {_escaped(takes(field.annotation))}{_default(field)}", ""]
            yield f":   {_escaped(field.help)}"


def _default(field: Field) -> str:
    if field.required:
        return " (required)"
    shown = field.default if isinstance(field.default, str) else json.dumps(field.default)
    return "" if field.default is None else f" (default: `{shown}`)"


def _escaped(text: str) -> str:
    """Text in which < and * are no markup, but for what stands in backquotes."""
    parts = text.split("`")
    return "`".join(part if i % 2 else re.sub(r"([<*_\[\]])", r"\\\1", part) for i, part in enumerate(parts))


def changes_page() -> str:
    """CHANGELOG.md."""
    return (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").replace("](docs/", "](")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages made from the code, and the tables of the benchmarks."""
    from mkdocs.structure.files import File

    for name, make in GENERATED.items():
        files.append(File.generated(config, name, content=globals()[make]()))
    for path in sorted((ROOT / RESULTS).glob("*.*")):
        file = File.generated(config, f"{RESULTS}/{path.name}", abs_src_path=str(path))
        file.inclusion = file.inclusion.NOT_IN_NAV
        files.append(file)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links that leave docs/ lead to the page here or to the repository."""
    repository = (config.repo_url or "").rstrip("/")

    def moved(match: re.Match[str]) -> str:
        path, anchor = match[1], match[2] or ""
        inside = re.sub(r"^(\.\./)+", "", path)
        if inside.startswith(f"{RESULTS}/") and page.file.src_uri.count("/") == 0:
            return f"]({inside}{anchor})"
        if inside.startswith("docs/"):
            return f"]({'../' * page.file.src_uri.count('/')}{inside.removeprefix('docs/')}{anchor})"
        return f"]({repository}/blob/main/{inside})" if repository else f"](#{PLAIN})"

    moved_text = LINK.sub(moved, markdown)
    return re.sub(rf"\[([^\]]*)\]\(#{PLAIN}\)", r"\1", moved_text)


PLAIN = "no-page"
"""Mark of a link that is to become plain text."""
