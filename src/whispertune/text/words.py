"""Text tokens -> words, as openai-whisper's tokenizer splits them."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import NamedTuple

from whispertune.text.languages import WRITTEN_WITHOUT_SPACES
from whispertune.text.tokenizer import Tokenizer

BROKEN = "\ufffd"
"""What bytes that are no character are decoded as."""


class WordTokens(NamedTuple):
    """A word as it was emitted, leading space included, and its token ids."""

    text: str
    tokens: list[int]


def split_words(tokens: Sequence[int], tokenizer: Tokenizer, language: str | None) -> list[WordTokens]:
    """The words of text tokens; joined, they are the whole text.

    language: of the text. In one that is written without spaces, every run of tokens that decodes to whole characters
    is a word; in all others, words begin with a space, and punctuation stands alone.
    """
    pieces = _whole_characters(tokens, tokenizer)
    if language in WRITTEN_WITHOUT_SPACES:
        return pieces
    words: list[WordTokens] = []
    for piece in pieces:
        alone = piece.text.startswith(" ") or piece.text.strip() in string.punctuation
        if alone or not words:
            words.append(piece)
        else:
            words[-1] = WordTokens(words[-1].text + piece.text, words[-1].tokens + piece.tokens)
    return words


def _whole_characters(tokens: Sequence[int], tokenizer: Tokenizer) -> list[WordTokens]:
    """The shortest runs of tokens that decode to whole characters, or to ones that are broken in the whole text too."""
    whole = tokenizer.decode(tokens)
    pieces: list[WordTokens] = []
    run: list[int] = []
    done = 0
    for token in tokens:
        run.append(token)
        text = tokenizer.decode(run)
        broken = text.find(BROKEN)
        if broken < 0 or whole[done + broken : done + broken + 1] == BROKEN:
            pieces.append(WordTokens(text, run))
            done += len(text)
            run = []
    return [*pieces, WordTokens(tokenizer.decode(run), run)] if run else pieces
