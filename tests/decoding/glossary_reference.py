"""What a glossary adds to a hypothesis's score, computed from its beginning, without links between states."""

from __future__ import annotations

from collections.abc import Sequence

Words = Sequence[tuple[int, ...]]


def written(tokens: tuple[int, ...], words: Words) -> tuple[int, ...]:
    """The longest end of these tokens that begins a word."""
    ends = (tokens[at:] for at in range(len(tokens) + 1))
    return next(end for end in ends if not end or any(word[: len(end)] == end for word in words))


def finished(part: tuple[int, ...], words: Words) -> int:
    """Of the beginning of a word, the tokens that belong to finished words."""
    if not part:
        return 0
    own = max((n for n in range(1, len(part) + 1) if part[:n] in words), default=0)
    return max(own, finished(written(part[1:], words), words))


def boost_of(tokens: tuple[int, ...], words: Words, boost: float) -> float:
    """The sum of what each token adds."""
    total, before = 0.0, ()
    for number, token in enumerate(tokens, start=1):
        now = written(tokens[:number], words)
        lost = len(before) if now == (*before, token) else len(before) - finished(before, words)
        total += boost * (len(now) - lost)
        before = now
    return total
