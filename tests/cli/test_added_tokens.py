"""Models to whose vocabulary a user added text or a language, as transformers saves them, from each command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_samples import Command, Workspace, example_rows, write_manifest

from whispertune.checkpoints.checkpoint import load_checkpoint
from whispertune.data.audio.waveforms import load_utterance
from whispertune.data.utterances import Utterance
from whispertune.decoding.loading import load_model

transformers = pytest.importorskip("transformers")
Refused = Callable[..., str]

WORD, LANGUAGE = 51_865, 51_867
LOUD = 40.0


def extended(source: Path, folder: Path, *texts: str, language: str | None = None) -> Any:
    """The model of `source` with text tokens, and a language, added by transformers' own means; saved in `folder`."""
    tokenizer = transformers.WhisperTokenizer.from_pretrained(source)
    model = transformers.WhisperForConditionalGeneration.from_pretrained(source)
    tokenizer.add_tokens(list(texts))
    if language is not None:
        tokenizer.add_tokens([language], special_tokens=True)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():  # the first of them is what is said
        rows = model.model.decoder.embed_tokens.weight
        rows[WORD] = 3 * rows[5].roll(3)
        model.model.decoder.layer_norm.bias.copy_(LOUD * rows[WORD] / rows[WORD].square().sum())
    if language is not None:
        model.generation_config.lang_to_id[language] = tokenizer.convert_tokens_to_ids(language)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer


