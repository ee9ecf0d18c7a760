"""Models that name no alignment heads get some that are found on the training data; others keep theirs."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

sys.path += [str(Path(__file__).parents[1] / name) for name in ("training", "checkpoints")]
from checkpoint_samples import TOKENIZER
from process_samples import Launcher
from training_samples import CLIPS, CONFIG, TRAIN_IDS, Samples, make_samples, save_tiny_model

from whispertune.checkpoints.json_files import read_json
from whispertune.data.audio.waveforms import load_waveform
from whispertune.decoding import alignment_heads as scoring
from whispertune.decoding.alignment import SpokenTexts
from whispertune.decoding.alignment_heads import MOST_HEADS, best_heads
from whispertune.run import alignment_heads
from whispertune.run.alignment_heads import chosen_windows
from whispertune.system.files import read_jsonl
from whispertune.text.tokenizer import Tokenizer

TOKENS = Tokenizer(TOKENIZER)
OTHER = [0, 1]
"""One of the decoder's two heads, both of which are the default."""


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    return make_samples(tmp_path_factory.mktemp("samples"))


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Any:
    launcher = Launcher(tmp_path_factory.mktemp("launcher") / "logs")
    yield launcher
    launcher.close()


def without_heads(folder: Path, heads: Any = ()) -> Path:
    """The tiny model with another list of heads, or none."""
    path = save_tiny_model(folder) / "generation_config.json"
    settings = read_json(path)
    settings.pop("alignment_heads", None)
    path.write_text(json.dumps(settings | ({"alignment_heads": heads} if heads else {})), encoding="utf-8")
    return folder


def heads_of(run: Path) -> Any:
    return read_json(run / "best" / "generation_config.json").get("alignment_heads")


class Scores:
    """In place of `head_scores`: notes what it is given, and returns scores by the texts' first tokens."""

    def __init__(self, score: Callable[[list[int]], float]) -> None:
        self.score = score
        self.texts: list[tuple[int, ...]] = []
        self.prompts: list[tuple[int, ...]] = []
        self.num_frames: list[int] = []

    def __call__(self, _decoder: Any, _tokenizer: Any, spoken: SpokenTexts) -> Any:
        self.texts += map(tuple, spoken.texts)
        self.prompts += map(tuple, spoken.prompts)
        self.num_frames += spoken.num_frames
        first = sum(self.score(list(text)) for text in spoken.texts)
        return np.array([[first, -first]])


@pytest.fixture
def scores(monkeypatch: pytest.MonkeyPatch) -> Scores:
    found = Scores(lambda text: -1.0)
    monkeypatch.setattr(alignment_heads, "head_scores", found)
    return found


