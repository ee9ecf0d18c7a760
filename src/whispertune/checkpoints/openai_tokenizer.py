"""The tokenizer and the suppressed tokens that go with OpenAI's `.pt` files."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from whispertune.checkpoints.openai_layout import special_ids
from whispertune.checkpoints.tokenizer_files import END_OF_TEXT, TIMESTAMPS, build_tokenizer, byte_characters
from whispertune.errors import CheckpointError
from whispertune.text.tokenizer import Tokenizer

_MUSIC = "♩♪♫♬♭♮♯"
_SYMBOLS = [
    *'"#()*+/:;<=>@[\\]^_`{|}~「」『』',
    *("<<", ">>", "<<<", ">>>", "--", "---", "-(", "-[", "('", '("', "((", "))", "(((", ")))", "[[", "]]"),
    *("{{", "}}", "♪♪", "♪♪♪"),
]
"""Symbols that annotate sounds and speakers in subtitles and are not spoken: openai-whisper's list."""


def default_suppressed(tokenizer_json: str) -> dict[str, list[int]]:
    """The tokens that OpenAI's code suppresses, as `suppress_tokens` and `begin_suppress_tokens`.

    Symbols that are one token, with or without a leading space (for musical signs their first token, whose bytes only
    such signs share), a dash or quote that begins a word, and the tokens of the prompt; at the start a blank and the
    end of text.
    """
    tokenizer = Tokenizer(tokenizer_json)
    suppressed = {tokenizer.encode(" -")[0], tokenizer.encode(" '")[0]}
    for symbol in [*_SYMBOLS, *_MUSIC]:
        for tokens in (tokenizer.encode(symbol), tokenizer.encode(f" {symbol}")):
            if len(tokens) == 1 or symbol in _MUSIC:
                suppressed.add(tokens[0])
    suppressed |= {tokenizer.sot, tokenizer.translate, tokenizer.transcribe}
    suppressed |= {tokenizer.sot_lm, tokenizer.sot_prev, tokenizer.no_speech}
    return {
        "suppress_tokens": sorted(suppressed),
        "begin_suppress_tokens": [tokenizer.encode(" ")[0], tokenizer.eot],
    }


def installed_tokenizer(vocab_size: int) -> str | None:
    """The `tokenizer.json` for openai-whisper's own vocabulary of this size; None without that package.

    Raises CheckpointError if the package's file is damaged.
    """
    specials = special_ids(vocab_size)
    package = find_spec("whisper")
    if not specials or package is None or package.origin is None:
        return None
    multilingual = specials[END_OF_TEXT] == 50257
    path = Path(package.origin).parent / "assets" / f"{'multilingual' if multilingual else 'gpt2'}.tiktoken"
    if not path.exists():
        return None
    try:
        lines = [line.split() for line in path.read_text(encoding="ascii").splitlines() if line.strip()]
        ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: is damaged ({error}); reinstall openai-whisper") from error
    return _from_ranks(ranks, specials)


def _from_ranks(ranks: Mapping[bytes, int], specials: Mapping[str, int]) -> str:
    """Byte-level BPE from ranks: a token's merge is the pair that merges of lower rank reduce it to."""
    characters = {byte: character for character, byte in byte_characters().items()}

    def spell(token: bytes) -> str:
        return "".join(characters[byte] for byte in token)

    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        parts = [bytes([byte]) for byte in token]
        while len(parts) > 2:
            best = min(range(len(parts) - 1), key=lambda i: _rank(ranks, parts[i] + parts[i + 1], rank))
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
        if len(parts) == 2:
            merges.append(" ".join(spell(part) for part in parts))
    vocab: dict[str, Any] = {spell(token): rank for token, rank in ranks.items()}
    vocab[END_OF_TEXT] = specials[END_OF_TEXT]
    added = {name: number for name, number in specials.items() if name not in TIMESTAMPS}
    return build_tokenizer(vocab, merges, added)


def _rank(ranks: Mapping[bytes, int], pair: bytes, below: int) -> int:
    rank = ranks.get(pair, below)
    return rank if rank < below else 1 << 30
