"""Read and write LoRA adapters as `peft` does: a folder with the factors of some of a model's weights, in
`adapter_model.safetensors`, and the name of that model, in `adapter_config.json`."""

from __future__ import annotations

import hashlib
import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file

from whispertune.checkpoints.checksums import read_about, require_unchanged
from whispertune.checkpoints.generation import complete_generation
from whispertune.checkpoints.json_files import read_json
from whispertune.checkpoints.layout import Checkpoint, check_weights, unwrapped
from whispertune.checkpoints.pickled import load_pickled
from whispertune.checkpoints.side_files import not_written
from whispertune.checkpoints.tokenizer_files import as_json, complete_tokenizer
from whispertune.errors import CheckpointError
from whispertune.model.lora import Adapter, layer_pattern, merged_weight
from whispertune.system.files import sha256_of
from whispertune.system.home import expand_home
from whispertune.system.tensor_file import save_file

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLED = "adapter_model.bin"
GENERATION = "generation_config.json"
"""Beside our own adapters, and unknown to peft: language and task that the adapter was trained for."""
PREFIX = "base_model.model."

_READ = ("peft_type", "r", "lora_alpha", "use_rslora", "bias", "init_lora_weights")
_WITHOUT_EFFECT = (
    "alora_invocation_tokens", "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying",
    "eva_config", "exclude_modules", "inference_mode", "layers_pattern", "layers_to_transform", "loftq_config",
    "lora_dropout", "lora_ga_config", "megatron_config", "megatron_core", "peft_version", "qalora_group_size",
    "revision", "runtime_config", "target_modules", "task_type",
)  # fmt: skip
"""Settings that decide nothing once the factors are there, which say by their names which weights they are for."""
_USUAL_INITIAL_VALUES = (True, False, None, "gaussian", "eva", "orthogonal")
"""With any other, peft changes the base model, too (PiSSA and its like)."""
_FACTOR = re.compile(r"(.+)\.lora_([AB])(?:\.default)?\.weight")


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, and no model."""
    whole = ("model.safetensors", "pytorch_model.bin", "model.bin")
    named = [name for file in whole for name in (file, f"{file}.index.json")]
    return (folder / CONFIG).is_file() and not any((folder / name).exists() for name in named)


def base_name(folder: Path) -> str | None:
    """The model that an adapter was trained on, as its configuration names it."""
    name = read_json(folder / CONFIG).get("base_model_name_or_path")
    return name if isinstance(name, str) and name.strip() else None


def read_adapter(folder: Path, base: Checkpoint, *, source: str) -> Checkpoint:
    """The checkpoint of a base model with an adapter's updates merged into its weights, which then are in float32.

    Raises:
        CheckpointError: if a file is missing or damaged, the adapter does not fit the base, or is more than plain LoRA.
    """
    require_unchanged(folder)
    scale = _scale(folder / CONFIG)
    path, factors = _read_factors(folder)
    weights = dict(base.weights)
    for name, (first, second) in factors.items():
        weight = weights.get(name)
        fits = weight is not None and weight.ndim == 2 and ".layers." in name
        if not fits or weight is None:
            raise CheckpointError(f"{path}: adapts {name}, which is no linear layer of {base.source}")
        if (second.shape[0], first.shape[1]) != tuple(weight.shape) or second.shape[1] != first.shape[0]:
            raise CheckpointError(
                f"{path}: its factors of {name} are {tuple(second.shape)} x {tuple(first.shape)}, but the weight in "
                f"{base.source} is {tuple(weight.shape)}; name the model that the adapter was trained on with --base"
            )
        weights[name] = merged_weight(weight, first, second, scale)
    check_weights(weights, base.config, str(path))
    generation = base.generation
    if (folder / GENERATION).is_file():
        _, ids = complete_tokenizer(base.tokenizer_json, base.config.vocab_size, f"{base.source}: tokenizer.json")
        given = {**generation, **read_json(folder / GENERATION)}
        generation = complete_generation(given, base.config, ids, str(folder / GENERATION))
    known_by = f"{base.digest} {sha256_of(path)} {scale!r}"
    digest = hashlib.sha256(known_by.encode()).hexdigest()
    return replace(base, weights=weights, generation=generation, source=source, digest=digest, adapted_from=base.source)


def _scale(path: Path) -> float:
    """What an adapter's products are multiplied by; refuses whatever is not plain LoRA."""
    config = read_json(path)

    def refuse(key: str) -> CheckpointError:
        return CheckpointError(
            f"{path}: `{key}` is {config.get(key)!s:.80}, but only plain LoRA of linear layers can be read; merge "
            "the adapter in peft (merge_and_unload), and give the merged model"
        )

    if config.get("peft_type") != "LORA":
        raise refuse("peft_type")
    if config.get("bias", "none") != "none":
        raise refuse("bias")
    if config.get("init_lora_weights", True) not in _USUAL_INITIAL_VALUES:
        raise refuse("init_lora_weights")
    for key, value in config.items():
        if value and key not in (*_READ, *_WITHOUT_EFFECT):
            raise refuse(key)
    rank, alpha = config.get("r"), config.get("lora_alpha")
    for key, value in (("r", rank), ("lora_alpha", alpha)):
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
            raise CheckpointError(f"{path}: `{key}` is {value!s:.80}, not a number above 0")
    return float(alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))  # type: ignore[operator, arg-type]


