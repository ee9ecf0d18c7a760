"""The Containerfile, which cannot be built here: hadolint accepts it, and what it names is there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "Containerfile").read_text(encoding="utf-8")


def instructions() -> list[tuple[str, str]]:
    """Name and arguments of each instruction; continued lines joined, comments left out."""
    lines = "\n".join(line for line in TEXT.splitlines() if not line.startswith("#"))
    found = [line.partition(" ") for line in lines.replace("\\\n", " ").splitlines() if line.strip()]
    return [(name, arguments) for name, _, arguments in found]


def arguments_of(name: str) -> list[str]:
    return [arguments for found, arguments in instructions() if found == name]


def test_hadolint_accepts_it() -> None:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed")
    outcome = subprocess.run([program, str(ROOT / "Containerfile")], capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout


def test_what_it_copies_is_in_the_context() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {path for arguments in arguments_of("COPY") for path in arguments.split()[:-1]}
    assert copied == allowed
    assert all((ROOT / path).exists() for path in copied)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert set(re.findall(r'"(LICENSE|README\.md)"', project)) <= copied  # which the build needs


def test_what_it_installs() -> None:
    (extras,) = (
        value for argument in arguments_of("ARG") for name, _, value in [argument.partition("=")] if name == "EXTRAS"
    )
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extra in extras.split(","):
        assert re.search(rf"(?m)^{extra} = \[", project), extra
    (version,) = set(re.findall(r"torch==[\d.]+", TEXT))
    assert f"TORCH ?= {version}\n" in (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all("--no-cache-dir" in part for part in re.findall(r"pip install .*", TEXT))


def test_it_runs_as_a_user_with_a_cache_that_stays() -> None:
    (user,) = arguments_of("USER")
    assert int(user) > 0
    assert arguments_of("VOLUME") == ["/cache"]
    (environment,) = arguments_of("ENV")
    assert "XDG_CACHE_HOME=/cache " in environment  # where states and indices lie
    assert arguments_of("ENTRYPOINT") == ['["whispertune"]']
    names = [name for name, _ in instructions()]
    assert names.index("USER") > max(place for place, name in enumerate(names) if name == "RUN")
