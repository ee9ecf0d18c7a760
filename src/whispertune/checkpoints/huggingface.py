"""Read and write Hugging Face Whisper folders, as `transformers` opens them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file

from whispertune.checkpoints.checksums import require_unchanged
from whispertune.checkpoints.generation import (
    ALIASES,
    TRAINED_TIMESTAMPS,
    complete_generation,
    complete_preprocessor,
    token_code,
)
from whispertune.checkpoints.json_files import read_json, read_text
from whispertune.checkpoints.layout import Checkpoint, canonical_weights, check_weights, read_config
from whispertune.checkpoints.pickled import load_pickled
from whispertune.checkpoints.side_files import not_written
from whispertune.checkpoints.tokenizer_files import (
    as_json,
    build_tokenizer,
    companion_files,
    complete_tokenizer,
)
from whispertune.errors import CheckpointError
from whispertune.system.tensor_file import save_file

MAX_SHARD_BYTES = 50 * 10**9
"""Default for the most bytes of weights per file: that of transformers, which no Whisper reaches."""

INDEX = "model.safetensors.index.json"
"""Name of the file that maps tensors to files, if there are several."""


def read_folder(folder: Path, *, source: str) -> Checkpoint:
    """The checkpoint in a Hugging Face folder: safetensors or `pytorch_model.bin`, in one file or sharded.

    Raises CheckpointError if a file is missing or damaged, or the model is not a plain Whisper.
    """
    config_path = folder / "config.json"
    settings = read_json(config_path)
    for key, needed in (
        ("model_type", "whisper"),
        ("activation_function", "gelu"),
        ("scale_embedding", False),
    ):
        if settings.get(key, needed) != needed:
            raise CheckpointError(f"{config_path}: `{key}` is {settings[key]!r}, but {needed!r} for a Whisper")
    config = read_config(settings, str(config_path))
    tensors, digest, by_file = _read_weights(folder)
    require_unchanged(folder, by_file)
    weights = canonical_weights(tensors, str(folder))
    check_weights(weights, config, str(folder))
    tokenizer_json, ids = complete_tokenizer(_read_tokenizer(folder), config.vocab_size, f"{folder}/tokenizer.json")
    # Before generation_config.json existed, these were in config.json.
    given: dict[str, Any] = {
        key: settings[key]
        for key in ("suppress_tokens", "begin_suppress_tokens", "bos_token_id", "pad_token_id")
        if key in settings
    }
    generation_path, preprocessor_path = (
        folder / "generation_config.json",
        folder / "preprocessor_config.json",
    )
    if generation_path.exists():
        given |= read_json(generation_path)
    if given.get("forced_decoder_ids") is None:
        # All of OpenAI's multilingual config.json have English there, and fine-tuning often leaves that unchanged.
        untouched = [[n, ids.get(f"<|{name}|>")] for n, name in enumerate(("en", "transcribe", "notimestamps"), 1)]
        forced = settings.get("forced_decoder_ids")
        given["forced_decoder_ids"] = None if forced == untouched else forced
    generation = complete_generation(given, config, ids, str(generation_path))
    preprocessor = read_json(preprocessor_path) if preprocessor_path.exists() else {}
    return Checkpoint(
        config=config,
        weights=weights,
        tokenizer_json=tokenizer_json,
        generation=generation,
        preprocessor=complete_preprocessor(preprocessor, config, str(preprocessor_path)),
        source=source,
        digest=digest,
        pad_token_id=generation["pad_token_id"],
    )


def save_huggingface(
    folder: Path,
    checkpoint: Checkpoint,
    weights: Mapping[str, torch.Tensor],
    *,
    language: str | None,
    task: str = "transcribe",
    model_card: str | None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    aliases: Mapping[str, str] | None = None,
    trained_timestamps: bool | None = None,
    dtype: torch.dtype = torch.float32,
) -> dict[str, str]:
    """Write `weights` (in `dtype`) and all other files of a model into `folder`, each fsynced.

    `checkpoint` is the model that was trained, with config, tokenizer and generation settings. `weights` have the
    names of `expected_shapes`, any float dtype and any device. `language` (a code such as `it`) and `task` become the
    model's defaults; with None, for a model trained on several languages, the language is detected. English-only
    models have neither. `aliases` are languages that were trained with another's token (`zap`: `es`).
    `trained_timestamps`: whether any training window had timestamps (None: as the model had it). `model_card` is the
    text of the README. Weights of more than `max_shard_bytes` are split into several files with an index. For an
    atomic write the caller must use a temporary folder and rename it.

    Returns the sha256 of each file except the README. Raises CheckpointError if the weights don't match the config or
    are not finite, the model lacks the language or task, or the folder can't be written; StorageError if the disk is
    full.
    """
    named = canonical_weights(weights, str(folder))
    stored = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in named.items()}
    for name, tensor in stored.items() if dtype == torch.float16 else ():
        if tensor.isinf().any() and not named[name].isinf().any():
            raise CheckpointError(f"{folder}: {name} does not fit into float16; take --checkpoint.dtype float32")
    check_weights(stored, checkpoint.config, str(folder))
    known = dict(checkpoint.generation)
    if aliases:
        known[ALIASES] = {**known.get(ALIASES, {}), **aliases}
    if trained_timestamps is not None:
        known[TRAINED_TIMESTAMPS] = trained_timestamps
    language = None if language is None else token_code(known, language)
    generation = _generation_to_save(known, language, task)
    multilingual = generation["is_multilingual"]
    files = {
        "config.json": as_json(_config_to_save(checkpoint, generation, dtype)),
        "generation_config.json": as_json(generation),
        "preprocessor_config.json": as_json(checkpoint.preprocessor),
        "tokenizer.json": checkpoint.tokenizer_json,
        **companion_files(checkpoint.tokenizer_json, language=language if multilingual else None, task=task),
    }
    if model_card is not None:
        files["README.md"] = model_card
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shards = cut_into_shards(stored, max_shard_bytes)
        digests: dict[str, str] = {}
        for old in folder.glob("model*.safetensors*"):  # an old one might be read instead
            old.unlink()
        for name, tensors in shards.items():
            digests[name] = save_file(tensors, folder / name, metadata={"format": "pt"})
            with (folder / name).open("rb+") as written:
                os.fsync(written.fileno())
        if len(shards) > 1:
            files[INDEX] = as_json(_index(shards))
        for name, text in files.items():
            with (folder / name).open("wb") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
            if name != "README.md":
                digests[name] = hashlib.sha256(text.encode()).hexdigest()
    except OSError as error:
        raise not_written(folder, error) from error
    return digests


def cut_into_shards(weights: Mapping[str, torch.Tensor], max_bytes: int) -> dict[str, dict[str, torch.Tensor]]:
    """File name -> its tensors, at most `max_bytes` in total; a larger tensor gets a file of its own."""
    shards: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for name, tensor in weights.items():
        if shards[-1] and size + tensor.nbytes > max_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    if len(shards) == 1:
        return {"model.safetensors": shards[0]}
    return {f"model-{number:05}-of-{len(shards):05}.safetensors": shard for number, shard in enumerate(shards, start=1)}


def _index(shards: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, Any]:
    tensors = [tensor for shard in shards.values() for tensor in shard.values()]
    return {
        "metadata": {"total_parameters": sum(t.numel() for t in tensors), "total_size": sum(t.nbytes for t in tensors)},
        "weight_map": {name: file for file, shard in shards.items() for name in shard},
    }


def _generation_to_save(generation: Mapping[str, Any], language: str | None, task: str) -> dict[str, Any]:
    # transformers would treat an empty list as a setting, and an empty `lang_to_id` as languages to detect.
    saved = {
        key: value for key, value in generation.items() if key not in ("language", "task") and value not in ([], {})
    }
    if not saved["is_multilingual"]:  # transformers rejects language and task for these
        return saved
    if task not in generation["task_to_id"]:
        raise CheckpointError(f"this model has no task {task!r}; it has {', '.join(generation['task_to_id'])}")
    saved["task"] = task
    if language is not None:
        if f"<|{language}|>" not in generation["lang_to_id"]:
            raise CheckpointError(f"this model has no token for the language {language!r}")
        saved["language"] = f"<|{language}|>"
    return saved


def _config_to_save(checkpoint: Checkpoint, generation: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "is_encoder_decoder": True,
        **asdict(checkpoint.config),
        "num_hidden_layers": checkpoint.config.encoder_layers,
        "activation_function": "gelu",
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "encoder_layerdrop": 0.0,
        "decoder_layerdrop": 0.0,
        "init_std": 0.02,
        "scale_embedding": False,
        "tie_word_embeddings": True,
        "use_cache": True,
        "pad_token_id": checkpoint.pad_token_id,
        "bos_token_id": generation["bos_token_id"],
        "eos_token_id": generation["eos_token_id"],
        "decoder_start_token_id": generation["decoder_start_token_id"],
        # The default would be [220, 50256], that of English-only models.
        "begin_suppress_tokens": generation.get("begin_suppress_tokens"),
        "torch_dtype": str(dtype).removeprefix("torch."),
    }


def _read_weights(folder: Path) -> tuple[dict[str, torch.Tensor], str, dict[str, str]]:
    """All tensors, the sha256 of their files in order of name, and that of each file."""
    files = _weight_files(folder)
    tensors: dict[str, torch.Tensor] = {}
    sha256, by_file = hashlib.sha256(), {}
    for file in files:
        own = hashlib.sha256()
        try:
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    sha256.update(block)
                    if len(files) > 1:
                        own.update(block)
            found = load_file(file) if file.suffix == ".safetensors" else load_pickled(file)
        except FileNotFoundError as error:
            raise CheckpointError(f"{file}: is missing; copy or download it again") from error
        except OSError as error:
            raise CheckpointError(f"{file}: can't be read ({error.strerror or error})") from error
        except (safetensors.SafetensorError, KeyError, ValueError) as error:
            raise CheckpointError(
                f"{file}: is damaged or cut short; copy or download it again (safetensors: {error})"
            ) from error
        if not isinstance(found, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in found.values()):
            raise CheckpointError(f"{file}: does not hold named tensors")
        tensors |= found
        by_file[file.name] = (own if len(files) > 1 else sha256).hexdigest()
    return tensors, sha256.hexdigest(), by_file


def _weight_files(folder: Path) -> list[Path]:
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).exists():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.exists():
            shards = read_json(index).get("weight_map")
            if not isinstance(shards, dict) or not shards:
                raise CheckpointError(f"{index}: has no `weight_map`")
            names = sorted({str(shard) for shard in shards.values()})
            if any(Path(shard).name != shard for shard in names):
                raise CheckpointError(f"{index}: `weight_map` points outside the folder")
            return [folder / shard for shard in names]
    raise CheckpointError(f"{folder}: holds no model.safetensors or pytorch_model.bin, whole or sharded")


def _read_tokenizer(folder: Path) -> str:
    """`tokenizer.json`, or an equivalent built from the files of a slow tokenizer."""
    if (folder / "tokenizer.json").exists():
        return read_text(folder / "tokenizer.json")
    if not (folder / "vocab.json").exists() or not (folder / "merges.txt").exists():
        raise CheckpointError(
            f"{folder}: holds neither a tokenizer.json nor vocab.json and merges.txt; "
            "copy them from the model it was trained from"
        )
    added: dict[str, Any] = {}
    # Not splitlines(), which also splits at other characters than newlines.
    merges = read_text(folder / "merges.txt").split("\n")
    merges = [pair.removesuffix("\r") for pair in merges if pair.strip() and not pair.startswith("#version")]
    try:
        if (folder / "tokenizer_config.json").exists():
            listed = read_json(folder / "tokenizer_config.json").get("added_tokens_decoder", {})
            added |= {token["content"]: int(number) for number, token in listed.items()}
        if (folder / "added_tokens.json").exists():
            added |= read_json(folder / "added_tokens.json")
        return build_tokenizer(read_json(folder / "vocab.json"), merges, added)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}: its tokenizer files are damaged ({error!r})") from error
