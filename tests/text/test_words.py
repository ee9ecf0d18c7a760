"""Tokens become words, and nothing is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whispertune.text.tokenizer import Tokenizer
from whispertune.text.words import split_words


@pytest.mark.parametrize(
    ("language", "text", "words"),
    [
        ("it", " Sì, l'altro. No?", [" Sì", ",", " l", "'altro", ".", " No", "?"]),
        ("it", "senza spazio", ["senza", " spazio"]),
        ("zh", "你好。", ["你", "好", "。"]),
        (None, " 你好", [" 你好"]),
        ("it", "", []),
    ],
)
def test_words(tokenizer: Tokenizer, language: str | None, text: str, words: list[str]) -> None:
    assert [word.text for word in split_words(tokenizer.encode(text), tokenizer, language)] == words


@given(st.text(), st.sampled_from(["it", "th"]))
def test_joined_they_are_the_text(tokenizer: Tokenizer, text: str, language: str) -> None:
    tokens = tokenizer.encode(text)
    words = split_words(tokens, tokenizer, language)
    assert "".join(word.text for word in words) == tokenizer.decode(tokens)
    assert [token for word in words for token in word.tokens] == tokens


@given(st.lists(st.integers(0, 255)))
def test_bytes_that_are_no_text(tokenizer: Tokenizer, tokens: list[int]) -> None:
    assert [token for word in split_words(tokens, tokenizer, "it") for token in word.tokens] == tokens
