"""The contents of a Whisper checkpoint, and the tensors and shapes that it must have."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch

from whispertune.errors import CheckpointError
from whispertune.model.config import WhisperConfig

EMBEDDING = "model.decoder.embed_tokens.weight"
FRAMES = 1500
"""Encoder positions of every Whisper: the number of frames in a window."""
FEWEST_POSITIONS = 16
PROJECTION = "proj_out.weight"  # the output layer: always the token embedding itself in Whisper


@dataclass(kw_only=True, slots=True)
class Checkpoint:
    """A model in memory, whatever its original format."""

    config: WhisperConfig
    weights: dict[str, torch.Tensor]
    """By Hugging Face parameter name, as in `expected_shapes` (without the tied `proj_out.weight`); on the CPU, in the
    stored dtype."""
    tokenizer_json: str
    """The text of `tokenizer.json`, including timestamp tokens."""
    generation: dict[str, Any]
    """The content of `generation_config.json`; `lang_to_id` and `task_to_id` are empty if English-only."""
    preprocessor: dict[str, Any]
    """The content of `preprocessor_config.json`."""
    source: str
    """The name that the user gave."""
    digest: str
    """sha256 of the weights file, or of its concatenated parts."""
    pad_token_id: int
    """Padding of decoder input after an utterance's end."""
    adapted_from: str | None = None
    """The name of the base model, if an adapter was merged into that."""

    def settings_digest(self) -> str:
        """sha256 of everything except the weights: configuration, tokenizer, generation and preprocessor settings."""
        settings = [asdict(self.config), self.tokenizer_json, self.generation, self.preprocessor]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def expected_shapes(config: WhisperConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of `WhisperForConditionalGeneration` except the tied output layer."""
    d = config.d_model
    shapes: dict[str, tuple[int, ...]] = {
        "model.encoder.conv1.weight": (d, config.num_mel_bins, 3),
        "model.encoder.conv1.bias": (d,),
        "model.encoder.conv2.weight": (d, d, 3),
        "model.encoder.conv2.bias": (d,),
        "model.encoder.embed_positions.weight": (config.max_source_positions, d),
        EMBEDDING: (config.vocab_size, d),
        "model.decoder.embed_positions.weight": (config.max_target_positions, d),
    }

    def norm(name: str) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (d,)

    def attention(name: str) -> None:
        for projection in ("k_proj", "v_proj", "q_proj", "out_proj"):
            shapes[f"{name}.{projection}.weight"] = (d, d)
            if projection != "k_proj":  # a bias on keys would cancel in the softmax
                shapes[f"{name}.{projection}.bias"] = (d,)
        norm(f"{name}_layer_norm")

    def stack(name: str, layers: int, ffn_dim: int, attentions: Iterable[str]) -> None:
        for layer in (f"model.{name}.layers.{number}" for number in range(layers)):
            for kind in attentions:
                attention(f"{layer}.{kind}")
            shapes[f"{layer}.fc1.weight"], shapes[f"{layer}.fc1.bias"] = (ffn_dim, d), (ffn_dim,)
            shapes[f"{layer}.fc2.weight"], shapes[f"{layer}.fc2.bias"] = (d, ffn_dim), (d,)
            norm(f"{layer}.final_layer_norm")
        norm(f"model.{name}.layer_norm")

    stack("encoder", config.encoder_layers, config.encoder_ffn_dim, ["self_attn"])
    stack("decoder", config.decoder_layers, config.decoder_ffn_dim, ["self_attn", "encoder_attn"])
    return shapes


def read_config(values: Mapping[str, Any], where: str) -> WhisperConfig:
    """The sizes among `values` (Hugging Face's names).

    Raises CheckpointError, naming `where`, for a size that is missing or unreasonable, as memory is allocated
    according to these.
    """
    sizes: dict[str, int] = {}
    for field in fields(WhisperConfig):
        value = values.get(field.name, {"max_source_positions": 1500, "max_target_positions": 448}.get(field.name))
        limit = 1000 if field.name.endswith("layers") else 1_000_000
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limit:
            raise CheckpointError(f"{where}: `{field.name}` is {value!r}, not a number from 1 to {limit}")
        sizes[field.name] = value
    if (frames := sizes["max_source_positions"]) != FRAMES:
        raise CheckpointError(
            f"{where}: `max_source_positions` is {frames}, an encoder for windows of {frames / 50:g} s; only Whisper's "
            f"own {FRAMES} (30 s) can be used"
        )
    if (tokens := sizes["max_target_positions"]) < FEWEST_POSITIONS:
        raise CheckpointError(
            f"{where}: `max_target_positions` is {tokens}; a decoder needs at least {FEWEST_POSITIONS} to hold a "
            "prompt and text"
        )
    for side in ("encoder", "decoder"):
        if sizes["d_model"] % sizes[f"{side}_attention_heads"]:
            raise CheckpointError(f"{where}: `d_model` is not a multiple of `{side}_attention_heads`")
    return WhisperConfig(**sizes)


def canonical_weights(weights: Mapping[str, torch.Tensor], where: str) -> dict[str, torch.Tensor]:
    """`weights` with the names of `expected_shapes`: with the `model.` prefix, without wrappers' and tied output layer.

    Raises CheckpointError if a stored output layer differs from the token embedding, or there are LoRA weights.
    """
    named: dict[str, torch.Tensor] = {}
    for name, tensor in weights.items():
        if _LORA.search(name):
            raise CheckpointError(
                f"{where}: holds unmerged LoRA weights ({name:.90}); save the merged model: "
                "model.merge_and_unload().save_pretrained(FOLDER) in peft"
            )
        bare = unwrapped(name)
        full = f"model.{bare}" if bare.startswith(("encoder.", "decoder.")) else bare
        if full in named:
            raise CheckpointError(f"{where}: {full} is present twice, with and without a prefix")
        named[full] = tensor
    projection = named.pop(PROJECTION, None)
    if projection is not None:
        embedding = named.setdefault(EMBEDDING, projection)
        same = embedding is projection or (
            embedding.shape == projection.shape and torch.equal(embedding.float(), projection.float())
        )
        if not same:
            raise CheckpointError(
                f"{where}: {PROJECTION} differs from {EMBEDDING}; Whisper ties them, so it can't be used"
            )
    return named


def unwrapped(name: str) -> str:
    """A tensor's name without the prefixes of torch.compile, DataParallel and FSDP wrappers."""
    return _WRAPPERS.sub("", name).removeprefix("module.")


_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_LORA = re.compile(r"\.(lora_[AB]|lora_embedding_[AB]|base_layer)\.")


def check_weights(weights: Mapping[str, torch.Tensor], config: WhisperConfig, where: str) -> None:
    """Raise CheckpointError unless `weights` are exactly those of `config` and finite."""
    check_tensors(weights, expected_shapes(config), where)


def check_tensors(weights: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Raise CheckpointError, naming tensors, unless `weights` are exactly those of `shapes` and finite."""
    _refuse(f"{where}: missing tensors", [name for name in shapes if name not in weights])
    _refuse(f"{where}: tensors that Whisper does not have", [name for name in weights if name not in shapes])
    _refuse(
        f"{where}: tensors whose shape does not match the config",
        [
            f"{name} {tuple(weights[name].shape)} instead of {shape}"
            for name, shape in shapes.items()
            if tuple(weights[name].shape) != shape
        ],
    )
    _refuse(
        f"{where}: tensors that are not float32, float16 or bfloat16",
        [f"{name} ({tensor.dtype})" for name, tensor in weights.items() if tensor.dtype not in _DTYPES],
    )
    _refuse(
        f"{where}: tensors with values that are not finite",
        [name for name, tensor in weights.items() if not all(end.isfinite() for end in tensor.aminmax())],
    )


_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def _refuse(what: str, names: list[str]) -> None:
    if names:
        more = ", …" if len(names) > 3 else ""
        raise CheckpointError(f"{what}: {len(names)} ({', '.join(names[:3])}{more})")
