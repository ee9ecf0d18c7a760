"""Word and character error rates, per utterance and over a corpus, raw and normalised."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal

import jiwer

from whispertune.evaluation.significance import MatchedPairs, bootstrap_interval, matched_pairs, speaker_groups
from whispertune.system.console import percent
from whispertune.text.normalizer import leads_with_cer, normalizer_for

Counted = Literal["words", "characters", "words_raw", "characters_raw", "leading"]
"""Names of the counts of an `UtteranceScore`: the units in which errors are counted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ErrorCounts:
    """Edits that turn the reference into the hypothesis, counted in words or characters."""

    substitutions: int = 0
    insertions: int = 0
    deletions: int = 0
    num_reference: int = 0

    @property
    def errors(self) -> int:
        """All edits."""
        return self.substitutions + self.insertions + self.deletions

    @property
    def rate(self) -> float:
        """Errors per reference word or character, a fraction that may exceed 1.

        An empty reference counts as one word, so that what was inserted there still shows.
        """
        return self.errors / max(self.num_reference, 1)

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        return ErrorCounts(
            substitutions=self.substitutions + other.substitutions,
            insertions=self.insertions + other.insertions,
            deletions=self.deletions + other.deletions,
            num_reference=self.num_reference + other.num_reference,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class UtteranceScore:
    """One utterance: its texts as given and normalised, and the errors between them."""

    id: str
    reference: str
    hypothesis: str
    reference_normalized: str
    hypothesis_normalized: str
    words: ErrorCounts
    characters: ErrorCounts
    words_raw: ErrorCounts
    characters_raw: ErrorCounts
    leads_with_cer: bool = False
    """Whether its language is written without spaces, so that only character errors are meaningful."""

    @property
    def leading(self) -> ErrorCounts:
        """The counts that this utterance is judged by: of its characters or its words."""
        return self.characters if self.leads_with_cer else self.words


@dataclass(frozen=True, kw_only=True)
class CorpusScore:
    """All utterances; the rates are those of the summed counts, never means of utterance rates.

    groups: the speaker of each utterance, if enough are named (`speaker_groups`): intervals and tests are then over
    speakers.
    """

    utterances: list[UtteranceScore]
    groups: Sequence[str | None] | None = None

    @cached_property
    def _intervals(self) -> dict[Counted, tuple[float, float]]:
        return {}

    def total(self, counted: Counted = "leading") -> ErrorCounts:
        """The summed counts of all utterances."""
        return total(self._counts(counted))

    def interval(self, counted: Counted = "leading") -> tuple[float, float]:
        """95 % bootstrap interval of a rate, as fractions; computed once for each rate."""
        if counted not in self._intervals:
            counts = self._counts(counted)
            self._intervals[counted] = bootstrap_interval(
                [c.errors for c in counts], [c.num_reference for c in counts], groups=self.groups
            )
        return self._intervals[counted]

    def rate_with_interval(self, counted: Counted = "leading") -> str:
        """A rate and its 95 % interval for people: `15.0 % (12.1 to 18.3)`."""
        low, high = self.interval(counted)
        return f"{percent(self.total(counted).rate)} ({100 * low:.1f} to {100 * high:.1f})"

    @property
    def intervals_over(self) -> str:
        """What the bootstrap draws: `speakers` or `utterances`."""
        return "utterances" if self.groups is None else "speakers"

    def _counts(self, counted: Counted) -> list[ErrorCounts]:
        return [getattr(score, counted) for score in self.utterances]

    @property
    def wer(self) -> float:
        """Normalised word error rate, a fraction."""
        return self.total("words").rate

    @property
    def cer(self) -> float:
        """Normalised character error rate, a fraction."""
        return self.total("characters").rate

    @property
    def wer_raw(self) -> float:
        """Word error rate with case and punctuation, a fraction."""
        return self.total("words_raw").rate

    @property
    def cer_raw(self) -> float:
        """Character error rate with case and punctuation, a fraction."""
        return self.total("characters_raw").rate

    @property
    def leading(self) -> float:
        """The rate that a model is chosen by, normalised: of words, but of characters in languages written without
        spaces."""
        return self.total().rate

    @property
    def leading_name(self) -> str:
        """The name of that rate: `WER`, `CER`, or `MER` (mixed) where there are languages of both kinds."""
        kinds = {score.leads_with_cer for score in self.utterances}
        return "MER" if len(kinds) == 2 else "CER" if True in kinds else "WER"


def compare(baseline: CorpusScore, model: CorpusScore) -> MatchedPairs:
    """The leading rate of a model minus that of a baseline, on the utterances (by id) that both decoded."""
    theirs = {score.id: score.leading.errors for score in baseline.utterances}
    places = [place for place, score in enumerate(model.utterances) if score.id in theirs]
    ours = [model.utterances[place] for place in places]
    return matched_pairs(
        [theirs[score.id] for score in ours],
        [score.leading.errors for score in ours],
        [score.leading.num_reference for score in ours],
        groups=None if model.groups is None else speaker_groups([model.groups[place] for place in places]),
    )


def total(counts: Iterable[ErrorCounts]) -> ErrorCounts:
    """The sum of counts; all zero for none."""
    return sum(counts, ErrorCounts())


def score_corpus(
    ids: Sequence[str],
    references: Sequence[str],
    hypotheses: Sequence[str],
    languages: Sequence[str],
    speakers: Sequence[str | None] | None = None,
) -> CorpusScore:
    """Score utterances, each normalised as its own language asks.

    The sequences run in parallel; ValueError if their lengths differ. Runs of white space count as
    one space, at either end as none. In languages written without spaces the normalised characters are
    counted without them, as Whisper does: removed punctuation leaves spaces that nobody speaks.
    Raises RecipeError for an unknown language.
    """
    language_of = cache(lambda language: (normalizer_for(language), leads_with_cer(language)))
    scores = []
    for id_, reference, hypothesis, language in zip(ids, references, hypotheses, languages, strict=True):
        normalize, spaceless = language_of(language)
        normalized = normalize(reference), normalize(hypothesis)
        characters = [text.replace(" ", "") for text in normalized] if spaceless else normalized
        scores.append(
            UtteranceScore(
                id=id_,
                reference=reference,
                hypothesis=hypothesis,
                reference_normalized=normalized[0],
                hypothesis_normalized=normalized[1],
                words=count_words(*normalized),
                characters=count_characters(*characters),
                words_raw=count_words(reference, hypothesis),
                characters_raw=count_characters(reference, hypothesis),
                leads_with_cer=spaceless,
            )
        )
    if speakers is not None and len(speakers) != len(scores):
        raise ValueError(f"one speaker per utterance: got {len(speakers)} for {len(scores)}")
    return CorpusScore(utterances=scores, groups=None if speakers is None else speaker_groups(speakers))


def count_words(reference: str, hypothesis: str) -> ErrorCounts:
    """Word errors of one utterance, along a shortest edit path (jiwer)."""
    reference, hypothesis = _one_line(reference), _one_line(hypothesis)
    if not reference or not hypothesis:
        return _one_empty(len(reference.split()), len(hypothesis.split()))
    return _counts(jiwer.process_words(reference, hypothesis))


def count_characters(reference: str, hypothesis: str) -> ErrorCounts:
    """Character errors of one utterance, along a shortest edit path (jiwer): code points, spaces too."""
    reference, hypothesis = _one_line(reference), _one_line(hypothesis)
    if not reference or not hypothesis:
        return _one_empty(len(reference), len(hypothesis))
    return _counts(jiwer.process_characters(reference, hypothesis))


def alignment(reference: str, hypothesis: str) -> str:
    """Both texts in one line for people: 'il [gatto → cane] [- non] dorme [+ qui]'."""
    reference, hypothesis = _one_line(reference), _one_line(hypothesis)
    if not reference or not hypothesis:
        text = reference or hypothesis
        return f"[{'-' if reference else '+'} {text}]" if text else ""
    parts = []
    for chunk in jiwer.process_words(reference, hypothesis).alignments[0]:
        old = " ".join(reference.split()[chunk.ref_start_idx : chunk.ref_end_idx])
        new = " ".join(hypothesis.split()[chunk.hyp_start_idx : chunk.hyp_end_idx])
        changed = {"substitute": f"[{old} → {new}]", "delete": f"[- {old}]", "insert": f"[+ {new}]"}
        parts.append(changed.get(chunk.type, old))
    return " ".join(parts)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _counts(out: jiwer.WordOutput | jiwer.CharacterOutput) -> ErrorCounts:
    return ErrorCounts(
        substitutions=out.substitutions,
        insertions=out.insertions,
        deletions=out.deletions,
        num_reference=out.hits + out.substitutions + out.deletions,
    )


def _one_empty(num_reference: int, num_hypothesis: int) -> ErrorCounts:
    # Nothing to align: all of the reference is deleted, or all of the hypothesis inserted.
    return ErrorCounts(insertions=num_hypothesis, deletions=num_reference, num_reference=num_reference)
