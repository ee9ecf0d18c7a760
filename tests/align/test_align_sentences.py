"""Sentences of a text, and where a faulty transcript has them."""

from __future__ import annotations

import random

import pytest

from whispertune.align.sentences import LONG_LINE, find_sentences, split_sentences
from whispertune.text.normalizer import normalizer_for

NORMALIZE = normalizer_for("it")
SYLLABLES = [a + b for a in "bcdfglmnprstvz" for b in "aeiou"]


def test_lines_are_sentences_and_paragraphs_are_cut() -> None:
    paragraph = "Questa frase è lunga abbastanza. " * 8 + "«E questa?» Sì!"
    assert len(paragraph) > LONG_LINE
    found = split_sentences(f"Uno. Due.\n\n  tre  \n{paragraph}\n")
    assert [(s.line, s.text) for s in found[:2]] == [(1, "Uno. Due."), (3, "tre")]
    assert [s.text for s in found[2:]] == ["Questa frase è lunga abbastanza."] * 8 + ["«E questa?", "Sì!"]
    assert {s.line for s in found[2:]} == {4}
    assert len(split_sentences("今天天气很好。我们去公园散步吧。" * 20)) == 40


def sentence(draws: random.Random) -> str:
    return " ".join(
        "".join(draws.choices(SYLLABLES, k=draws.randint(1, 4))) for _ in range(draws.randint(2, 9))
    ).capitalize()


def misheard(word: str, draws: random.Random) -> str:
    return "".join(draws.choice("aeiou") if draws.random() < 0.15 else letter for letter in word)


@pytest.mark.parametrize("spaces", [True, False])
def test_sentences_are_found_in_a_faulty_transcript(spaces: bool) -> None:
    """5 % of the sentences are not in the text, 5 % of the text is not said, a seventh of the vowels is misheard."""
    draws = random.Random(0)
    said = [sentence(draws) for _ in range(400)]
    words, first = [], []
    for text in said:
        first.append(len(words))
        words += [misheard(word, draws) for word in text.split()] if spaces else [misheard(c, draws) for c in text]
    texts, places = [], []
    for number, text in enumerate(said):
        if draws.random() < 0.05:
            texts.append(sentence(draws))
            places.append(None)
        if draws.random() >= 0.05:
            texts.append(text if spaces else text.replace(" ", ""))
            places.append(number)
    found = find_sentences(texts, words, NORMALIZE, spaces=spaces)
    ends = [*first[1:], len(words)]
    exact = clear = 0
    for place, where in zip(places, found, strict=True):
        if place is None:
            assert where is None or where.share < 0.6
        else:
            assert where is not None
            clear += where.share > 0.5
            exact += max(abs(where.first - first[place]), abs(where.last - ends[place])) <= (1 if spaces else 3)
    assert exact > 0.93 * sum(place is not None for place in places)
    assert clear > 0.96 * sum(place is not None for place in places)


def test_nothing_said_and_nothing_written() -> None:
    assert find_sentences([], ["uno"], NORMALIZE) == []
    assert find_sentences(["Uno.", "…"], [], NORMALIZE) == [None, None]
    (found,) = find_sentences(["Uno due."], [" Uno,", " due"], NORMALIZE) or [None]
    assert found is not None
    assert (found.first, found.last, found.share) == (0, 2, 1.0)
