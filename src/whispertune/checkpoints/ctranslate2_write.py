"""Write CTranslate2 Whisper folders with the model specification of the `ctranslate2` package."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from whispertune.checkpoints.generation import upper_heads
from whispertune.checkpoints.layout import EMBEDDING, Checkpoint
from whispertune.checkpoints.side_files import not_written, write_side_files
from whispertune.errors import CheckpointError
from whispertune.text.languages import LANGUAGES
from whispertune.text.targets import MAX_TOKENS


def require_ctranslate2() -> None:
    """Raise CheckpointError, saying what to install, if the `ctranslate2` package is missing."""
    if find_spec("ctranslate2") is None:
        raise CheckpointError(
            "writing CTranslate2 needs the package of that name: pip install 'whispertune[ctranslate2]'"
        )


def save_ctranslate2(folder: Path, checkpoint: Checkpoint, quantization: str) -> None:
    """Write `checkpoint` into `folder`: weights in one of CTranslate2's types, and all files that faster-whisper reads.

    Raises CheckpointError if the `ctranslate2` package is missing, or the model can't be written.
    """
    require_ctranslate2()
    from ctranslate2.specs import WhisperSpec

    config = checkpoint.config
    if config.max_target_positions < MAX_TOKENS:
        raise CheckpointError(
            f"{checkpoint.source}: has {config.max_target_positions} decoder positions; faster-whisper always uses "
            f"{MAX_TOKENS} and fails; export this model in another format"
        )
    spec = WhisperSpec(
        config.encoder_layers, config.encoder_attention_heads, config.decoder_layers, config.decoder_attention_heads
    )
    # The integer quantisations scale float32 tensors in place.
    copies = quantization.startswith("int")
    weights = {name: tensor.clone() if copies else tensor for name, tensor in checkpoint.weights.items()}
    _fill(spec, weights, checkpoint)
    generation = checkpoint.generation
    spec.config.suppress_ids = generation["suppress_tokens"]
    spec.config.suppress_ids_begin = generation["begin_suppress_tokens"]
    # faster-whisper fails if it detects a language that it does not know.
    spec.config.lang_ids = sorted(i for name, i in generation["lang_to_id"].items() if name.strip("<|>") in LANGUAGES)
    spec.config.alignment_heads = generation["alignment_heads"] or upper_heads(config)
    spec.register_vocabulary(_vocabulary(checkpoint))
    try:
        spec.validate()
        spec.optimize(quantization)
        spec.save(str(folder))
        write_side_files(folder, checkpoint)
    except OSError as error:
        raise not_written(folder, error) from error
    except ValueError as error:
        raise CheckpointError(f"{folder}: the model can't be written ({error})") from error


def _fill(spec: Any, weights: dict[str, torch.Tensor], checkpoint: Checkpoint) -> None:
    """Assign every tensor to the specification; the inverse is in `ctranslate2.py`."""

    def linear(theirs: Any, ours: str) -> None:
        theirs.weight, theirs.bias = weights[f"{ours}.weight"], weights[f"{ours}.bias"]

    def norm(theirs: Any, ours: str) -> None:
        theirs.gamma, theirs.beta = weights[f"{ours}.weight"], weights[f"{ours}.bias"]

    def fused(theirs: Any, ours: str, parts: Sequence[str]) -> None:
        theirs.weight = torch.cat([weights[f"{ours}.{part}_proj.weight"] for part in parts])
        value_bias = weights[f"{ours}.v_proj.bias"]
        biases = [torch.zeros_like(value_bias) if p == "k" else weights[f"{ours}.{p}_proj.bias"] for p in parts]
        theirs.bias = torch.cat(biases)

    for side in ("encoder", "decoder"):
        stack = getattr(spec, side)
        stack.position_encodings.encodings = weights[f"model.{side}.embed_positions.weight"]
        norm(stack.layer_norm, f"model.{side}.layer_norm")
        for number, layer in enumerate(stack.layer):
            ours = f"model.{side}.layers.{number}"
            fused(layer.self_attention.linear[0], f"{ours}.self_attn", "qkv")
            linear(layer.self_attention.linear[1], f"{ours}.self_attn.out_proj")
            norm(layer.self_attention.layer_norm, f"{ours}.self_attn_layer_norm")
            if side == "decoder":
                linear(layer.attention.linear[0], f"{ours}.encoder_attn.q_proj")
                fused(layer.attention.linear[1], f"{ours}.encoder_attn", "kv")
                linear(layer.attention.linear[2], f"{ours}.encoder_attn.out_proj")
                norm(layer.attention.layer_norm, f"{ours}.encoder_attn_layer_norm")
            linear(layer.ffn.linear_0, f"{ours}.fc1")
            linear(layer.ffn.linear_1, f"{ours}.fc2")
            norm(layer.ffn.layer_norm, f"{ours}.final_layer_norm")
    linear(spec.encoder.conv1, "model.encoder.conv1")
    linear(spec.encoder.conv2, "model.encoder.conv2")
    spec.decoder.embeddings.weight = weights[EMBEDDING]
    spec.decoder.projection.weight = weights[EMBEDDING]  # detected as equal and stored as an alias


def _vocabulary(checkpoint: Checkpoint) -> list[str]:
    """Every token by id; embedding rows without a token get a made-up name."""
    content = json.loads(checkpoint.tokenizer_json)
    tokens = [f"<|unused{number}|>" for number in range(checkpoint.config.vocab_size)]
    named = [*content["model"]["vocab"].items(), *((t["content"], int(t["id"])) for t in content["added_tokens"])]
    for token, number in named:
        if number < len(tokens):
            tokens[number] = token
    return tokens
