"""Read and write OpenAI's checkpoints: one `.pt` with `dims` and `model_state_dict`.

Such a file holds neither tokenizer nor generation settings. The tokenizer is the one that the user gives, or the
`tokenizer.json` beside the file, or openai-whisper's own if that is installed; settings come from the
`generation_config.json` beside the file, or else follow OpenAI's code.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from whispertune.checkpoints.generation import complete_generation, complete_preprocessor
from whispertune.checkpoints.json_files import read_json, read_text
from whispertune.checkpoints.layout import Checkpoint, check_tensors, expected_shapes, read_config, unwrapped
from whispertune.checkpoints.openai_layout import DIMS, openai_dims, openai_name, require_openai
from whispertune.checkpoints.openai_tokenizer import default_suppressed, installed_tokenizer
from whispertune.checkpoints.pickled import load_pickled
from whispertune.checkpoints.side_files import not_written, write_side_files
from whispertune.checkpoints.tokenizer_files import complete_tokenizer
from whispertune.errors import CheckpointError
from whispertune.model.config import WhisperConfig
from whispertune.system.files import sha256_of

FILE = "model.pt"
"""Name of the file that `save_openai` writes."""
SUFFIXES = (".pt", ".pth")


def read_file(path: Path, *, source: str, tokenizer: Path | None = None) -> Checkpoint:
    """The checkpoint in OpenAI's `.pt`; `tokenizer` is a folder with a `tokenizer.json`.

    Raises CheckpointError if the file is damaged, holds anything but tensors, numbers and text (no code in it is ever
    run), is not a Whisper, or no tokenizer is found for it.
    """
    content = _load(path)
    config = _read_dims(content["dims"], path)
    shapes = {openai_name(name): shape for name, shape in expected_shapes(config).items()}
    stored = {unwrapped(name): tensor for name, tensor in content["model_state_dict"].items()}
    check_tensors(stored, shapes, str(path))
    weights = {name: stored[openai_name(name)] for name in expected_shapes(config)}
    text, found_in = _find_tokenizer(path, config.vocab_size, tokenizer)
    tokenizer_json, ids = complete_tokenizer(text, config.vocab_size, found_in)
    require_openai(config, tokenizer_json, found_in)
    generation_path, preprocessor_path = (path.parent / f"{n}_config.json" for n in ("generation", "preprocessor"))
    # In a folder of downloads, files of another model may lie beside a .pt, so these are used only if the tokenizer is.
    beside = found_in == str(path.parent / "tokenizer.json")
    given = read_json(generation_path) if beside and generation_path.exists() else default_suppressed(tokenizer_json)
    preprocessor = read_json(preprocessor_path) if beside and preprocessor_path.exists() else {}
    generation = complete_generation(given, config, ids, str(generation_path))
    return Checkpoint(
        config=config,
        weights=weights,
        tokenizer_json=tokenizer_json,
        generation=generation,
        preprocessor=complete_preprocessor(preprocessor, config, str(preprocessor_path)),
        source=source,
        digest=sha256_of(path),
        pad_token_id=generation["pad_token_id"],
    )


def save_openai(folder: Path, checkpoint: Checkpoint, dtype: torch.dtype) -> None:
    """Write `checkpoint` with float32 or float16 weights into `folder`.

    Raises CheckpointError if OpenAI's code does not support the model, or it can't be written.
    """
    require_openai(checkpoint.config, checkpoint.tokenizer_json, checkpoint.source)
    state: dict[str, torch.Tensor] = {}
    for ours in expected_shapes(checkpoint.config):
        tensor = checkpoint.weights[ours].to(dtype).contiguous()
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{checkpoint.source}: {ours} does not fit into {dtype}; use float32")
        # A view would be stored with the whole tensor.
        own = tensor.untyped_storage().nbytes() == tensor.nbytes
        state[openai_name(ours)] = tensor if own else tensor.clone()
    try:
        torch.save({"dims": openai_dims(checkpoint.config), "model_state_dict": state}, folder / FILE)
        write_side_files(folder, checkpoint)
    except RuntimeError as error:  # torch's error for a full disk
        raise not_written(folder, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))) from error
    except OSError as error:
        raise not_written(folder, error) from error


def _load(path: Path) -> dict[str, Any]:
    content = load_pickled(path)
    for key in ("dims", "model_state_dict"):
        if not isinstance(content, dict) or not isinstance(content.get(key), dict):
            raise CheckpointError(f"{path}: holds no `{key}`, so it is not a checkpoint of OpenAI's Whisper")
    loaded: dict[str, Any] = content
    for name, tensor in loaded["model_state_dict"].items():
        plain = isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and tensor.device.type == "cpu"
        if not plain or not isinstance(name, str):
            raise CheckpointError(f"{path}: {name!r:.90} in `model_state_dict` is not a plain tensor")
    return loaded


def _read_dims(dims: Mapping[Any, Any], path: Path) -> WhisperConfig:
    for name in DIMS:
        value = dims.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise CheckpointError(f"{path}: `{name}` in `dims` is {value!r:.60}, not a positive integer")
    if unknown := [str(name) for name in dims if name not in DIMS]:
        raise CheckpointError(f"{path}: `{unknown[0]:.60}` in `dims` is not a size of Whisper")
    for width in ("n_audio", "n_text"):
        if dims[f"{width}_state"] % dims[f"{width}_head"]:
            raise CheckpointError(f"{path}: `{width}_state` in `dims` is not a multiple of `{width}_head`")
    if dims["n_audio_state"] != dims["n_text_state"]:
        raise CheckpointError(f"{path}: `n_audio_state` and `n_text_state` in `dims` differ; Whisper's are equal")
    sizes = {ours: dims[theirs] for theirs, ours in DIMS.items()}
    width = sizes["d_model"]
    return read_config({**sizes, "encoder_ffn_dim": 4 * width, "decoder_ffn_dim": 4 * width}, f"{path}: dims")


def _find_tokenizer(path: Path, vocab_size: int, given: Path | None) -> tuple[str, str]:
    """The text of a `tokenizer.json`, and where it was found."""
    if given is not None:
        return read_text(given / "tokenizer.json"), str(given / "tokenizer.json")
    beside = path.parent / "tokenizer.json"
    if beside.exists():
        return read_text(beside), str(beside)
    installed = installed_tokenizer(vocab_size)
    if installed is not None:
        return installed, "openai-whisper's tokenizer"
    raise CheckpointError(
        f"{path}: has no tokenizer; put the tokenizer.json of a Whisper with the same vocabulary "
        f"({vocab_size} tokens) beside it, or pip install openai-whisper"
    )
