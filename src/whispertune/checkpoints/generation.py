"""Complete generation and preprocessor configs of a model, whatever its source provides."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from whispertune.checkpoints.tokenizer_files import END_OF_TEXT, NO_TIMESTAMPS, START, TIMESTAMPS
from whispertune.errors import CheckpointError, RecipeError
from whispertune.model.config import WhisperConfig
from whispertune.text.languages import language_code

MULTILINGUAL_VOCABULARY = 51865
"""Vocabulary size of a multilingual Whisper with timestamps but without added tokens. English-only models have 51864,
but their tokenizer files may still list the languages."""

ALIASES = "language_aliases"
TRAINED_TIMESTAMPS = "trained_timestamps"
"""Whether a model that was trained here was trained with timestamps; absent where nothing is known."""
"""Key of the languages that borrow another's token, by code: {"zap": "es"}. Whisper and transformers ignore it."""

_LANGUAGE = re.compile(r"<\|[a-z]{2,3}\|>")


def complete_generation(
    given: Mapping[str, Any], config: WhisperConfig, ids: Mapping[str, int], where: str
) -> dict[str, Any]:
    """`given` (the known part of a `generation_config.json`) with everything else that decoding needs.

    Special ids come from the tokenizer's names (`ids`). Token ids outside the vocabulary are removed from the lists of
    suppressed tokens. If neither language nor task is given, both are taken from `forced_decoder_ids`, which older
    fine-tuned models have instead. Raises CheckpointError for values of the wrong type.
    """
    generation = {
        key: value
        for key, value in given.items()
        # The first is deprecated and may contradict `language`; the others describe the program that wrote the file.
        if key not in ("forced_decoder_ids", "transformers_version", "_from_model_config") and value is not None
    }
    whispers_own = ids[NO_TIMESTAMPS] + 1 + len(TIMESTAMPS)  # whatever was added or cut off since
    multilingual = generation.get("is_multilingual", whispers_own >= MULTILINGUAL_VOCABULARY)
    start, end = ids[START], ids[END_OF_TEXT]
    languages, tasks = generation.get("lang_to_id"), generation.get("task_to_id")
    if not multilingual:
        languages, tasks = {}, {}
    if multilingual:
        last = ids.get("<|translate|>", ids[NO_TIMESTAMPS])
        listed = {name: number for name, number in ids.items() if _LANGUAGE.fullmatch(name)}
        added = {name: number for name, number in listed.items() if number >= whispers_own}
        if languages is None:
            languages = {name: number for name, number in listed.items() if start < number < last}
        languages = added | _named_ids(languages, "lang_to_id", where)
    if tasks is None:
        tasks = {task: ids[f"<|{task}|>"] for task in ("transcribe", "translate") if f"<|{task}|>" in ids}
    if "<|startofprev|>" in ids:
        generation["prev_sot_token_id"] = ids["<|startofprev|>"]
    for key in ("suppress_tokens", "begin_suppress_tokens"):
        generation[key] = [token for token in _ids(generation, key, where) if token < config.vocab_size]
    for key in ("bos_token_id", "pad_token_id"):
        if not isinstance(generation.get(key), int) or not 0 <= generation[key] < config.vocab_size:
            generation[key] = end
    generation |= {
        "is_multilingual": bool(multilingual),
        "lang_to_id": _own_languages(_named_ids(languages, "lang_to_id", where), ids, config.vocab_size),
        "task_to_id": _named_ids(tasks, "task_to_id", where),
        "eos_token_id": end,
        "decoder_start_token_id": start,
        "no_timestamps_token_id": ids[NO_TIMESTAMPS],
        # transformers' own default of 20 would cut transcripts off.
        "max_length": min(448, config.max_target_positions),
    }
    forced = given.get("forced_decoder_ids")
    if isinstance(forced, list) and generation.keys().isdisjoint({"language", "task"}):
        for position, key, names in ((1, "language", "lang_to_id"), (2, "task", "task_to_id")):
            for name, number in generation[names].items():
                if [position, number] in forced:
                    generation[key] = name
    generation["alignment_heads"] = _alignment_heads(generation.get("alignment_heads", []), config, where)
    if aliases := _aliases(generation.pop(ALIASES, {}), generation["lang_to_id"], where):
        generation[ALIASES] = aliases
    generation.setdefault("max_initial_timestamp_index", 50)  # 1 s, as in Whisper's own decoding
    generation.setdefault("return_timestamps", False)
    return generation


