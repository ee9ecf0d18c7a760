"""examples/first_steps.ipynb: its code runs from top to bottom, but for the cell that installs.

The cells are executed in one namespace, as a kernel would: nbclient with a kernel would bring thirty packages.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib as mpl
import pytest
from training_samples import TEST_IDS, Samples, metrics

NOTEBOOK = Path(__file__).parents[2] / "examples" / "first_steps.ipynb"


def code_cells() -> list[tuple[list[str], str]]:
    """Tags and text of each cell with code."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    found = [cell for cell in cells if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in found)  # kept out of the repository
    return [(cell["metadata"].get("tags", []), "".join(cell["source"])) for cell in found]


@pytest.fixture
def place(samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and beside it a source tree with the clips of the samples."""
    source = tmp_path / "source"
    prompts = source / "examples" / "italian-prompts"
    prompts.mkdir(parents=True)
    (source / "recipes").mkdir()
    (source / "recipes" / "demo.yaml").touch()
    for name in ("train", "valid", "test"):
        (prompts / f"{name}.csv").symlink_to(getattr(samples, name))
    work = source / "examples" / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


def execute(settings: dict[str, Any], until: str = "") -> dict[str, Any]:
    """Run the cells with these settings, up to the first one that holds `until`; the variables that they made."""
    namespace: dict[str, Any] = {}
    for tags, text in code_cells():
        if until and until in text:
            break
        if "install" in tags:
            assert text.startswith("%pip install")
            continue
        exec(compile(text, NOTEBOOK.name, "exec"), namespace)
        if "parameters" in tags:
            assert settings.keys() <= namespace.keys()
            namespace |= settings
    return namespace


def test_it_runs(
    samples: Samples, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    played: list[Any] = []
    shown = SimpleNamespace(Audio=lambda waveform, rate: (waveform, rate), display=played.append)
    ipython = SimpleNamespace(display=shown, version_info=(9, 0, 0), get_ipython=lambda: None)  # matplotlib asks
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", shown)
    mpl.use("Agg")
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    # The tiny model has a shape that whisper.cpp does not take.
    settings = {"MODEL": str(samples.model), "LANGUAGE": "en", "EPOCHS": 1, "FORMAT": "huggingface"}
    made = execute(settings)
    run, rows = made["run"], made["run"].comparison()
    assert {row["id"] for row in rows} == set(TEST_IDS)
    changes = [row["errors_after"] - row["errors_before"] for row in rows]
    assert changes == sorted(changes)
    out = capsys.readouterr().out
    assert run.summary() in out
    assert all(row["after"] in out for row in rows)
    wer = [100 * row["wer"] for row in metrics(run.path) if row.get("split") == "valid"]
    assert made["right"].lines[0].get_ydata().tolist() == wer
    assert played
    assert all(rate == 16_000 and waveform.ndim == 1 for waveform, rate in played)
    assert (place / "exports" / "huggingface" / "model.safetensors").exists()
    assert (place / "runs" / "first" / "report.html").exists()


def test_it_divides_a_corpus_of_ones_own(samples: Samples, place: Path) -> None:
    made = execute({"DATA": str(samples.train), "LANGUAGE": "en"}, until="whispertune.train(")
    rows = [len(path.read_text().splitlines()) for path in made["data"].values()]
    assert list(made["data"]) == ["train", "valid", "test"]
    assert sum(rows) == 11
    assert all(path.parent == Path("splits") for path in made["data"].values())


def test_the_extras_that_it_installs_exist() -> None:
    (install,) = (text for tags, text in code_cells() if "install" in tags)
    (extras,) = re.findall(r"\[([a-z,]+)\]", install)
    project = (NOTEBOOK.parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    for extra in extras.split(","):
        assert re.search(rf"(?m)^{extra} = \[", project), extra
