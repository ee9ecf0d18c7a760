"""Read a CTranslate2 Whisper folder: `model.bin` in float16, bfloat16 or float32, and the files beside it.

CTranslate2 fuses the projections of q, k and v of a self-attention into `linear_0`, and those of k and v of a
cross-attention into `linear_1`; the bias of k, which Whisper does not have, is stored as zeros.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from whispertune.checkpoints.generation import complete_generation, complete_preprocessor
from whispertune.checkpoints.json_files import read_json, read_text
from whispertune.checkpoints.layout import Checkpoint, canonical_weights, check_weights, read_config
from whispertune.checkpoints.tokenizer_files import END_OF_TEXT, complete_tokenizer
from whispertune.errors import CheckpointError
from whispertune.model.config import WhisperConfig

VERSIONS = (4, 5, 6)  # of the binary format; these have the same layout
_DTYPES = (torch.float32, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16)
_INTEGERS = (torch.int8, torch.int16, torch.int32)


def read_folder(folder: Path, *, source: str) -> Checkpoint:
    """The checkpoint in a CTranslate2 folder (`model.bin`, `config.json`, `tokenizer.json`).

    Raises CheckpointError if a file is missing, damaged, quantised or not Whisper's.
    """
    path = folder / "model.bin"
    try:
        with path.open("rb") as stream:
            variables, digest = read_variables(stream, where=str(path))
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read ({error.strerror})") from error
    return assemble(variables, digest, folder, source=source)


def assemble(variables: dict[str, torch.Tensor], digest: str, folder: Path, *, source: str) -> Checkpoint:
    """The checkpoint of `variables` (under CTranslate2's names) with the other files of `folder`."""
    where = f"{folder}/model.bin"
    config, weights = to_huggingface(variables, where)
    check_weights(weights, config, where)
    tokenizer_json, ids = complete_tokenizer(
        read_text(folder / "tokenizer.json"), config.vocab_size, str(folder / "tokenizer.json")
    )
    settings_path = folder / "config.json"
    settings = read_json(settings_path)
    generation_path = folder / "generation_config.json"  # written by exports; the only place for language and task
    generation: dict[str, Any] = read_json(generation_path) if generation_path.exists() else {}
    for ours, theirs in (
        ("suppress_tokens", "suppress_ids"),
        ("begin_suppress_tokens", "suppress_ids_begin"),
        ("alignment_heads", "alignment_heads"),
    ):
        # Our name takes precedence: `save_ctranslate2` must write alignment heads even if they are unknown.
        if ours not in generation and settings.get(theirs) is not None:
            generation[ours] = settings[theirs]
    language_ids = settings.get("lang_ids")
    if language_ids:
        if not isinstance(language_ids, list) or not all(isinstance(number, int) for number in language_ids):
            raise CheckpointError(f"{settings_path}: `lang_ids` is not a list of token ids")
        names = {number: name for name, number in ids.items()}
        listed = {names[number]: number for number in language_ids if number in names}
        generation["lang_to_id"] = {**generation.get("lang_to_id", {}), **listed}  # the former includes added languages
    preprocessor_path = folder / "preprocessor_config.json"
    preprocessor = read_json(preprocessor_path) if preprocessor_path.exists() else {}
    return Checkpoint(
        config=config,
        weights=weights,
        tokenizer_json=tokenizer_json,
        generation=complete_generation(generation, config, ids, str(settings_path)),
        preprocessor=complete_preprocessor(preprocessor, config, str(preprocessor_path)),
        source=source,
        digest=digest,
        pad_token_id=ids[END_OF_TEXT],
    )


def read_variables(stream: BinaryIO, *, where: str) -> tuple[dict[str, torch.Tensor], str]:
    """All variables of a `model.bin`, aliases resolved, and its sha256.

    Little-endian throughout: uint32 version; string name of the model class; uint32 its revision; uint32
    number of variables, each: string name, uint8 rank, uint32 per dimension, uint8 dtype, uint32 number of
    bytes, data; uint32 number of aliases, each: two strings. A string is uint16 number of bytes, then these,
    the last of them NUL.

    Raises CheckpointError, naming `where`, if the bytes are anything else.
    """
    reader = _Reader(stream, where)
    version = reader.number("I")
    if version > 100:  # not a version, but the start of some other file
        raise reader.error("its first bytes are different")
    if version not in VERSIONS:
        raise CheckpointError(f"{where}: version {version} of CTranslate2's format is not supported, only {VERSIONS}")
    kind = reader.string()
    if kind != "WhisperSpec":
        raise CheckpointError(f"{where}: holds a {kind!r:.60}, not a Whisper")
    reader.number("I")  # the revision, which is redundant, as tensor names and shapes are checked
    variables: dict[str, torch.Tensor] = {}
    for _ in range(reader.number("I")):
        name = reader.string()
        rank = reader.number("B")
        if rank > 3:
            raise reader.error(f"{name!r:.90} has {rank} dimensions")
        shape = [reader.number("I") for _ in range(rank)]
        dtype_id, num_bytes = reader.number("B"), reader.number("I")
        if dtype_id >= len(_DTYPES):
            raise reader.error(f"{name!r:.90} has the unknown dtype {dtype_id}")
        dtype = _DTYPES[dtype_id]
        if num_bytes == 0 or math.prod(shape) * dtype.itemsize != num_bytes:
            raise reader.error(f"{name!r:.90} is {shape} of {dtype}, but has {num_bytes} bytes")
        if shape and dtype in _INTEGERS:
            raise CheckpointError(
                f"{where}: quantised weights ({str(dtype).removeprefix('torch.')}) can't be trained; "
                "use the model's float16 conversion (`ct2-transformers-converter --quantization float16`)"
            )
        variables[name] = torch.frombuffer(reader.take(num_bytes), dtype=dtype).reshape(shape)
    for _ in range(reader.number("I")):
        alias, name = reader.string(), reader.string()
        if name not in variables:
            raise reader.error(f"{alias!r:.90} is an alias of {name!r:.90}, which is missing")
        variables[alias] = variables[name]
    if reader.remaining:
        raise reader.error(f"{reader.remaining} bytes too many")
    return variables, reader.sha256.hexdigest()


class _Reader:
    """Reads values from a stream, with bounds checks, and hashes what it reads."""

    def __init__(self, stream: BinaryIO, where: str) -> None:
        self.stream, self.where = stream, where
        self.remaining = stream.seek(0, os.SEEK_END)
        self.sha256 = hashlib.sha256()
        stream.seek(0)

    def error(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.where}: damaged, or not a CTranslate2 model ({what})")

    def take(self, num_bytes: int) -> bytearray:
        """The next bytes, in a buffer of their own, writable and aligned for tensors."""
        if num_bytes > self.remaining:
            raise self.error(f"ends {num_bytes - self.remaining} bytes early")
        buffer = bytearray(num_bytes)
        if self.stream.readinto(buffer) != num_bytes:  # type: ignore[attr-defined]  # missing in BinaryIO's stub
            raise self.error("shrank while it was read")
        self.remaining -= num_bytes
        self.sha256.update(buffer)
        return buffer

    def number(self, code: str) -> int:
        (value,) = struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))
        return int(value)

    def string(self) -> str:
        try:
            return self.take(self.number("H")).decode("utf-8").removesuffix("\0")
        except UnicodeDecodeError as error:
            raise self.error("a name is not text") from error


