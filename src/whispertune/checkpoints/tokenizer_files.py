"""Complete `tokenizer.json`, look up special ids, and derive its companion files.

Converters omit the timestamp tokens from `tokenizer.json`. Their ids are computed: `<|0.00|>` follows
`<|notimestamps|>`, then every 0.02 s up to `<|30.00|>`. Files of multilingual models also lack the very first merge,
of a space and a t, so that words that begin with t are tokenised differently from Whisper.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from whispertune.errors import CheckpointError
from whispertune.text.languages import LANGUAGES

END_OF_TEXT = "<|endoftext|>"
START = "<|startoftranscript|>"
NO_TIMESTAMPS = "<|notimestamps|>"
TIMESTAMPS = tuple(f"<|{0.02 * step:.2f}|>" for step in range(1501))

_TIMESTAMP = re.compile(r"<\|\d+\.\d\d\|>")


def complete_tokenizer(text: str, vocab_size: int, where: str) -> tuple[str, dict[str, int]]:
    """`tokenizer.json` with timestamp tokens and first merge, and every special token's id by name.

    The text is returned unchanged if nothing is missing. Raises CheckpointError if it is not a byte-level BPE tokenizer
    of Whisper, or has special ids outside a vocabulary of `vocab_size`.
    """
    try:
        content = json.loads(text)
        vocab, listed = content["model"]["vocab"], content["added_tokens"]
        ids = {name: int(vocab[name]) for name in (END_OF_TEXT, START, NO_TIMESTAMPS) if name in vocab}
        ids |= {str(token["content"]): int(token["id"]) for token in listed}
        merges = content["model"]["merges"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{where}: not a tokenizer of Whisper ({type(error).__name__}: {error})") from error
    if not isinstance(vocab, dict) or not isinstance(merges, list):
        raise CheckpointError(f"{where}: not a byte-level BPE tokenizer, as Whisper's is")
    for name in (END_OF_TEXT, START, NO_TIMESTAMPS):
        if not 0 <= ids.get(name, -1) < vocab_size:
            raise CheckpointError(
                f"{where}: {name} has id {ids.get(name)}, but the model's vocabulary has {vocab_size} tokens; "
                "the tokenizer belongs to another model"
            )
    first = ids[NO_TIMESTAMPS] + 1
    # A vocabulary cut before the timestamps has none, and tokens added since may have their ids.
    room = first + len(TIMESTAMPS) <= vocab_size and set(ids.values()).isdisjoint(
        first + step for step, name in enumerate(TIMESTAMPS) if name not in ids
    )
    missing = [(first + step, name) for step, name in enumerate(TIMESTAMPS) if name not in ids] if room else []
    restored = _restore_first_merge(vocab, merges)
    if missing or restored:
        listed.extend(_added_token(number, name) for number, name in missing)
        listed.sort(key=lambda token: token["id"])  # the tokenizers library requires this order
        ids |= {name: number for number, name in missing}
        text = json.dumps(content, ensure_ascii=False)
    return text, ids


def _restore_first_merge(vocab: Mapping[str, int], merges: list[Any]) -> bool:
    """Insert the first merge if it is missing; returns whether it was.

    A byte-level vocabulary is the 256 bytes followed by the result of each merge in order: token 256 is the first.
    """
    made = next((token for token, number in vocab.items() if number == 256), "")
    if len(made) != 2 or not merges or not all(part in vocab for part in made):
        return False
    if any(isinstance(pair, str | list) and "".join(map(str, pair)).replace(" ", "") == made for pair in merges):
        return False
    merges.insert(0, " ".join(made) if isinstance(merges[0], str) else list(made))
    return True


def build_tokenizer(vocab: Mapping[str, int], merges: Sequence[str], added: Mapping[str, int]) -> str:
    """`tokenizer.json` from a slow tokenizer's `vocab.json`, `merges.txt` and `added_tokens.json`."""
    ids = {END_OF_TEXT: vocab[END_OF_TEXT], **added} if END_OF_TEXT in vocab else dict(added)
    prefix = [name for name in (START, NO_TIMESTAMPS) if name in ids]
    single = [{"SpecialToken": {"id": name, "type_id": 0}} for name in prefix]
    end = [{"SpecialToken": {"id": END_OF_TEXT, "type_id": 0}}]
    sequences = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(number, name) for name, number in sorted(ids.items(), key=lambda x: x[1])],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": single + sequences[:1] + end,
            "pair": single + sequences + end,
            "special_tokens": {
                name: {"id": name, "ids": [ids[name]], "tokens": [name]}
                for name in [*prefix, END_OF_TEXT]
                if name in ids
            },
        },
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "vocab": dict(vocab),
            "merges": list(merges),
        },
    }
    return json.dumps(content, ensure_ascii=False)