def own_language(generation: Mapping[str, Any]) -> str | None:
    """Code of the language that a fine-tuned model was trained on, from its complete generation config.

    It is stored as a token (`<|hi|>`), a code, or a name (`hindi`). If exactly one language borrows that token, it is
    that language. Raises CheckpointError if the value is none of these.
    """
    named = generation.get("language")
    if not isinstance(named, str):
        return None
    code = named.strip("<|>")
    if f"<|{code}|>" not in generation["lang_to_id"]:  # first, as a model may have languages that are not Whisper's
        try:
            code = language_code(code)
        except RecipeError as error:
            raise CheckpointError(f"`language` of the model's generation_config.json: {error}") from None
    borrowers = [language for language, token in generation.get(ALIASES, {}).items() if token == code]
    return borrowers[0] if len(borrowers) == 1 else code


def token_code(generation: Mapping[str, Any], language: str) -> str:
    """Code of the language whose token is used for this one: its own, or the one that it borrows."""
    aliases: dict[str, str] = generation.get(ALIASES, {})
    return aliases.get(language, language)


def upper_heads(config: WhisperConfig) -> list[list[int]]:
    """[layer, head] of every head in the upper half of the decoder: the default for aligning words."""
    layers, heads = config.decoder_layers, config.decoder_attention_heads
    return [[layer, head] for layer in range(layers // 2, layers) for head in range(heads)]


def complete_preprocessor(given: Mapping[str, Any], config: WhisperConfig, where: str) -> dict[str, Any]:
    """The config of `WhisperFeatureExtractor`. Raises CheckpointError if `given` describes another spectrogram."""
    complete = {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "processor_class": "WhisperProcessor",
        "feature_size": config.num_mel_bins,
        "sampling_rate": 16000,
        "n_fft": 400,  # samples, 25 ms
        "hop_length": 160,  # samples, 10 ms
        "chunk_length": 30,  # s
        "n_samples": 480000,
        "nb_max_frames": 3000,
        "padding_value": 0.0,
        "padding_side": "right",
        "return_attention_mask": False,
    }
    for key in ("feature_size", "sampling_rate", "n_fft", "hop_length", "chunk_length", "padding_value"):
        if given.get(key, complete[key]) != complete[key]:
            raise CheckpointError(f"{where}: `{key}` is {given[key]!r}; this model needs {complete[key]!r}")
    return complete


def _ids(generation: Mapping[str, Any], key: str, where: str) -> list[int]:
    values = generation.get(key, [])
    if not isinstance(values, list) or not all(isinstance(value, int) for value in values):
        raise CheckpointError(f"{where}: `{key}` is not a list of token ids")
    return [value for value in values if value >= 0]


def _alignment_heads(heads: Any, config: WhisperConfig, where: str) -> list[list[int]]:
    """The heads that align words; the default if any does not exist in this decoder. The list then belongs to another
    model (a student's config is often its teacher's), and other programs would read out of bounds."""
    pairs = isinstance(heads, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in heads)
    if not pairs or not all(isinstance(number, int) for pair in heads for number in pair):
        raise CheckpointError(f"{where}: `alignment_heads` is not a list of [layer, head]")
    layers, width = config.decoder_layers, config.decoder_attention_heads
    here = all(0 <= layer < layers and 0 <= head < width for layer, head in heads)
    return heads if here else upper_heads(config)


def _own_languages(languages: Mapping[str, int], ids: Mapping[str, int], vocab_size: int) -> dict[str, int]:
    """`languages` without those whose id is that of another token (the list of another Whisper) or out of range."""
    names = {number: name for name, number in ids.items()}
    return {
        name: ids.get(name, number)
        for name, number in languages.items()
        if 0 <= ids.get(name, number) < vocab_size and (name in ids or number not in names)
    }


def _aliases(aliases: Any, lang_to_id: Mapping[str, int], where: str) -> dict[str, str]:
    if not isinstance(aliases, dict) or not all(isinstance(text, str) for item in aliases.items() for text in item):
        raise CheckpointError(f"{where}: `{ALIASES}` does not map codes of languages to codes")
    return {code: token for code, token in aliases.items() if f"<|{token}|>" in lang_to_id}


def _named_ids(values: Any, key: str, where: str) -> dict[str, int]:
    if not isinstance(values, dict) or not all(isinstance(value, int) for value in values.values()):
        raise CheckpointError(f"{where}: `{key}` does not map names to token ids")
    return values
