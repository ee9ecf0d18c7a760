"""A lower layer never imports a higher one, and no file outgrows what the head can hold."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "whispertune"
MOST_LINES = 350


def lint(project: Path) -> subprocess.CompletedProcess[str]:
    """import-linter on `project`/src by the contracts of `project`/pyproject.toml."""
    return subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project / "src"), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(PACKAGE, tmp_path / "src" / "whispertune", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_layers() -> None:
    found = lint(ROOT)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize(
    ("lower", "higher"),
    [
        ("errors", "system.files"),
        ("text/tokenizer", "data.sources"),
        ("model/whisper", "states.computed"),
        ("dataset/splits", "training.plan"),
        ("training/trainer", "run.session"),
        ("training/plan", "training.schedule"),
        ("decoding/rules", "decoding.beam"),
        ("checkpoints/layout", "checkpoints.huggingface"),
    ],
)
def test_a_forbidden_import_is_found(copied: Path, lower: str, higher: str) -> None:
    with (copied / "src" / "whispertune" / f"{lower}.py").open("a", encoding="utf-8") as file:
        file.write(f"\n\ndef late() -> None:\n    import whispertune.{higher}\n")
    found = lint(copied)
    assert found.returncode == 1, found.stdout + found.stderr
    assert f"whispertune.{lower.replace('/', '.')} -> whispertune.{higher}" in found.stdout


def test_every_module_has_its_layer(copied: Path) -> None:
    (copied / "src" / "whispertune" / "utils.py").touch()
    found = lint(copied)
    assert found.returncode == 1
    assert "utils" in found.stdout


def test_few_modules_lie_beside_the_packages() -> None:
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py", "cli.py", "errors.py"}


def test_no_exceptions() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    for contract in settings["contracts"]:
        assert contract.keys() == {"name", "type", "containers", "exhaustive", "layers"}
        assert contract["exhaustive"] is True
    contained = {contract["containers"][0].removeprefix("whispertune.") for contract in settings["contracts"]}
    assert contained == {"whispertune"} | {
        ".".join(path.parent.relative_to(PACKAGE).parts)
        for path in PACKAGE.glob("**/__init__.py")
        if path.parent != PACKAGE
    }


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_are_short(path: Path) -> None:
    with path.open(encoding="utf-8") as file:
        assert sum(1 for _ in file) <= MOST_LINES