def to_huggingface(variables: Mapping[str, torch.Tensor], where: str) -> tuple[WhisperConfig, dict[str, torch.Tensor]]:
    """Sizes and weights with Hugging Face's names; sizes are derived from the tensors' shapes.

    Whisper's attention heads are 64 wide in every size, unless `num_heads` is stored.
    Raises CheckpointError if a tensor is missing, surplus, or can't be split.
    """
    left = {name: tensor for name, tensor in variables.items() if tensor.ndim}

    def take(name: str, rank: int) -> torch.Tensor:
        if name not in left:
            raise CheckpointError(f"{where}: {name} is missing")
        tensor = left.pop(name)
        if tensor.ndim != rank:
            raise CheckpointError(f"{where}: {name} has {tensor.ndim} dimensions, not {rank}")
        return tensor

    weights: dict[str, torch.Tensor] = {}

    def rename(theirs: str, ours: str, *, gain: str = "weight", shift: str = "bias") -> None:
        weights[f"{ours}.weight"] = take(f"{theirs}/{gain}", 3 if "conv" in theirs else 2 if gain == "weight" else 1)
        weights[f"{ours}.bias"] = take(f"{theirs}/{shift}", 1)

    def norm(theirs: str, ours: str) -> None:
        rename(theirs, ours, gain="gamma", shift="beta")

    def split(theirs: str, ours: str, parts: str) -> None:
        weight, bias = take(f"{theirs}/weight", 2), take(f"{theirs}/bias", 1)
        if len(weight) % len(parts) or len(bias) != len(weight):
            raise CheckpointError(f"{where}: {theirs} can't be split into {len(parts)} projections")
        rows = len(weight) // len(parts)
        for part, part_weight, part_bias in zip(parts, torch.split(weight, rows), torch.split(bias, rows), strict=True):
            weights[f"{ours}.{part}_proj.weight"] = part_weight
            if part != "k":
                weights[f"{ours}.{part}_proj.bias"] = part_bias
            elif part_bias.any():
                raise CheckpointError(f"{where}: {theirs} has a bias on its keys, which Whisper does not have")

    def layers(side: str) -> int:
        found = {int(match[1]) for name in left if (match := re.match(rf"{side}/layer_(\d{{1,4}})/", name))}
        return max(found, default=-1) + 1

    sizes: dict[str, int] = {}
    for side in ("encoder", "decoder"):
        sizes[f"{side}_layers"] = layers(side)
        for number in range(sizes[f"{side}_layers"]):
            theirs, ours = f"{side}/layer_{number}", f"model.{side}.layers.{number}"
            split(f"{theirs}/self_attention/linear_0", f"{ours}.self_attn", "qkv")
            rename(f"{theirs}/self_attention/linear_1", f"{ours}.self_attn.out_proj")
            norm(f"{theirs}/self_attention/layer_norm", f"{ours}.self_attn_layer_norm")
            if side == "decoder":
                rename(f"{theirs}/attention/linear_0", f"{ours}.encoder_attn.q_proj")
                split(f"{theirs}/attention/linear_1", f"{ours}.encoder_attn", "kv")
                rename(f"{theirs}/attention/linear_2", f"{ours}.encoder_attn.out_proj")
                norm(f"{theirs}/attention/layer_norm", f"{ours}.encoder_attn_layer_norm")
            rename(f"{theirs}/ffn/linear_0", f"{ours}.fc1")
            rename(f"{theirs}/ffn/linear_1", f"{ours}.fc2")
            norm(f"{theirs}/ffn/layer_norm", f"{ours}.final_layer_norm")
            sizes[f"{side}_ffn_dim"] = len(weights[f"{ours}.fc1.weight"])
        norm(f"{side}/layer_norm", f"model.{side}.layer_norm")
        positions = take(f"{side}/position_encodings/encodings", 2)
        weights[f"model.{side}.embed_positions.weight"] = positions
        sizes["max_source_positions" if side == "encoder" else "max_target_positions"] = len(positions)
    for conv in ("conv1", "conv2"):
        rename(f"encoder/{conv}", f"model.encoder.{conv}")
    embedding = take("decoder/embeddings/weight", 2)
    weights["model.decoder.embed_tokens.weight"] = embedding
    if "decoder/projection/weight" in left:
        weights["proj_out.weight"] = take("decoder/projection/weight", 2)
    if left:
        names = ", ".join(sorted(left)[:3])
        raise CheckpointError(f"{where}: tensors that Whisper does not have: {len(left)} ({names})")
    sizes["vocab_size"], sizes["d_model"] = embedding.shape
    sizes["num_mel_bins"] = weights["model.encoder.conv1.weight"].shape[1]
    for side in ("encoder", "decoder"):
        stored = variables.get(f"{side}/num_heads")
        if stored is not None and stored.dtype not in _INTEGERS:
            raise CheckpointError(f"{where}: {side}/num_heads is not an integer")
        sizes[f"{side}_attention_heads"] = sizes["d_model"] // 64 if stored is None else int(stored)
    return read_config(sizes, where), canonical_weights(weights, where)


def read_bytes(content: bytes, *, where: str) -> tuple[dict[str, torch.Tensor], str]:
    """`read_variables` of a `model.bin` that is already in memory."""
    return read_variables(io.BytesIO(content), where=where)
