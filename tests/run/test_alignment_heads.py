"""Models that name no alignment heads get some that are found on the training data; others keep theirs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parents[1] / "training"))
from training_samples import Samples, make_samples, save_tiny_model

from whispertune.checkpoints.json_files import read_json
from whispertune.decoding.alignment_heads import MOST_HEADS, best_heads, head_scores
from whispertune.run import alignment_heads
from whispertune.system.files import read_jsonl


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    return make_samples(tmp_path_factory.mktemp("samples"))


def without_heads(folder: Path, heads: Any = ()) -> Path:
    """The tiny model with another list of heads, or none."""
    path = save_tiny_model(folder) / "generation_config.json"
    settings = read_json(path)
    settings.pop("alignment_heads", None)
    path.write_text(json.dumps(settings | ({"alignment_heads": heads} if heads else {})), encoding="utf-8")
    return folder


def heads_of(run: Path) -> Any:
    return read_json(run / "best" / "generation_config.json")["alignment_heads"]


def test_found_on_the_training_data_once(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scored: list[int] = []

    def score(*arguments: Any) -> Any:
        scored.append(len(arguments[3]))
        return head_scores(*arguments)

    monkeypatch.setattr(alignment_heads, "head_scores", score)
    model, run = without_heads(tmp_path / "model"), tmp_path / "run"
    assert samples.train_run(run, model=model, epochs=1) == 0
    assert sum(scored) == 11  # all of the clips, as there are no 32
    assert heads_of(run) in ([[0, 0]], [[0, 1]])  # the better one of two
    assert "words     heads that align them, found on 11 windows: " in capsys.readouterr().err
    assert "finding alignment heads" in [row["stage"] for row in read_jsonl(run / "stages.jsonl")]
    before = heads_of(run)
    scored.clear()
    assert samples.train_run(run, model=model, epochs=2) == 0  # goes on, and keeps them
    assert (scored, heads_of(run)) == ([], before)


def test_the_default_counts_as_none(samples: Samples, tmp_path: Path) -> None:
    model = without_heads(tmp_path / "model", [[0, 1], [7, 0]])  # of another decoder: the default on loading
    assert samples.train_run(tmp_path / "run", model=model, epochs=1) == 0
    assert len(heads_of(tmp_path / "run")) == 1


def test_none_where_words_may_be_in_another_order(
    samples: Samples, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A translation's words are not in the order of the speech; a row's own prompt is text that is not said."""
    model = without_heads(tmp_path / "model")
    header, *rows = samples.train.read_text(encoding="utf-8").splitlines()
    train = tmp_path / "train.csv"
    lines = [f"{header},prompt", *(f"{row},earlier" for row in rows)]
    train.write_text("\n".join(lines), encoding="utf-8")
    assert samples.train_run(tmp_path / "run", model=model, train=train, epochs=1) == 0
    assert "heads that align" not in capsys.readouterr().err
    assert not read_json(tmp_path / "run" / "best" / "generation_config.json").get("alignment_heads")


def test_a_models_own_list_stays(samples: Samples, tmp_path: Path) -> None:
    model = without_heads(tmp_path / "model", [[0, 1]])  # one of two
    assert samples.train_run(tmp_path / "run", model=model, epochs=1) == 0
    assert heads_of(tmp_path / "run") == [[0, 1]]
    assert "finding alignment heads" not in (tmp_path / "run" / "stages.jsonl").read_text(encoding="utf-8")


@given(st.integers(1, 12), st.integers(1, 20), st.integers(0, 10**6))
def test_the_best_of_any_decoder(layers: int, heads: int, seed: int) -> None:
    scores = np.random.default_rng(seed).standard_normal((layers, heads))
    found = best_heads(scores)
    assert len(found) == max(1, min(MOST_HEADS, layers * heads // 4))
    assert found == sorted(found)
    chosen = np.zeros((layers, heads), bool)
    chosen[tuple(np.array(found).T)] = True
    assert chosen.sum() == len(found)
    assert len(found) == scores.size or scores[chosen].min() >= scores[~chosen].max()
