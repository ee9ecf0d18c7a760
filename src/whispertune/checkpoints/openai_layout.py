"""OpenAI's names of sizes and tensors, and the ids that its code computes for special tokens.

whisper.cpp uses the same names and ids, and the same feed-forward width of four times the model's.
"""

from __future__ import annotations

from collections.abc import Mapping

from whispertune.checkpoints.tokenizer_files import END_OF_TEXT, NO_TIMESTAMPS, START, TIMESTAMPS, complete_tokenizer
from whispertune.errors import CheckpointError
from whispertune.model.config import WhisperConfig
from whispertune.text.languages import LANGUAGES

DIMS = {
    "n_mels": "num_mel_bins",
    "n_audio_ctx": "max_source_positions",
    "n_audio_state": "d_model",
    "n_audio_head": "encoder_attention_heads",
    "n_audio_layer": "encoder_layers",
    "n_vocab": "vocab_size",
    "n_text_ctx": "max_target_positions",
    "n_text_state": "d_model",
    "n_text_head": "decoder_attention_heads",
    "n_text_layer": "decoder_layers",
}
"""OpenAI's sizes, in its order, and Hugging Face's names for them."""

_OUTER = {
    "encoder.embed_positions.weight": "encoder.positional_embedding",
    "encoder.layer_norm.weight": "encoder.ln_post.weight",
    "encoder.layer_norm.bias": "encoder.ln_post.bias",
    "decoder.embed_tokens.weight": "decoder.token_embedding.weight",
    "decoder.embed_positions.weight": "decoder.positional_embedding",
    "decoder.layer_norm.weight": "decoder.ln.weight",
    "decoder.layer_norm.bias": "decoder.ln.bias",
}
_IN_BLOCKS = {
    "self_attn_layer_norm": "attn_ln",
    "encoder_attn_layer_norm": "cross_attn_ln",
    "fc1": "mlp.0",
    "fc2": "mlp.2",
    "final_layer_norm": "mlp_ln",
    **{
        f"{attention}.{ours}_proj": f"{theirs}.{role}"
        for attention, theirs in (("self_attn", "attn"), ("encoder_attn", "cross_attn"))
        for ours, role in (("q", "query"), ("k", "key"), ("v", "value"), ("out", "out"))
    },
}


def openai_name(name: str) -> str:
    """OpenAI's name for a tensor of `expected_shapes`."""
    short = name.removeprefix("model.")
    side, _, rest = short.partition(".")
    if not rest.startswith("layers."):
        return _OUTER.get(short, short)
    _, number, inner = rest.split(".", 2)
    module, kind = inner.rsplit(".", 1)
    return f"{side}.blocks.{number}.{_IN_BLOCKS[module]}.{kind}"


def openai_dims(config: WhisperConfig) -> dict[str, int]:
    """The content of `dims`."""
    return {theirs: int(getattr(config, ours)) for theirs, ours in DIMS.items()}


def special_ids(vocab_size: int) -> dict[str, int]:
    """Id of each special token for a vocabulary size, as OpenAI's code and whisper.cpp compute it.

    Empty if no Whisper has this vocabulary size.
    """
    multilingual = vocab_size >= 51865
    num_languages = vocab_size - 51765 - multilingual
    if not 1 <= num_languages <= len(LANGUAGES):
        return {}
    names = [
        *(END_OF_TEXT, START),
        *(f"<|{code}|>" for code in list(LANGUAGES)[:num_languages]),
        *("<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", NO_TIMESTAMPS),
        *TIMESTAMPS,
    ]
    return {name: 50256 + multilingual + number for number, name in enumerate(names)}


def require_openai(config: WhisperConfig, tokenizer_json: str, where: str) -> dict[str, int]:
    """Check that OpenAI's code and whisper.cpp support a model; returns the ids of the special tokens by name.

    Raises CheckpointError, naming `where`, if they do not support a size or the id of a token.
    """
    for side in ("encoder", "decoder"):
        width = getattr(config, f"{side}_ffn_dim")
        if width != 4 * config.d_model:
            raise CheckpointError(
                f"{where}: `{side}_ffn_dim` is {width}; OpenAI's code and whisper.cpp only support 4 x d_model "
                f"({4 * config.d_model}); export to huggingface or ctranslate2"
            )
    _, ids = complete_tokenizer(tokenizer_json, config.vocab_size, where)
    expected = special_ids(config.vocab_size)
    if not expected:
        raise CheckpointError(
            f"{where}: OpenAI's code and whisper.cpp do not support a vocabulary of {config.vocab_size} tokens; "
            "export to huggingface or ctranslate2"
        )
    _refuse_moved(ids, expected, where)
    return expected


def _refuse_moved(ids: Mapping[str, int], expected: Mapping[str, int], where: str) -> None:
    found = {**ids, "<|nospeech|>": ids.get("<|nospeech|>", ids.get("<|nocaptions|>", -1))}
    multilingual = expected[END_OF_TEXT] == 50257
    for name, number in expected.items():
        # English-only tokenizers may lack tokens that such a model never uses.
        if found.get(name, -1) != number and (multilingual or name in (END_OF_TEXT, START, NO_TIMESTAMPS)):
            place = f"has id {found[name]}" if name in found else "is missing"
            raise CheckpointError(
                f"{where}: {name} {place}, but OpenAI's code and whisper.cpp use {number} for it; "
                "export to huggingface or ctranslate2"
            )
