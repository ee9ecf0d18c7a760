"""How many of the words that matter to the user are recognised: names, places, products."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jiwer
import numpy as np

from whispertune.evaluation.error_rates import CorpusScore
from whispertune.evaluation.significance import bootstrap_interval
from whispertune.text.normalizer import normalizer_for


@dataclass(frozen=True, slots=True)
class TermCount:
    """Occurrences of a term in the transcripts, those that were recognised, and those written where it is not said."""

    term: str
    occurrences: int
    recognised: int
    false: int


@dataclass(frozen=True)
class GlossaryRecall:
    """The counts of all terms; recall: of all occurrences, a fraction with its 95 % interval (nan without any)."""

    terms: list[TermCount]
    interval: tuple[float, float]

    @property
    def occurrences(self) -> int:
        return sum(count.occurrences for count in self.terms)

    @property
    def recognised(self) -> int:
        return sum(count.recognised for count in self.terms)

    @property
    def false(self) -> int:
        return sum(count.false for count in self.terms)

    @property
    def recall(self) -> float:
        return self.recognised / self.occurrences if self.occurrences else float("nan")

    @property
    def absent(self) -> list[str]:
        """Terms that no transcript contains."""
        return [count.term for count in self.terms if not count.occurrences]

    def least_recognised(self) -> list[TermCount]:
        """The terms that were missed, those missed most often first."""
        missed = [count for count in self.terms if count.recognised < count.occurrences]
        return sorted(missed, key=lambda count: (count.recognised - count.occurrences, count.term))

    def summary(self) -> dict[str, Any]:
        """For summary.json; fractions."""
        return {
            "recall": self.recall if self.occurrences else None,
            "recall_interval": list(self.interval) if self.occurrences else None,
            "occurrences": self.occurrences,
            "recognised": self.recognised,
            "false": self.false,
            "terms": [
                {"term": c.term, "occurrences": c.occurrences, "recognised": c.recognised, "false": c.false}
                for c in self.terms
            ],
        }


def count_terms(terms: Sequence[str], score: CorpusScore, languages: Sequence[str]) -> GlossaryRecall:
    """Count the terms in scored utterances, normalised as each utterance's language requires.

    An occurrence is recognised if all its words (characters, in languages written without spaces) are right along a
    shortest edit path: the term written elsewhere in the utterance does not count for it.
    languages: of each utterance's text.
    """
    numbers = {term: number for number, term in enumerate(terms)}
    counts = np.zeros((len(terms), 3), dtype=np.int64)
    said, missed = [], []
    indices: dict[str, _Index] = {}
    for utterance, language in zip(score.utterances, languages, strict=True):
        if language not in indices:
            indices[language] = _index(numbers, language, utterance.leads_with_cer)
        reference, hypothesis = (
            _units(text, utterance.leads_with_cer)
            for text in (utterance.reference_normalized, utterance.hypothesis_normalized)
        )
        right, right_written = _right(reference, hypothesis)
        recognised = [(number, all(right[span])) for number, span in _found(indices[language], reference)]
        for number, is_right in recognised:
            counts[number] += (1, is_right, 0)
        for number, span in _found(indices[language], hypothesis):
            counts[number, 2] += not all(right_written[span])
        said.append(len(recognised))
        missed.append(sum(not is_right for _, is_right in recognised))
    low, high = bootstrap_interval(missed, said, groups=score.groups)
    found = [TermCount(term, *row) for term, row in zip(terms, counts.tolist(), strict=True)]
    return GlossaryRecall(found, (1 - high, 1 - low))


_Index = dict[str, list[tuple[int, list[str]]]]
"""Terms by their first word or character: each its number and all its words or characters."""


def _index(numbers: Mapping[str, int], language: str, spaceless: bool) -> _Index:
    normalize, index = normalizer_for(language), _Index()
    for term, number in numbers.items():
        if units := _units(normalize(term), spaceless):
            index.setdefault(units[0], []).append((number, units))
    return index


def _units(text: str, spaceless: bool) -> list[str]:
    return list(text.replace(" ", "")) if spaceless else text.split()


def _right(reference: list[str], hypothesis: list[str]) -> tuple[list[bool], list[bool]]:
    """Which units of each text are the same along a shortest edit path."""
    there, written = [False] * len(reference), [False] * len(hypothesis)
    if reference and hypothesis:
        for chunk in jiwer.process_words(" ".join(reference), " ".join(hypothesis)).alignments[0]:
            if chunk.type == "equal":
                there[chunk.ref_start_idx : chunk.ref_end_idx] = [True] * (chunk.ref_end_idx - chunk.ref_start_idx)
                written[chunk.hyp_start_idx : chunk.hyp_end_idx] = [True] * (chunk.hyp_end_idx - chunk.hyp_start_idx)
    return there, written


def _found(index: _Index, text: list[str]) -> Iterator[tuple[int, slice]]:
    """The number and place of each term in a text."""
    for at, first in enumerate(text):
        for number, units in index.get(first, ()):
            if text[at : at + len(units)] == units:
                yield number, slice(at, at + len(units))
