"""`import whispertune`: train, look at the run, transcribe, evaluate, export."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from training_samples import CLIPS, Samples, metrics, outcome

import whispertune
from whispertune.data.audio.waveforms import load_utterance
from whispertune.data.utterances import Utterance
from whispertune.errors import RecipeError, UserError
from whispertune.report.runs import read_run
from whispertune.report.summary import summarise
from whispertune.system.files import read_jsonl

CLIP = CLIPS / "audio" / "added.opus"


def fields(samples: Samples, output: Path) -> dict[str, object]:
    return {
        "model": samples.model, "train": samples.train, "valid": samples.valid, "language": "en", "output": output,
        "precision": "fp32", "batch_size": 2, "epochs": 1, "report": False,
    }  # fmt: skip


@pytest.fixture(scope="module")
def run(samples: Samples, tmp_path_factory: pytest.TempPathFactory) -> whispertune.Run:
    output = tmp_path_factory.mktemp("api") / "run"
    return whispertune.train(**fields(samples, output), schedule__peak_lr=1e-3, schedule__warmup_steps=4)


def test_a_run_is_that_of_the_command(run: whispertune.Run, samples: Samples, tmp_path: Path) -> None:
    assert run.metrics() == metrics(run.path)
    assert samples.train_run(tmp_path / "run", epochs=1) == 0
    assert outcome(run.path)["state"] == outcome(tmp_path / "run")["state"]
    assert run.summary().startswith(summarise(read_run(run.path)).opening)
    assert whispertune.train(**fields(samples, run.path), schedule__peak_lr=1e-3, schedule__warmup_steps=4) == run


def test_a_run_before_and_after(run: whispertune.Run, samples: Samples) -> None:
    assert run.metrics("valid") == [row for row in metrics(run.path) if row.get("split") == "valid"]
    rows = run.comparison()
    with samples.valid.open(encoding="utf-8", newline="") as file:
        given = {row["id"]: row for row in csv.DictReader(file)}
    assert {row["id"]: row["reference"] for row in rows} == {name: row["text"] for name, row in given.items()}
    audio = samples.valid.parent / given[rows[0]["id"]]["audio"]
    assert np.array_equal(run.waveform(rows[0]["id"]), load_utterance(Utterance(id="a", audio=audio, text="")))
    with pytest.raises(UserError, match="absent: no such utterance"):
        run.waveform("absent")


def test_from_a_recipe(samples: Samples, tmp_path: Path) -> None:
    recipe = {name: str(v) if isinstance(v, Path) else v for name, v in fields(samples, tmp_path / "a").items()}
    nested = {**recipe, "schedule": {"peak_lr": 1e-3}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(nested))
    first = whispertune.train(nested, max_steps=1)
    second = whispertune.train(tmp_path / "recipe.yaml", max_steps=1, output=tmp_path / "b")
    losses = [[row["loss"] for row in made.metrics()] for made in (first, second)]
    assert losses[0] == losses[1]


def test_a_model(run: whispertune.Run, samples: Samples, tmp_path: Path) -> None:
    model = whispertune.load(run.path, precision="fp32")
    transcript = model.transcribe(CLIP, beam_size=1)
    assert transcript.language == "en"
    assert model.transcribe(str(CLIP), beam_size=1) == transcript
    found = model.evaluate(samples.test, tmp_path / "out", beam_size=1)
    assert found.rows() == read_jsonl(tmp_path / "out" / "hypotheses.jsonl")
    assert found.summary()["utterances"] == 3
    assert model.export("huggingface", tmp_path / "exported") == tmp_path / "exported"
    assert (tmp_path / "exported" / "model.safetensors").exists()


def test_mistakes_are_errors(samples: Samples, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="unknown field 'epoch'; did you mean 'epochs'"):
        whispertune.train(**fields(samples, tmp_path / "run"), epoch=3)
    with pytest.raises(RecipeError, match="call train once for each seed"):
        whispertune.train(**fields(samples, tmp_path / "run"), seeds="0,1")
    with pytest.raises(UserError, match="no such folder"):
        whispertune.load("absent").transcribe(CLIP)
    with pytest.raises(UserError):
        whispertune.load(samples.model).transcribe(tmp_path / "absent.wav")
    with pytest.raises(AttributeError, match="has no attribute 'fine_tune'"):
        whispertune.fine_tune  # noqa: B018


def test_nothing_is_imported_before_it_is_used() -> None:
    code = (
        "import sys, whispertune; assert 'torch' not in sys.modules; whispertune.train; assert 'torch' in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_run_does_without_pytorchs_compiler(samples: Samples, tmp_path: Path) -> None:
    """Importing it takes 1.5 s and 75 MB."""
    code = (
        "import json, sys, whispertune; given = json.loads(sys.argv[1]); "
        "whispertune.train(**given).model().transcribe(sys.argv[2], beam_size=1); "
        "assert 'torch._dynamo' not in sys.modules"
    )
    for precision in ("fp32", "bf16"):
        given = fields(samples, tmp_path / precision) | {"max_steps": 1, "precision": precision}
        command = [sys.executable, "-c", code, json.dumps(given, default=str), str(CLIP)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
