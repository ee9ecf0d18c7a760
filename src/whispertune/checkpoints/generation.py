"""The generation and preprocessor configs that go with a model, complete whatever its source lists."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from whispertune.checkpoints.tokenizer_files import END_OF_TEXT, NO_TIMESTAMPS, START
from whispertune.errors import CheckpointError, RecipeError
from whispertune.model.config import WhisperConfig
from whispertune.text.languages import language_code

MULTILINGUAL_VOCABULARY = 51865
"""Tokens, at least, of a multilingual Whisper; English-only ones have 51864, but their tokenizer files may
list the languages all the same."""

_LANGUAGE = re.compile(r"<\|[a-z]{2,3}\|>")


def complete_generation(
    given: Mapping[str, Any], config: WhisperConfig, ids: Mapping[str, int], where: str
) -> dict[str, Any]:
    """`given` (the known part of a `generation_config.json`) with everything else that decoding needs.

    Special ids come from the tokenizer's names (`ids`). Token ids outside the vocabulary are left out of the
    lists of suppressed ones: the model cannot produce them anyway. Where neither language nor task is named,
    both are those of `forced_decoder_ids`, which older fine-tuned models have instead. Raises CheckpointError
    on values of the wrong type.
    """
    generation = {
        key: value
        for key, value in given.items()
        # The first is deprecated and may contradict `language`; the others describe who wrote the file.
        if key not in ("forced_decoder_ids", "transformers_version", "_from_model_config") and value is not None
    }
    multilingual = generation.get("is_multilingual", config.vocab_size >= MULTILINGUAL_VOCABULARY)
    start, end = ids[START], ids[END_OF_TEXT]
    languages, tasks = generation.get("lang_to_id"), generation.get("task_to_id")
    if not multilingual:
        languages, tasks = {}, {}
    if languages is None:
        last = ids.get("<|translate|>", ids[NO_TIMESTAMPS])
        languages = {
            name: number for name, number in ids.items() if _LANGUAGE.fullmatch(name) and start < number < last
        }
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
        "lang_to_id": _named_ids(languages, "lang_to_id", where),
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
    generation.setdefault("alignment_heads", [])
    generation.setdefault("max_initial_timestamp_index", 50)  # 1 s, as in Whisper's own decoding
    generation.setdefault("return_timestamps", False)
    return generation


def own_language(generation: Mapping[str, Any]) -> str | None:
    """Code of the language that a fine-tuned model was trained on, by its complete generation config.

    Stored as a token (`<|hi|>`), a code, or a name (`hindi`). Raises CheckpointError if it is none of these.
    """
    named = generation.get("language")
    if not isinstance(named, str):
        return None
    code = named.strip("<|>")
    if f"<|{code}|>" in generation["lang_to_id"]:  # first, as a model may have languages that are not Whisper's
        return code
    try:
        return language_code(code)
    except RecipeError as error:
        raise CheckpointError(f"`language` of the model's generation_config.json: {error}") from None


def complete_preprocessor(given: Mapping[str, Any], config: WhisperConfig, where: str) -> dict[str, Any]:
    """What `WhisperFeatureExtractor` needs. Raises CheckpointError if `given` has another spectrogram."""
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
        raise CheckpointError(f"{where}: `{key}` is no list of token ids")
    return [value for value in values if value >= 0]


def _named_ids(values: Any, key: str, where: str) -> dict[str, int]:
    if not isinstance(values, dict) or not all(isinstance(value, int) for value in values.values()):
        raise CheckpointError(f"{where}: `{key}` does not map names to token ids")
    return values
