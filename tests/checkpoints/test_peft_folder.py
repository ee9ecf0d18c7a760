"""Folders with a LoRA adapter, as peft writes and loads them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from standard_samples import standard

from whispertune.checkpoints.checkpoint import load_checkpoint
from whispertune.checkpoints.checksums import write_checksums
from whispertune.checkpoints.huggingface import save_huggingface
from whispertune.checkpoints.layout import Checkpoint
from whispertune.checkpoints.peft import lasting_name, read_adapter, save_adapter
from whispertune.errors import CheckpointError
from whispertune.model.lora import Adapter, adapted_weights
from whispertune.model.options import LoraOptions
from whispertune.model.whisper import build_whisper

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, checkpoint = tmp_path_factory.mktemp("base") / "model", standard()
    save_huggingface(folder, checkpoint, checkpoint.weights, language="it", model_card=None)
    return folder


def theirs(base: Path, folder: Path, **config: Any) -> Any:
    """A model with a random adapter of peft, which is saved."""
    model = transformers.WhisperForConditionalGeneration.from_pretrained(base)
    torch.manual_seed(0)
    options = {"r": 2, "lora_alpha": 6, "target_modules": ["q_proj", "fc2"], "init_lora_weights": False, **config}
    tuned = peft.get_peft_model(model, peft.LoraConfig(**options))
    tuned.save_pretrained(folder)
    return tuned


def same_weights(ours: Checkpoint, tuned: Any) -> int:
    """Compare with what peft merges; the number of weights that the adapter changed."""
    merged = dict(tuned.merge_and_unload().named_parameters())
    for name, tensor in ours.weights.items():
        torch.testing.assert_close(tensor, merged[name].detach(), rtol=0, atol=1e-6)
    return sum(not torch.equal(tensor, standard().weights[name]) for name, tensor in ours.weights.items())


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"target_modules": r".*decoder.*(k_proj|out_proj)"}])
def test_theirs_is_merged_as_they_do(base: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    tuned = theirs(base, tmp_path / "adapter", **options)
    ours = load_checkpoint(str(tmp_path / "adapter"))  # the base by the name in its configuration
    assert (ours.source, ours.adapted_from) == (str(tmp_path / "adapter"), str(base))
    assert ours.generation == load_checkpoint(str(base)).generation
    assert ours.digest != load_checkpoint(str(base)).digest
    assert same_weights(ours, tuned) == (8 if "target_modules" in options else 10)


def test_pickled_and_of_the_bare_model(base: Path, tmp_path: Path) -> None:
    """As older versions of peft wrote it, and trained on WhisperModel."""
    adapter = tmp_path / "adapter"
    tuned = theirs(base, adapter)
    tensors = load_file(adapter / "adapter_model.safetensors")
    (adapter / "adapter_model.safetensors").unlink()
    bare = {name.replace("base_model.model.model.", "base_model.model."): value for name, value in tensors.items()}
    torch.save(bare, adapter / "adapter_model.bin")
    assert same_weights(load_checkpoint(str(adapter)), tuned) == 10


def test_ours_is_loaded_by_them(base: Path, tmp_path: Path) -> None:
    checkpoint, options = standard(), LoraOptions(rank=3, alpha=5, targets="attention", where="both")
    whisper = build_whisper(checkpoint.config, checkpoint.weights)
    adapter = Adapter(adapted_weights(whisper, options), options, seed=0)
    for factors in adapter.factors.values():
        factors.lora_B.data.normal_()
    generation = {**load_checkpoint(str(base)).generation, "language": "<|fr|>"}
    digests = save_adapter(tmp_path / "adapter", adapter, str(base), generation=generation)
    write_checksums(tmp_path / "adapter", digests, step=3)
    model = transformers.WhisperForConditionalGeneration.from_pretrained(base)
    tuned = peft.PeftModel.from_pretrained(model, str(tmp_path / "adapter"))
    assert sum(name.endswith("lora_A.default") for name, _ in tuned.named_modules()) == len(adapter.factors)
    ours = load_checkpoint(str(tmp_path / "adapter"))
    assert ours.generation["language"] == "<|fr|>"
    assert same_weights(ours, tuned) == len(adapter.factors)
    assert type(peft.AutoPeftModel.from_pretrained(str(tmp_path / "adapter")).base_model).__name__ == "LoraModel"
    save_adapter(tmp_path / "nothing", adapter, str(base), generation=generation, untouched=True)
    untouched = load_checkpoint(str(tmp_path / "nothing")).weights
    assert all(torch.equal(weight, untouched[name]) for name, weight in checkpoint.weights.items())


def test_the_base_by_name_or_given(base: Path, tmp_path: Path) -> None:
    def message(model: Path, **given: Any) -> str:
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(str(model), **given)
        return str(caught.value)

    adapter, moved = tmp_path / "adapter", tmp_path / "moved"
    theirs(base, adapter)
    shutil.copytree(base, moved)
    rename(adapter, base_model_name_or_path=str(tmp_path / "gone"))
    assert "the base model that its adapter_config.json names cannot be used" in message(adapter)
    assert "name the base model with --base" in message(adapter)
    assert load_checkpoint(str(adapter), base=str(moved)).adapted_from == str(moved)
    rename(adapter, base_model_name_or_path=None)
    assert "does not name the adapter's base model; name it with --base" in message(adapter)
    rename(adapter, base_model_name_or_path=str(adapter))
    assert "is an adapter itself" in message(adapter)
    assert "is a whole model, no adapter; leave --base out" in message(base, base=str(moved))
    assert "name the model that the adapter was trained on" in message(adapter, base="packaged:whisper-base")
    # A model beside the adapter is whole.
    shutil.copytree(adapter, moved, dirs_exist_ok=True)
    assert load_checkpoint(str(moved)).adapted_from is None


def test_an_adapter_on_the_hub(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = theirs(base, tmp_path)
    asked: list[str] = []

    def snapshot_download(repo_id: str, *, allow_patterns: list[str]) -> str:
        asked.extend(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    ours = load_checkpoint("someone/whisper-adapter")
    assert ours.source == "someone/whisper-adapter"
    assert same_weights(ours, tuned) == 10
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(asked)


def rename(adapter: Path, **changed: Any) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def test_lasting_names(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(base.parent)
    assert lasting_name("model") == str(base)
    shutil.copytree(base, tmp_path / "run" / "best")
    assert lasting_name(str(tmp_path / "run")) == str(tmp_path / "run" / "best")
    assert lasting_name("packaged:whisper-base") == "packaged:whisper-base"
    assert lasting_name("openai/whisper-base") == "openai/whisper-base"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"use_dora": True}, "`use_dora` is True, but only plain LoRA"),
        ({"modules_to_save": ["layer_norm"]}, r"`modules_to_save` is \['layer_norm'\]"),
        ({"rank_pattern": {"fc2": 4}}, "`rank_pattern`"),
        ({"alpha_pattern": {"fc2": 4}}, "`alpha_pattern`"),
        ({"bias": "lora_only"}, "`bias` is lora_only"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "which is no factor of a linear layer"),
        ({"target_modules": ["proj_out"]}, "adapts model.proj_out.weight, which is no linear layer"),
        ({"target_modules": ["conv1"]}, "which is no factor of a linear layer"),
        ({"init_lora_weights": "olora"}, "`init_lora_weights` is olora"),
    ],
)
def test_more_than_plain_lora_is_refused(base: Path, tmp_path: Path, options: dict[str, Any], problem: str) -> None:
    theirs(base, tmp_path / "adapter", **options)
    with pytest.raises(CheckpointError, match=problem) as caught:
        load_checkpoint(str(tmp_path / "adapter"))
    assert "\n" not in str(caught.value)


Change = Callable[[Path], object]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda folder: (folder / "adapter_config.json").write_text("["), "is not valid JSON"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "adapter_model.safetensors: is missing"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x" * 99), "is damaged or cut short"),
        (lambda folder: rename(folder, peft_type="IA3"), "`peft_type` is IA3"),
        (lambda folder: rename(folder, r=0), "`r` is 0, not a number above 0"),
        (lambda folder: rename(folder, lora_alpha="x"), "`lora_alpha` is x, not a number above 0"),
        (lambda folder: retain(folder, "lora_A"), "lacks one of the factors of"),
        (lambda folder: retain(folder, "none"), "holds no factors"),
        (lambda folder: retain(folder, "lora", torch.nan), "values that are not finite"),
        (lambda folder: write_checksums(folder, {"adapter_config.json": "0"}), "has changed since it was written"),
    ],
)
def test_damage_is_one_line(base: Path, tmp_path: Path, change: Change, problem: str) -> None:
    theirs(base, tmp_path / "adapter")
    change(tmp_path / "adapter")
    with pytest.raises(CheckpointError, match=problem) as caught:
        read_adapter(tmp_path / "adapter", load_checkpoint(str(base)), source="adapter")
    assert "\n" not in str(caught.value)


def retain(folder: Path, part: str, factor: float = 1.0) -> None:
    """Keep the tensors whose names hold this, times a factor."""
    path = folder / "adapter_model.safetensors"
    save_file({name: tensor * factor for name, tensor in load_file(path).items() if part in name}, path)