def byte_characters() -> dict[str, int]:
    """The 256 characters that represent bytes in byte-level BPE, and their bytes.

    Printable bytes of Latin-1 represent themselves, the others are represented by U+0100 and following, in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + n): byte for n, byte in enumerate(others)}


def text_tokens(tokenizer_json: str, end_of_text: int, where: str) -> list[bytes]:
    """The bytes of every token before `end_of_text`, by id; empty for gaps.

    Raises CheckpointError if a token contains other than byte-level BPE's characters.
    """
    vocab, characters = json.loads(tokenizer_json)["model"]["vocab"], byte_characters()
    tokens = [b""] * end_of_text
    for token, number in vocab.items():
        if number < end_of_text:
            if not all(character in characters for character in token):
                raise CheckpointError(f"{where}: the token {token!r:.60} is not byte-level BPE")
            tokens[number] = bytes(characters[character] for character in token)
    return tokens


def companion_files(tokenizer_json: str, *, language: str | None, task: str | None) -> dict[str, str]:
    """Name and text of the files that `WhisperTokenizer` expects beside `tokenizer.json`.

    `language` (`it`) and `task` become the prompt that the tokenizer prepends to labels.
    """
    content = json.loads(tokenizer_json)
    model, added = content["model"], sorted(content["added_tokens"], key=lambda token: int(token["id"]))
    special = [token["content"] for token in added if token.get("special")]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    roles = {
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "unk_token": END_OF_TEXT,
    }
    settings: dict[str, Any] = {
        **roles,
        "add_prefix_space": False,
        # `<|notimestamps|>` must come last, as transformers assumes that `<|0.00|>` follows.
        "additional_special_tokens": special,
        "added_tokens_decoder": {
            str(token["id"]): {key: value for key, value in token.items() if key != "id"} for token in added
        },
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "model_max_length": 1024,
        "processor_class": "WhisperProcessor",
        "return_attention_mask": False,
        "tokenizer_class": "WhisperTokenizer",
    }
    if language in LANGUAGES:  # transformers' tokenizer fails to open with an added language
        settings |= {"language": language, "task": task}
    spelling = resources.files("whisper_normalizer").joinpath("normalizers/english.json")
    return {
        "tokenizer_config.json": as_json(settings),
        "special_tokens_map.json": as_json({**roles, "additional_special_tokens": special}),
        "added_tokens.json": as_json(
            {token["content"]: token["id"] for token in added if token["content"] not in model["vocab"]}
        ),
        "vocab.json": json.dumps(model["vocab"], ensure_ascii=False),
        "merges.txt": "#version: 0.2\n" + "".join(f"{pair}\n" for pair in merges),
        "normalizer.json": spelling.read_text(encoding="utf-8"),
    }


def as_json(content: Mapping[str, Any]) -> str:
    """Human-readable JSON text."""
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _added_token(number: int, name: str) -> dict[str, Any]:
    timestamp = _TIMESTAMP.fullmatch(name) is not None
    return {
        "id": number,
        "content": name,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": timestamp,
        # Not special, or transformers would drop them when timestamps are requested.
        "special": not timestamp,
    }
