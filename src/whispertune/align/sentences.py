"""A plain text -> sentences, and where a transcript of the recording has them."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from rapidfuzz.distance import Indel
from rapidfuzz.process import cdist

LONG_LINE = 200
"""Characters; a longer line is no sentence, but a paragraph, and cut at its full stops."""
SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’»)\]]*\s+|(?<=[。！？])(?=\S)")  # noqa: RUF001 - Chinese and Japanese
LEAST_SIMILAR = 0.5
"""Words of which no more is the same are not matched."""
MOST_BETWEEN = 2
"""Words heard between two matched ones of a sentence, beyond those that it has there."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """text; line: of the file, from 1."""

    text: str
    line: int


@dataclass(frozen=True, slots=True)
class Found:
    """Where a sentence is in a transcript: its words from `first` to before `last`.

    share: of the sentence's letters, how many were heard.
    """

    first: int
    last: int
    share: float


def split_sentences(text: str) -> list[Sentence]:
    """The lines of a text; one of more than 200 characters is cut after full stops, question and exclamation marks."""
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        parts = SENTENCE_END.split(line) if len(line) > LONG_LINE else [line]
        found += [Sentence(part.strip(), number) for part in parts if part.strip()]
    return found


def find_sentences(
    sentences: Sequence[str], words: Sequence[str], normalize: Callable[[str], str], *, spaces: bool = True
) -> list[Found | None]:
    """Where each sentence is among the words of a transcript, both in the order in which they are said.

    Words of both, normalised, are matched in order so that as many letters as possible agree; words may be misspelt,
    and sentences or speech that the other lacks are passed over. spaces: whether words are written with spaces between;
    else characters are matched. None: no word of a sentence was heard.
    """
    ours, sentence_of = _units(sentences, normalize, spaces)
    theirs, word_of = _units(words, normalize, spaces)
    letters = Counter[int]()
    for unit, sentence in zip(ours, sentence_of, strict=True):
        letters[sentence] += len(unit)
    matched: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for our, their in match_words(ours, theirs):
        matched[sentence_of[our]].append((our, their))
    found: list[Found | None] = [None] * len(sentences)
    for sentence, pairs in matched.items():
        sizes = [len(ours[our]) * Indel.normalized_similarity(ours[our], theirs[their]) for our, their in pairs]
        run = _best_run(pairs, sizes)
        first, last = word_of[pairs[run][0][1]], word_of[pairs[run][-1][1]]
        found[sentence] = Found(first, last + 1, sum(sizes[run]) / letters[sentence])
    return found


def _units(texts: Sequence[str], normalize: Callable[[str], str], spaces: bool) -> tuple[list[str], list[int]]:
    """The normalised words (or characters) of all texts, and which text each is of."""
    units = [normalize(text).split() for text in texts]
    if not spaces:
        units = [list("".join(those)) for those in units]
    return [unit for those in units for unit in those], [place for place, those in enumerate(units) for _ in those]


def match_words(ours: Sequence[str], theirs: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of words (places in N and M) in order, of the greatest sum of letters times what similarity exceeds 0.5."""
    if not ours or not theirs:
        return []
    our_kinds, our_kind = np.unique(np.array(ours), return_inverse=True)
    their_kinds, their_kind = np.unique(np.array(theirs), return_inverse=True)
    similar = cdist(our_kinds.tolist(), their_kinds.tolist(), scorer=Indel.normalized_similarity, dtype=np.float32)
    worth = np.maximum(similar - LEAST_SIMILAR, 0) * np.array([[len(word)] for word in our_kinds.tolist()])
    best = np.zeros(len(theirs) + 1)  # of our words so far, for each number of theirs
    skips_ours, skips_theirs = [], []
    for kind in our_kind:
        paired = best[:-1] + worth[kind][their_kind]
        now = np.maximum.accumulate(np.concatenate([[0.0], np.maximum(best[1:], paired)]))
        skips_ours.append(np.packbits(now == best))
        skips_theirs.append(np.packbits(np.concatenate([[False], now[1:] == now[:-1]])))
        best = now
    pairs = []
    our, their = len(ours), len(theirs)
    while our and their:
        byte, bit = divmod(their, 8)
        if skips_ours[our - 1][byte] >> (7 - bit) & 1:
            our -= 1
        elif skips_theirs[our - 1][byte] >> (7 - bit) & 1:
            their -= 1
        else:
            our, their = our - 1, their - 1
            pairs.append((our, their))
    return pairs[::-1]


def _best_run(pairs: Sequence[tuple[int, int]], sizes: Sequence[float]) -> slice:
    """The part of a sentence's matches with most letters in which little else is said between them."""
    cuts = [
        place
        for place in range(1, len(pairs))
        if pairs[place][1] - pairs[place - 1][1] > pairs[place][0] - pairs[place - 1][0] + MOST_BETWEEN
    ]
    runs = [slice(first, last) for first, last in pairwise([0, *cuts, len(pairs)])]
    return max(runs, key=lambda run: sum(sizes[run.start : run.stop]))
