"""Models of sizes that no Whisper has: fewer decoder positions work in every command, other encoders are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cli_samples import Command, Workspace, write_manifest
from safetensors.torch import load_file, save_file

Refused = Callable[..., str]
POSITIONS = 40


def resized(source: Path, folder: Path, *, side: str, rows: int) -> Path:
    """A copy of the model whose encoder or decoder has so many positions."""
    folder.mkdir()
    for file in source.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    name = f"model.{side}.embed_positions.weight"
    weights = load_file(folder / "model.safetensors")
    weights[name] = weights[name].repeat(4, 1)[:rows].contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    key = {"encoder": "max_source_positions", "decoder": "max_target_positions"}[side]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: rows}))
    return folder


@pytest.fixture(scope="module")
def short(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return resized(tiny_model, tmp_path_factory.mktemp("short") / "model", side="decoder", rows=POSITIONS)


@pytest.mark.parametrize("command_line", ["train", "evaluate", "transcribe", "check", "export"])
@pytest.mark.parametrize("rows", [750, 3000])
def test_another_encoder_is_refused(
    tiny_model: Path, workspace: Workspace, refused: Refused, tmp_path: Path, command_line: str, rows: int
) -> None:
    model = workspace.model = resized(tiny_model, tmp_path / "other", side="encoder", rows=rows)
    arguments = {
        "train": workspace.train(),
        "evaluate": workspace.evaluate(),
        "transcribe": ["transcribe", f"--model={model}", workspace.valid_rows[0]["audio"]],
        "check": ["check", str(write_manifest(tmp_path / "d.csv", workspace.valid_rows)), f"--model={model}"],
        "export": ["export", f"--model={model}", "--to=huggingface", f"--output={tmp_path / 'out'}"],
    }[command_line]
    window = f"windows of {rows / 50:g} s; only Whisper's own 1500"
    refused(arguments, f"{model}/config.json: `max_source_positions` is {rows}", window)


def test_too_few_positions_are_refused(
    tiny_model: Path, workspace: Workspace, refused: Refused, tmp_path: Path
) -> None:
    workspace.model = resized(tiny_model, tmp_path / "other", side="decoder", rows=8)
    refused(workspace.evaluate(), "`max_target_positions` is 8; a decoder needs at least 16")


@pytest.mark.parametrize("more", [[], ["--timestamps=true"], ["--long_form=true"], ["--hallucination=true"]])
def test_evaluate_with_a_short_decoder(short: Path, workspace: Workspace, command: Command, more: list[str]) -> None:
    """A random model does not end by itself: it writes until its positions are used up."""
    workspace.model = short
    output = workspace.folder / "out"
    outcome = command(workspace.evaluate(f"--output={output}", *more))
    assert outcome.status == 0, outcome.err
    assert "stopped at the most tokens" in outcome.out


def test_rows_that_do_not_fit_are_left_out_and_found_by_check(
    short: Path, workspace: Workspace, command: Command, tmp_path: Path
) -> None:
    workspace.model = short
    workspace.train_rows[0]["text"] = "x" * POSITIONS
    outcome = command(
        workspace.train("--max_steps=1", "--data.max_excluded=0.2", "--validation.max_tokens_per_second=none")
    )
    assert outcome.status == 0, outcome.err
    excluded = [json.loads(line) for line in (workspace.run / "excluded.jsonl").read_text().splitlines()]
    assert [row["reason"] for row in excluded] == [f"text and prompt are 45 tokens; this model takes {POSITIONS}"]
    data = write_manifest(tmp_path / "d.csv", workspace.train_rows)
    outcome = command(["check", str(data), f"--model={short}", "--language=it", f"--output={tmp_path / 'c'}"])
    found = [json.loads(line) for line in (tmp_path / "c" / "check.jsonl").read_text().splitlines()]
    details = [row["detail"] for row in found if row["kind"] == "too_many_tokens"]
    assert details == [f"45 tokens with the prompt; the limit is {POSITIONS}"]


def test_training_with_prompts_and_stitched_windows(short: Path, workspace: Workspace, command: Command) -> None:
    """Previous texts are cut to half of the positions, and no stitched window has more tokens than fit."""
    workspace.model = short
    windows = ["--windows.stitched_share=0.5", "--windows.min_utterances=2", "--windows.previous_text=1.0"]
    outcome = command(workspace.train("--epochs=1", *windows))
    assert outcome.status == 0, outcome.err


@pytest.mark.parametrize("timestamps", ["true", "false"])
def test_transcribe_with_a_short_decoder(short: Path, workspace: Workspace, command: Command, timestamps: str) -> None:
    given = ["transcribe", f"--model={short}", workspace.valid_rows[0]["audio"], "--language=it", "--temperature=[0]"]
    prompt = "--prompt=" + "una frase che non finisce mai " * 5
    outcome = command([*given, f"--timestamps={timestamps}", prompt, "--beam_size=2"])
    assert outcome.status == 0, outcome.err


def test_longer_decoders_keep_whispers_bound(tiny_model: Path, workspace: Workspace, command: Command) -> None:
    workspace.model = resized(tiny_model, workspace.folder / "long", side="decoder", rows=600)
    workspace.valid_rows = workspace.valid_rows[:1]
    outcome = command(workspace.evaluate())
    assert outcome.status == 0, outcome.err


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("to", ["huggingface", "ctranslate2", "openai", "ggml"])
def test_exports_of_a_short_decoder(
    short: Path, workspace: Workspace, command: Command, tmp_path: Path, to: str
) -> None:
    """Each format holds the number of positions, and its program, where it is installed, stops there as we do."""
    output = tmp_path / "out"
    outcome = command(["export", f"--model={short}", f"--to={to}", f"--output={output}"])
    if to == "ctranslate2":
        assert f"has {POSITIONS} decoder positions; faster-whisper always uses 448" in outcome.error
    if to in ("ctranslate2", "openai", "ggml"):  # two need feed-forward layers four times as wide as the model
        assert outcome.status == 2
        return
    assert outcome.status == 0, outcome.err
    generation = json.loads((output / "generation_config.json").read_text())
    assert generation["max_length"] == POSITIONS
    if to == "huggingface":
        model = pytest.importorskip("transformers").WhisperForConditionalGeneration.from_pretrained(output)
        tokens = model.generate(torch.zeros(1, 80, 3000), language="it", task="transcribe")
        assert tokens.shape[1] <= POSITIONS
