"""What the documents name is there: files, tests, pages, anchors, commands, flags, every field of a recipe."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from whispertune.cli import COMMANDS
from whispertune.run.flags import SHORT, all_fields
from whispertune.run.recipe import Recipe

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PLACES = (ROOT / "src" / "whispertune", ROOT / "tests", ROOT)
NAMED = re.compile(r"`([\w/]+(?:/|\.py))(?:::(\w+))?[\w.]*`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
COMMAND = re.compile(r"(?:^|[` ])whispertune ((?:[a-z]+) [^`\n]*)")
WITHOUT_FIELD = {"train": {"print_config"}, "export": {"verify"}}
"""Flags that are no fields."""
MADE_BY_MKDOCS = {"fields.md", "commands.md", "changes.md"}


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    """docs/site/hooks.py, which needs mkdocs only to build the site."""
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "site" / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def documents() -> list[Path]:
    return [*sorted(DOCS.glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


def options_of(command: str) -> Any:
    if command in ("train", "resume"):
        return Recipe
    return getattr(importlib.import_module(f"whispertune.commands.{command}_options"), f"{command.capitalize()}Options")


def test_every_file_and_test_is_there() -> None:
    text = (ROOT / "docs" / "parts.md").read_text(encoding="utf-8")
    named = NAMED.findall(text)
    assert len(named) > 100
    for path, name in named:
        found = [place / path for place in PLACES if (place / path).exists()]
        assert found, path
        texts = [place.read_text(encoding="utf-8") for place in found] if name else []
        assert not name or any(re.search(rf"\b(def|class) {name}\b", text) for text in texts), name


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and mkdocs make them."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", heading.lower()).strip()) for heading in headings}


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for link in LINK.findall(path.read_text(encoding="utf-8")):
        target, _, anchor = link.partition("#")
        if target.startswith(("http://", "https://")):
            continue
        if target in MADE_BY_MKDOCS and path.parent == DOCS:
            assert not anchor, link
            continue
        page = path if not target else (path.parent / target).resolve()
        assert page.exists(), link
        assert not anchor or anchor in anchors(page), link


def test_every_page_is_in_the_sites_navigation() -> None:
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    pages = {page for section in navigation for pages in section.values() for page in pages}
    assert pages == {path.name for path in DOCS.glob("*.md")} | MADE_BY_MKDOCS


def commands_in(text: str) -> Iterator[list[str]]:
    """The arguments of each `whispertune COMMAND …`, lines that end in a backslash joined."""
    for found in COMMAND.findall(re.sub(r"\\\n\s*", "", text)):
        words = shlex.split(re.sub(r"['\"]", "", found), comments=True)
        if words[0] in COMMANDS:
            yield words


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_flags_of_printed_commands_exist(path: Path) -> None:
    for command, *words in commands_in(path.read_text(encoding="utf-8")):
        known = {*all_fields(options_of(command)), *(SHORT if command in ("evaluate", "check") else ()), "help"}
        known |= WITHOUT_FIELD.get(command, set())
        for word in words:
            if re.fullmatch(r"--[a-z].*", word):
                name = word[2:].partition("=")[0].rstrip(".,;:)").replace("-", "_")
                assert name in known, f"whispertune {command} --{name}"


def test_the_reference_is_made_from_the_code(hooks: ModuleType) -> None:
    page = hooks.fields_page()
    for name, field in all_fields(Recipe).items():
        assert f"\n`{name}`: " in page, name
        assert field.help.split("`")[0][:20] in page, name
    flags = hooks.commands_page()
    for command in COMMANDS:
        if command in ("train", "resume"):
            continue
        assert f"## whispertune {command}\n" in flags
        own = set(all_fields(options_of(command))) - (set(all_fields(Recipe)) if command == "tune" else set())
        assert all(f"\n`{name}`: " in flags for name in own), command


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="needs the extra docs")
def test_the_site_is_built_without_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    monkeypatch.setenv("NO_MKDOCS_2_WARNING", "1")
    # Not --quiet, with which --strict sees no warning.
    built = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    found = subprocess.run(built, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