def _read_factors(folder: Path) -> tuple[Path, dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """The file, and A (rank, in) and B (out, rank) of each weight, by the weight's name."""
    path = folder / WEIGHTS
    if not path.exists() and (folder / PICKLED).exists():
        path = folder / PICKLED
    try:
        tensors = load_file(path) if path.name == WEIGHTS else load_pickled(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: is missing; copy or download it again") from None
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read ({error.strerror or error})") from error
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: is damaged or cut short; copy or download it again ({error})") from error
    if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise CheckpointError(f"{path}: does not hold named tensors")
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        match = _FACTOR.fullmatch(unwrapped(str(name).removeprefix(PREFIX)))
        if match is None or tensor.ndim != 2:
            raise CheckpointError(
                f"{path}: holds {name!s:.100}, which is no factor of a linear layer; merge the adapter in peft "
                "(merge_and_unload), and give the merged model"
            )
        module = match[1] if match[1].startswith("model.") else f"model.{match[1]}"
        found.setdefault(f"{module}.weight", {})[match[2]] = tensor
    incomplete = [name for name, pair in found.items() if len(pair) < 2]
    if incomplete or not found:
        lacks = f"lacks one of the factors of {incomplete[0]}" if incomplete else "holds no factors"
        raise CheckpointError(f"{path}: {lacks}; copy or download it again")
    return path, {name: (pair["A"], pair["B"]) for name, pair in found.items()}


def save_adapter(
    folder: Path, adapter: Adapter, base: str, *, generation: Mapping[str, Any], untouched: bool = False
) -> dict[str, str]:
    """Write an adapter into `folder` such that `peft` loads it on transformers' model.

    base: the name of the model it is for. generation: the model's generation config. untouched: write B as zero, so
    that it changes nothing.

    Returns the sha256 of each file. Raises CheckpointError if the folder can't be written; StorageError if the disk is
    full.
    """
    tensors = {}
    for name, factors in adapter.factors.items():
        module = PREFIX + name.removesuffix(".weight")
        second = torch.zeros_like(factors.lora_B) if untouched else factors.lora_B
        tensors[f"{module}.lora_A.weight"] = factors.lora_A.detach().cpu()
        tensors[f"{module}.lora_B.weight"] = second.detach().cpu()
    options = adapter.options
    alpha = options.resolved_alpha
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "auto_mapping": {
            "base_model_class": "WhisperForConditionalGeneration",
            "parent_library": "transformers.models.whisper.modeling_whisper",
        },
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": options.rank,
        "lora_alpha": int(alpha) if alpha == int(alpha) else alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": layer_pattern(options),
    }
    texts = {CONFIG: as_json(config), GENERATION: as_json(dict(generation))}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        digests = {WEIGHTS: save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})}
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8", newline="\n")
            digests[name] = hashlib.sha256(text.encode()).hexdigest()
    except OSError as error:
        raise not_written(folder, error) from error
    return digests


def lasting_name(model: str) -> str:
    """A name for the base model that holds in any working folder, and that transformers opens if it can: the absolute
    path of a folder or file, of a run that of its best/."""
    path = expand_home(model)
    if not model or not path.exists():
        return model
    if (path / "best").is_dir() and not (path / "config.json").exists():
        path = path / "best"
    return str(path.resolve())


def find_adapter(model: str) -> Path:
    """The folder of the adapter that a model is, or that a run has beside its best/.

    Raises:
        CheckpointError: if there is none, or it is of another update than best/, as a killed run may leave it.
    """
    path = expand_home(model)
    if model and path.is_dir() and is_adapter(path):
        return path
    if not model or not is_adapter(path / "adapter"):
        raise CheckpointError(
            f"{model}: has no LoRA adapter, as only a run with lora.rank has; --to huggingface exports the whole model"
        )
    if read_about(path / "adapter") != read_about(path / "best"):
        raise CheckpointError(f"{path}: its adapter/ and its best/ are of different updates; resume the run")
    return path / "adapter"


def copy_adapter(source: Path, folder: Path, base: str | None) -> None:
    """Copy an adapter that can be read into `folder`. base: the name of its base model, if not the one it has.

    Raises:
        CheckpointError: if the adapter is damaged or more than plain LoRA, or the folder can't be written; StorageError
            if the disk is full.
    """
    require_unchanged(source)
    _scale(source / CONFIG)
    path, _ = _read_factors(source)
    config = read_json(source / CONFIG)
    if base is not None:
        config["base_model_name_or_path"] = base
    try:
        (folder / CONFIG).write_text(as_json(config), encoding="utf-8", newline="\n")
        for file in (path, source / GENERATION):
            if file.is_file():
                shutil.copyfile(file, folder / file.name)
    except OSError as error:
        raise not_written(folder, error) from error
