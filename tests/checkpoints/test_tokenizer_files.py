"""`tokenizer.json` mended where conversions have broken it."""

from __future__ import annotations

import json

import checkpoint_samples as samples
import pytest

from whispertune.checkpoints.checkpoint import load_checkpoint
from whispertune.checkpoints.tokenizer_files import byte_characters, complete_tokenizer
from whispertune.errors import CheckpointError
from whispertune.text.tokenizer import Tokenizer


def test_byte_characters() -> None:
    assert sorted(byte_characters().values()) == list(range(256))
    assert set(byte_characters()) == set(samples.byte_alphabet())
    assert byte_characters()["Ġ"] == ord(" ")
    assert byte_characters()["Ċ"] == ord("\n")


@pytest.mark.parametrize("as_text", [True, False])
def test_a_lost_first_merge_is_put_back(as_text: bool) -> None:
    content = json.loads(samples.TOKENIZER)
    content["model"]["vocab"] = {
        token: number + (number > 256) for token, number in content["model"]["vocab"].items()
    } | {"cia": 257}  # fmt: skip
    for token in content["added_tokens"]:
        token["id"] += 1
    whole = [pair if as_text else pair.split() for pair in ("c i", "ci a")]
    for merges in (whole, whole[1:]):
        content["model"]["merges"] = merges
        text, _ = complete_tokenizer(json.dumps(content), samples.VOCAB_SIZE + 1, "x")
        assert json.loads(text)["model"]["merges"] == whole
    content["model"]["merges"] = [3, None]
    complete_tokenizer(json.dumps(content), samples.VOCAB_SIZE + 1, "x")  # refused where it is used, not here


@pytest.mark.parametrize("name", ["whisper-base", "whisper-tiny.en"])
def test_words_with_t_are_spelt_as_whisper_spells_them(name: str) -> None:
    """Whisper's ranks make every token of its vocabulary from its bytes; so must the tokenizer."""
    try:
        checkpoint = load_checkpoint(f"packaged:{name}")
    except CheckpointError as error:
        pytest.skip(str(error))
    tokenizer = Tokenizer(checkpoint.tokenizer_json)
    vocab = json.loads(checkpoint.tokenizer_json)["model"]["vocab"]
    words = {token: number for token, number in vocab.items() if token[:2] == "Ġt" and token[1:].isalpha()}
    assert len(words) > 500
    spelt = {token: tokenizer.encode(tokenizer.decode([number])) for token, number in words.items()}
    assert [token for token, ids in spelt.items() if ids != [words[token]]] == []