def rows_of(manifest: Path) -> list[dict[str, str]]:
    with manifest.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def rewritten(manifest: Path, path: Path, **columns: dict[str, str]) -> Path:
    """The manifest with further columns: value by id, else empty."""
    rows = [row | {name: by_id.get(row["id"], "") for name, by_id in columns.items()} for row in rows_of(manifest)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_every_head_is_asked_about_what_is_said(
    samples: Samples,
    tmp_path: Path,
    scores: Scores,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The texts with their own audio, and no other text before them, whatever the run trains on."""
    heard: list[float] = []
    real = alignment_heads.window_features

    def features(waveform: Any, *arguments: Any) -> Any:
        heard.append(float(np.std(waveform)))
        return real(waveform, *arguments)

    monkeypatch.setattr(alignment_heads, "window_features", features)
    model, run = without_heads(tmp_path / "model"), tmp_path / "run"
    fields: dict[str, Any] = {"windows__stitched_share": 0.5, "windows__previous_text": 1.0, "max_steps": 1}
    assert samples.train_run(run, model=model, **fields) == 0
    waveforms = [load_waveform(Path(row["audio"])) for row in rows_of(samples.train)]
    expected = {
        tuple(TOKENS.text_ids(row["text"], "en")): len(waveform) // 320
        for row, waveform in zip(rows_of(samples.train), waveforms, strict=True)
    }
    assert len(scores.texts) > len(expected) == 11  # stitched windows as well
    assert expected.items() <= dict(zip(scores.texts, scores.num_frames, strict=True)).items()
    assert {float(np.std(waveform)) for waveform in waveforms} <= set(heard)
    assert set(scores.prompts) == {tuple(TOKENS.prompt_tokens("en", "transcribe"))}
    assert max(map(max, scores.texts)) < TOKENS.eot  # no timestamps
    assert heads_of(run) == [OTHER]
    assert "words     heads that align them, found on " in capsys.readouterr().err
    assert "finding alignment heads" in [row["stage"] for row in read_jsonl(run / "stages.jsonl")]


def test_previous_texts_are_left_out(samples: Samples, tmp_path: Path, scores: Scores) -> None:
    """Of rows that follow each other in one recording, whose prompts in training are the text before."""
    soundfile.write(tmp_path / "long.wav", np.random.default_rng(0).normal(0, 0.1, 96_000), 16_000)
    rows = [f"r{n},long.wav,{n},{n + 1},parola {n}" for n in range(6)]
    (tmp_path / "train.csv").write_text("\n".join(["id,audio,start,end,text", *rows]), encoding="utf-8")
    fields: dict[str, Any] = {"train": tmp_path / "train.csv", "windows__previous_text": 1.0, "max_steps": 1}
    fields["windows__stitched_share"] = 0
    assert samples.train_run(tmp_path / "run", model=without_heads(tmp_path / "model"), **fields) == 0
    assert set(scores.prompts) == {tuple(TOKENS.prompt_tokens("en", "transcribe"))}
    assert set(scores.texts) == {tuple(TOKENS.text_ids(f"parola {n}", "en")) for n in range(6)}


def test_scores_of_all_windows_count(samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not those of the last batch alone: one window decides against all others."""
    seen: list[int] = []

    def score(text: list[int]) -> float:
        seen.append(len(seen))
        return 100.0 if len(seen) == 1 else -1.0

    monkeypatch.setattr(alignment_heads, "head_scores", Scores(score))
    assert samples.train_run(tmp_path / "run", model=without_heads(tmp_path / "model"), epochs=1) == 0
    assert len(seen) == 11
    assert heads_of(tmp_path / "run") == [[0, 0]]


def test_rows_whose_text_is_not_what_is_said(samples: Samples, tmp_path: Path, scores: Scores) -> None:
    """Left out: a row with a prompt of its own, and one whose audio turns out to be damaged."""
    first, second = TRAIN_IDS[:2]
    waveform, rate = soundfile.read(CLIPS / "audio" / f"{first}.opus", dtype="int16")
    soundfile.write(tmp_path / "damaged.flac", waveform, rate)
    content = bytearray((tmp_path / "damaged.flac").read_bytes())
    content[len(content) // 4 : -200] = bytes(len(content) - 200 - len(content) // 4)
    (tmp_path / "damaged.flac").write_bytes(content)
    train = rewritten(samples.train, tmp_path / "train.csv", prompt={second: "earlier"})
    train.write_text(
        re.sub(rf"[^,]*/{first}\.opus", str(tmp_path / "damaged.flac"), train.read_text(encoding="utf-8")),
        encoding="utf-8",
    )
    fields = {"train": train, "data__check_audio": "headers", "data__max_excluded": 0.3, "epochs": 1}
    assert samples.train_run(tmp_path / "run", model=without_heads(tmp_path / "model"), **fields) == 0
    assert len(scores.texts) == 9
    (left_out,) = read_jsonl(tmp_path / "run" / "excluded.jsonl")
    assert left_out["id"] == first


def test_none_without_a_usable_row(
    samples: Samples, tmp_path: Path, scores: Scores, capsys: pytest.CaptureFixture[str]
) -> None:
    train = rewritten(samples.train, tmp_path / "train.csv", prompt=dict.fromkeys(TRAIN_IDS, "earlier"))
    assert samples.train_run(tmp_path / "run", model=without_heads(tmp_path / "model"), train=train, epochs=1) == 0
    assert scores.texts == []
    assert "heads that align" not in capsys.readouterr().err
    assert not heads_of(tmp_path / "run")


@pytest.mark.parametrize(("task", "used"), [("transcribe", True), ("translate", False)])
def test_translations_are_in_another_order(task: str, used: bool) -> None:
    class Row:
        prompt = None

    class Window:
        utterances = (Row(),)

    Row.task = None  # type: ignore[attr-defined]
    assert alignment_heads._in_order(Window(), task) is used  # type: ignore[arg-type]
    Row.task = task  # type: ignore[attr-defined]
    assert alignment_heads._in_order(Window(), "transcribe") is used  # type: ignore[arg-type]


def test_chosen_once(samples: Samples, tmp_path: Path, scores: Scores) -> None:
    """A resume keeps them; a run that begins anew beside an old best/ looks again."""
    model, run = without_heads(tmp_path / "model"), tmp_path / "run"
    assert samples.train_run(run, model=model, epochs=1) == 0
    assert (len(scores.texts), heads_of(run)) == (11, [OTHER])
    scores.score = lambda text: 1.0
    assert samples.train_run(run, model=model, epochs=2) == 0
    assert (len(scores.texts), heads_of(run)) == (11, [OTHER])
    (run / "last" / "state.safetensors").unlink()
    assert samples.train_run(run, model=model, epochs=2) == 0
    assert (len(scores.texts), heads_of(run)) == (22, [[0, 0]])


def test_several_processes_find_what_one_does(samples: Samples, tmp_path: Path, launch: Launcher) -> None:
    model = without_heads(tmp_path / "model")
    assert samples.train_run(tmp_path / "one", model=model, max_steps=1) == 0
    several = launch(samples.arguments(tmp_path / "two", model=model, max_steps=1))
    assert several.statuses == [0, 0], several.logs
    assert heads_of(tmp_path / "two") == heads_of(tmp_path / "one")
    assert len(heads_of(tmp_path / "one")) == 1


def test_the_default_counts_as_none(samples: Samples, tmp_path: Path) -> None:
    model = without_heads(tmp_path / "model", [[0, 1], [7, 0]])  # of another decoder: the default on loading
    assert samples.train_run(tmp_path / "run", model=model, epochs=1) == 0
    assert len(heads_of(tmp_path / "run")) == 1


def test_a_models_own_list_stays(samples: Samples, tmp_path: Path, scores: Scores) -> None:
    model = without_heads(tmp_path / "model", [OTHER])
    assert samples.train_run(tmp_path / "run", model=model, epochs=1) == 0
    assert heads_of(tmp_path / "run") == [OTHER]
    assert scores.texts == []
    assert "finding alignment heads" not in (tmp_path / "run" / "stages.jsonl").read_text(encoding="utf-8")


def test_a_head_on_a_straight_path_scores_highest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one layer's three heads: peaks on a monotonic path, the same peaks in another order, and none."""
    draws = np.random.default_rng(0)
    windows = []
    for tokens, frames in ((6, 40), (9, 55)):
        straight = np.full((tokens, frames), -0.2)
        for token in range(tokens):
            straight[token, token * frames // tokens : (token + 1) * frames // tokens] = 2.0
        shuffled = straight[draws.permutation(tokens)]
        windows.append(torch.from_numpy(np.stack([shuffled, straight, np.zeros_like(straight)])))

    def watch(*arguments: Any) -> None:
        for row, window in enumerate(windows):
            arguments[-1](0, row, window)

    monkeypatch.setattr(scoring, "watch_attention", watch)

    class Decoder:
        layers = (None,)
        num_heads = 3

    spoken = SpokenTexts(None, [[1]] * 2, [[1]] * 2, [1, 1])  # type: ignore[arg-type]
    found = scoring.head_scores(Decoder(), None, spoken)  # type: ignore[arg-type]
    assert found.shape == (1, 3)
    assert found[0, 1] == pytest.approx(2 * 2.0)  # every step of its path is on a peak, in both windows
    assert found[0, 1] > found[0, 0] + 1 > found[0, 2] + 1


@given(st.lists(st.integers(1, 480_000), min_size=1, max_size=400))
def test_windows_that_are_chosen(num_samples: list[int]) -> None:
    found = chosen_windows(num_samples)
    assert len(set(found)) == len(found) <= alignment_heads.WINDOWS
    assert set(found) <= set(range(len(num_samples)))
    lengths = [num_samples[index] for index in found]
    assert len(found) == 1 or sum(lengths) <= alignment_heads.MOST_SECONDS * 16_000
    if max(num_samples) <= 160_000:
        assert len(found) == min(len(num_samples), alignment_heads.WINDOWS)
    assert [abs(n - 80_000) for n in lengths] == sorted(abs(n - 80_000) for n in lengths)


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


assert (CONFIG.decoder_layers, CONFIG.decoder_attention_heads) == (1, 2)
