"""Random small Whispers, with a small tokenizer, for the checkpoint tests."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from whispertune.checkpoints.generation import complete_generation, complete_preprocessor
from whispertune.checkpoints.layout import Checkpoint, expected_shapes
from whispertune.checkpoints.tokenizer_files import TIMESTAMPS, build_tokenizer, complete_tokenizer
from whispertune.model.config import WhisperConfig
from whispertune.text.languages import LANGUAGES


def byte_alphabet() -> list[str]:
    """The 256 characters that byte-level BPE writes bytes as."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(256 - len(printable))]


VOCAB = {character: number for number, character in enumerate([*byte_alphabet(), "ci", "<|endoftext|>"])}
SPECIALS = {
    name: len(VOCAB) + number
    for number, name in enumerate(
        [
            "<|startoftranscript|>",
            *(f"<|{code}|>" for code in LANGUAGES if code != "yue"),
            *("<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nocaptions|>"),
            "<|notimestamps|>",
        ]
    )
}
TOKENIZER = build_tokenizer(VOCAB, ["c i"], SPECIALS)
VOCAB_SIZE = len(VOCAB) + len(SPECIALS) + len(TIMESTAMPS)

CONFIG = WhisperConfig(
    vocab_size=VOCAB_SIZE,
    num_mel_bins=80,
    d_model=64,
    encoder_layers=2,
    encoder_attention_heads=2,
    encoder_ffn_dim=96,
    decoder_layers=1,
    decoder_attention_heads=2,
    decoder_ffn_dim=128,
)


def random_weights(seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (torch.randn(shape, generator=generator) * 0.05).to(dtype)
        for name, shape in expected_shapes(CONFIG).items()
    }


def sample(*, multilingual: bool = True) -> Checkpoint:
    tokenizer_json, ids = complete_tokenizer(TOKENIZER, VOCAB_SIZE, "sample")
    given = {"is_multilingual": multilingual, "suppress_tokens": [1, 2], "begin_suppress_tokens": [220]}
    generation = complete_generation(given, CONFIG, ids, "sample")
    return Checkpoint(
        config=CONFIG,
        weights=random_weights(),
        tokenizer_json=tokenizer_json,
        generation=generation,
        preprocessor=complete_preprocessor({}, CONFIG, "sample"),
        source="sample",
        digest="",
        pad_token_id=generation["pad_token_id"],
    )


def transformers_settings() -> dict[str, object]:
    """Arguments of transformers' WhisperConfig for `CONFIG`."""
    end, start = VOCAB["<|endoftext|>"], SPECIALS["<|startoftranscript|>"]
    ids = {"pad_token_id": end, "bos_token_id": end, "eos_token_id": end, "decoder_start_token_id": start}
    return {**asdict(CONFIG), **ids, "begin_suppress_tokens": [220, end]}


Variable = tuple[str, torch.Tensor]


def ctranslate2_bytes(
    variables: Sequence[Variable], aliases: Mapping[str, str], *, version: int = 6, kind: str = "WhisperSpec"
) -> bytes:
    """A `model.bin` of these variables."""
    dtypes = [torch.float32, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16]

    def string(text: str) -> bytes:
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    parts = [struct.pack("<I", version), string(kind), struct.pack("<II", 3, len(variables))]
    for name, tensor in variables:
        data = bytes(tensor.contiguous().flatten().view(torch.uint8).tolist())
        parts += [
            string(name),
            struct.pack("<B", tensor.ndim),
            struct.pack(f"<{tensor.ndim}I", *tensor.shape),
        ]
        parts += [struct.pack("<BI", dtypes.index(tensor.dtype), len(data)), data]
    parts.append(struct.pack("<I", len(aliases)))
    parts += [string(alias) + string(name) for alias, name in aliases.items()]
    return b"".join(parts)


def ctranslate2_variables(weights: Mapping[str, torch.Tensor]) -> list[Variable]:
    """`weights` under CTranslate2's names, fused; written out by hand, not derived from the reader."""
    variables: list[Variable] = [("encoder/num_heads", torch.tensor(2, dtype=torch.int16))]
    variables.append(("decoder/num_heads", torch.tensor(2, dtype=torch.int16)))
    variables.append(("decoder/pre_norm", torch.tensor(1, dtype=torch.int8)))

    def add(theirs: str, ours: str, kinds: str = "weight bias") -> None:
        for kind, name in zip(kinds.split(), ("weight", "bias"), strict=True):
            variables.append((f"{theirs}/{kind}", weights[f"{ours}.{name}"]))

    def fuse(theirs: str, ours: str, parts: str) -> None:
        fused = torch.cat([weights[f"{ours}.{part}_proj.weight"] for part in parts])
        zeros = torch.zeros_like(weights[f"{ours}.v_proj.bias"])
        bias = torch.cat([zeros if part == "k" else weights[f"{ours}.{part}_proj.bias"] for part in parts])
        variables.extend([(f"{theirs}/weight", fused), (f"{theirs}/bias", bias)])

    for side, layers in (("encoder", CONFIG.encoder_layers), ("decoder", CONFIG.decoder_layers)):
        for n in range(layers):
            theirs, ours = f"{side}/layer_{n}", f"model.{side}.layers.{n}"
            fuse(f"{theirs}/self_attention/linear_0", f"{ours}.self_attn", "qkv")
            add(f"{theirs}/self_attention/linear_1", f"{ours}.self_attn.out_proj")
            add(f"{theirs}/self_attention/layer_norm", f"{ours}.self_attn_layer_norm", "gamma beta")
            add(f"{theirs}/ffn/linear_0", f"{ours}.fc1")
            add(f"{theirs}/ffn/linear_1", f"{ours}.fc2")
            add(f"{theirs}/ffn/layer_norm", f"{ours}.final_layer_norm", "gamma beta")
            if side == "decoder":
                add(f"{theirs}/attention/linear_0", f"{ours}.encoder_attn.q_proj")
                fuse(f"{theirs}/attention/linear_1", f"{ours}.encoder_attn", "kv")
                add(f"{theirs}/attention/linear_2", f"{ours}.encoder_attn.out_proj")
                add(f"{theirs}/attention/layer_norm", f"{ours}.encoder_attn_layer_norm", "gamma beta")
        add(f"{side}/layer_norm", f"model.{side}.layer_norm", "gamma beta")
        variables.append((f"{side}/position_encodings/encodings", weights[f"model.{side}.embed_positions.weight"]))
    add("encoder/conv1", "model.encoder.conv1")
    add("encoder/conv2", "model.encoder.conv2")
    variables.append(("decoder/embeddings/weight", weights["model.decoder.embed_tokens.weight"]))
    return variables


ALIASES = {"decoder/projection/weight": "decoder/embeddings/weight"}


def write_ctranslate2(folder: Path, content: bytes) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "model.bin").write_bytes(content)
    (folder / "tokenizer.json").write_text(TOKENIZER, encoding="utf-8")
    settings = {
        "suppress_ids": [1, 2],
        "suppress_ids_begin": [3],
        "lang_ids": [SPECIALS["<|en|>"], SPECIALS["<|it|>"]],
        "alignment_heads": [[0, 1]],
    }
    (folder / "config.json").write_text(json.dumps(settings))
