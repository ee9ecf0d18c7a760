"""A small Whisper with the vocabulary of a multilingual one: what OpenAI's code and whisper.cpp can express."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import replace

import checkpoint_samples as samples
import torch

from whispertune.checkpoints.generation import complete_generation, complete_preprocessor
from whispertune.checkpoints.layout import Checkpoint, expected_shapes
from whispertune.checkpoints.tokenizer_files import TIMESTAMPS, build_tokenizer, complete_tokenizer
from whispertune.model.config import WhisperConfig

CONFIG = replace(samples.CONFIG, vocab_size=51_865, encoder_ffn_dim=256, decoder_ffn_dim=256, decoder_layers=2)


@functools.cache
def tokenizer() -> tuple[str, dict[str, int]]:
    """`tokenizer.json` and special ids: 256 bytes, 'ci', words of no meaning, the specials in Whisper's places."""
    words = [f"unused{number}" for number in range(50_257 - 257)]
    vocab = {token: number for number, token in enumerate([*samples.byte_alphabet(), "ci", *words, "<|endoftext|>"])}
    shift = len(vocab) - len(samples.VOCAB)
    specials = {name: number + shift for name, number in samples.SPECIALS.items()}
    return complete_tokenizer(build_tokenizer(vocab, ["c i"], specials), CONFIG.vocab_size, "standard")


def standard(dtype: torch.dtype = torch.float32, seed: int = 0) -> Checkpoint:
    """Random weights; fine-tuned on Italian, as its generation config says."""
    text, ids = tokenizer()
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: (0.05 * torch.randn(shape, generator=generator)).to(dtype)
        for name, shape in expected_shapes(CONFIG).items()
    }
    given = {
        "suppress_tokens": [1, 2, 7],
        "begin_suppress_tokens": [220, ids["<|endoftext|>"]],
        "alignment_heads": [[1, 0]],
        "language": "<|it|>",
        "task": "transcribe",
    }
    generation = complete_generation(given, CONFIG, ids, "standard")
    return Checkpoint(
        config=CONFIG,
        weights=weights,
        tokenizer_json=text,
        generation=generation,
        preprocessor=complete_preprocessor({}, CONFIG, "standard"),
        source="standard",
        digest="",
        pad_token_id=generation["pad_token_id"],
    )


def large() -> Checkpoint:
    """As `standard`, with what only large-v3 and its turbo have: 128 mel bins, and Cantonese among the languages."""
    config = replace(CONFIG, vocab_size=CONFIG.vocab_size + 1, num_mel_bins=128)
    content = json.loads(tokenizer()[0])
    specials = {token["content"]: token["id"] for token in content["added_tokens"] if token["id"] > 50_257}
    last = specials["<|su|>"]
    specials = {name: number + (number > last) for name, number in specials.items()} | {"<|yue|>": last + 1}
    listed = {name: number for name, number in specials.items() if name not in TIMESTAMPS}
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in content["model"]["merges"]]
    text, ids = complete_tokenizer(
        build_tokenizer(content["model"]["vocab"], merges, listed), config.vocab_size, "large"
    )
    generator = torch.Generator().manual_seed(0)
    return replace(
        standard(),
        config=config,
        weights={n: 0.05 * torch.randn(shape, generator=generator) for n, shape in expected_shapes(config).items()},
        tokenizer_json=text,
        generation=complete_generation({"language": "<|yue|>", "task": "transcribe"}, config, ids, "large"),
        preprocessor=complete_preprocessor({}, config, "large"),
    )


def openai_state(weights: Mapping[str, torch.Tensor], config: WhisperConfig = CONFIG) -> dict[str, torch.Tensor]:
    """`weights` under OpenAI's names; written out by hand, not derived from the writer."""
    state: dict[str, torch.Tensor] = {}

    def both(theirs: str, ours: str) -> None:
        for kind in ("weight", "bias"):
            state[f"{theirs}.{kind}"] = weights[f"model.{ours}.{kind}"]

    def attention(theirs: str, ours: str) -> None:
        both(f"{theirs}.query", f"{ours}.q_proj")
        state[f"{theirs}.key.weight"] = weights[f"model.{ours}.k_proj.weight"]
        both(f"{theirs}.value", f"{ours}.v_proj")
        both(f"{theirs}.out", f"{ours}.out_proj")
        both(f"{theirs}_ln", f"{ours}_layer_norm")

    for side, layers in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        state[f"{side}.positional_embedding"] = weights[f"model.{side}.embed_positions.weight"]
        for n in range(layers):
            attention(f"{side}.blocks.{n}.attn", f"{side}.layers.{n}.self_attn")
            if side == "decoder":
                attention(f"{side}.blocks.{n}.cross_attn", f"{side}.layers.{n}.encoder_attn")
            both(f"{side}.blocks.{n}.mlp.0", f"{side}.layers.{n}.fc1")
            both(f"{side}.blocks.{n}.mlp.2", f"{side}.layers.{n}.fc2")
            both(f"{side}.blocks.{n}.mlp_ln", f"{side}.layers.{n}.final_layer_norm")
    both("encoder.conv1", "encoder.conv1")
    both("encoder.conv2", "encoder.conv2")
    both("encoder.ln_post", "encoder.layer_norm")
    both("decoder.ln", "decoder.layer_norm")
    state["decoder.token_embedding.weight"] = weights["model.decoder.embed_tokens.weight"]
    return state


DIMS = {
    "n_mels": 80, "n_audio_ctx": 1500, "n_audio_state": 64, "n_audio_head": 2, "n_audio_layer": 2,
    "n_vocab": 51_865, "n_text_ctx": 448, "n_text_state": 64, "n_text_head": 2, "n_text_layer": 2,
}  # fmt: skip