@pytest.fixture(scope="module")
def added(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("added")
    extended(tiny_model, folder, "ŋgarra", "zzz", language="<|sc|>")
    return folder


@pytest.mark.parametrize("language", ["it", "sc"])
def test_evaluate_writes_down_what_transformers_does(
    added: Path, workspace: Workspace, command: Command, tmp_path: Path, language: str
) -> None:
    rows = example_rows("valid", 1)
    data = write_manifest(tmp_path / "data.csv", [{"audio": r["audio"], "text": "zzz è ŋgarra"} for r in rows])
    flags = [f"--model={added}", f"--data={data}", f"--language={language}", "--precision=fp32", "--beam_size=1"]
    outcome = command(["evaluate", *flags, f"--output={tmp_path / 'out'}"])
    assert outcome.status == 0, outcome.err
    ours = [json.loads(line)["hypothesis"] for line in (tmp_path / "out" / "hypotheses.jsonl").read_text().splitlines()]
    model = transformers.WhisperForConditionalGeneration.from_pretrained(added).eval()
    tokenizer = transformers.WhisperTokenizer.from_pretrained(added)
    features = transformers.WhisperFeatureExtractor()
    for said, row in zip(ours, rows, strict=True):
        waveform = load_utterance(Utterance(id="a", audio=Path(row["audio"]), text=""))
        inputs = features(waveform, sampling_rate=16_000, return_tensors="pt").input_features
        tokens = model.generate(inputs, language=f"<|{language}|>", task="transcribe", num_beams=1, do_sample=False)
        assert said == tokenizer.batch_decode(tokens, skip_special_tokens=True)[0].strip()
        assert "ŋgarra" in said


def test_transcribe_keeps_added_text_with_and_without_timestamps(added: Path, command: Command) -> None:
    audio = example_rows("valid", 1)[0]["audio"]
    for more in (["--timestamps=true"], ["--timestamps=false"]):
        flags = [f"--model={added}", audio, "--language=sc", "--temperature=[0]", "--beam_size=1"]
        outcome = command(["transcribe", *flags, "--no_speech_threshold=null", *more])
        assert outcome.status == 0, outcome.err
        assert "ŋgarra" in outcome.out
        assert "language  sc (Sardinian), as asked for" in outcome.err


def test_training_uses_added_text_and_the_saved_model_has_it(
    added: Path, workspace: Workspace, command: Command, tmp_path: Path
) -> None:
    """The gradient reaches the rows of the added tokens, and transformers opens what is saved with the same ids."""
    workspace.model = added
    for row in workspace.train_rows:
        row["text"] = f"{row['text']} zzz"
    flags = ["--language=sc", "--max_steps=1", "--schedule.name=constant", "--schedule.peak_lr=0.01"]
    outcome = command(workspace.train(*flags, without=["language"]))
    assert outcome.status == 0, outcome.err
    assert "token of" not in outcome.err  # it borrows none
    best = workspace.run / "best"
    generation = json.loads((best / "generation_config.json").read_text())
    assert generation["language"] == "<|sc|>"
    assert generation["lang_to_id"]["<|sc|>"] == LANGUAGE
    theirs, again = (transformers.WhisperTokenizer.from_pretrained(folder) for folder in (added, best))
    text = " è zzz ŋgarra"
    assert again(text, add_special_tokens=False).input_ids == theirs(text, add_special_tokens=False).input_ids
    ready = load_model(str(best), torch.device("cpu"))
    assert ready.tokenizer.text_ids(text, "sc") == theirs(text, add_special_tokens=False).input_ids
    transformers.WhisperForConditionalGeneration.from_pretrained(best)
    last = load_checkpoint(str(best)).weights["model.decoder.embed_tokens.weight"]
    first = load_checkpoint(str(added)).weights["model.decoder.embed_tokens.weight"]
    assert last.shape == first.shape == (LANGUAGE + 1, 64)


@pytest.mark.parametrize(
    ("to", "program"), [("ctranslate2", "faster-whisper"), ("ggml", "pywhispercpp"), ("openai", "openai-whisper")]
)
def test_formats_whose_programs_would_lose_words_are_refused(
    added: Path, tiny_model: Path, tmp_path: Path, refused: Refused, to: str, program: str
) -> None:
    """faster-whisper and openai-whisper decode ids below end of text only."""
    output = tmp_path / "out"
    expected = f"{program} loses the text token 'ŋgarra' and 1 more, which was added", "only --to huggingface"
    refused(["export", f"--model={added}", f"--to={to}", f"--output={output}"], *expected)
    one = tmp_path / "one"
    extended(tiny_model, one, "zzz")
    refused(["export", f"--model={one}", f"--to={to}", f"--output={output}"], f"{program} loses the text token 'zzz'")
    own = tmp_path / "own"
    extended(tiny_model, own, language="<|sc|>")
    generation = json.loads((own / "generation_config.json").read_text())
    (own / "generation_config.json").write_text(json.dumps(generation | {"language": "<|sc|>"}))
    refused(
        ["export", f"--model={own}", f"--to={to}", f"--output={output}"], "trained on 'sc', a language token of its"
    )
    assert not output.exists()


def test_a_language_of_its_own_is_none_of_faster_whispers(tiny_model: Path, tmp_path: Path, command: Command) -> None:
    """It would fail where it detects one that it does not know."""
    pytest.importorskip("ctranslate2")
    own = tmp_path / "own"
    extended(tiny_model, own, language="<|sc|>")
    outcome = command(["export", f"--model={own}", "--to=ctranslate2", f"--output={tmp_path / 'out'}"])
    assert outcome.status == 0, outcome.err
    assert WORD not in json.loads((tmp_path / "out" / "config.json").read_text())["lang_ids"]
    assert load_checkpoint(str(tmp_path / "out")).generation["lang_to_id"]["<|sc|>"] == WORD


def test_the_hugging_face_export_is_the_model(added: Path, tmp_path: Path, command: Command) -> None:
    output = tmp_path / "out"
    audio = example_rows("valid", 1)[0]["audio"]
    flags = ["export", f"--model={added}", "--to=huggingface", f"--output={output}", "--verify", audio, "--language=it"]
    outcome = command(flags)
    assert outcome.status == 0, outcome.err
    assert ": 1 of 1 transcript\n" in outcome.out


@pytest.fixture(scope="module")
def cut(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model resized to a tokenizer that lists no timestamps."""
    folder = tmp_path_factory.mktemp("cut")
    model = transformers.WhisperForConditionalGeneration.from_pretrained(tiny_model)
    model.resize_token_embeddings(50_364)
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes((tiny_model / "tokenizer.json").read_bytes())
    return folder


def test_a_vocabulary_without_timestamps(
    cut: Path, workspace: Workspace, command: Command, refused: Refused, tmp_path: Path
) -> None:
    missing = "50364 tokens do not include timestamps"
    audio = example_rows("valid", 1)[0]["audio"]
    refused(["transcribe", f"--model={cut}", audio, "--language=it"], missing)
    short = ["--language=it", "--temperature=[0]", "--beam_size=1"]
    assert command(["transcribe", f"--model={cut}", audio, *short, "--timestamps=false"]).status == 0
    workspace.model = cut
    for probe in ("--timestamps=true", "--long_form=true"):
        refused(workspace.evaluate(probe), missing)
    assert command(workspace.evaluate()).status == 0
    stitched = ["--windows.stitched_share=0.5", "--windows.min_utterances=2"]
    refused(workspace.train(*stitched), "windows.timestamps is 0.5", missing, "--windows.timestamps 0")
    outcome = command(
        workspace.train(*stitched, "--windows.timestamps=0", "--max_steps=1", f"--output={tmp_path / 'r'}")
    )
    assert outcome.status == 0, outcome.err
    for to in ("ctranslate2", "ggml", "openai"):
        refused(["export", f"--model={cut}", f"--to={to}", f"--output={tmp_path / 'out'}"], missing)
    assert command(["export", f"--model={cut}", "--to=huggingface", f"--output={tmp_path / 'out'}"]).status == 0
