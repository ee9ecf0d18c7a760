"""Recall of the words that matter, and rates by source and language."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whispertune.data.glossary import read_glossary
from whispertune.errors import UserError
from whispertune.evaluation.error_rates import CorpusScore, score_corpus
from whispertune.evaluation.glossary import TermCount, count_terms
from whispertune.evaluation.groups import by_group, group_summary, mean_rate, source_names


def scored(pairs: list[tuple[str, str]], language: str = "it") -> CorpusScore:
    references, hypotheses = zip(*pairs, strict=True)
    return score_corpus([f"clip-{n}" for n in range(len(pairs))], references, hypotheses, [language] * len(pairs))


def test_terms_are_counted_where_they_are_said() -> None:
    score = scored(
        [
            ("Chiama Maria Rossi, per favore.", "chiama maria rossi per favore"),  # phrase and name, in any case
            ("Maria cerca Maria Rossi", "mario cerca maria grossi"),  # one of two; the phrase's second word is wrong
            ("il gatto dorme", "il gatto Maria dorme"),  # written where it is not said
            ("Maria dorme ancora", "ancora Maria dorme"),  # right, though another word moved
        ]
    )
    recall = count_terms(["Maria", "Maria Rossi", "Torino"], score, ["it"] * 4)
    assert recall.terms == [
        TermCount("Maria", 4, 3, 1),
        TermCount("Maria Rossi", 2, 1, 0),
        TermCount("Torino", 0, 0, 0),
    ]
    assert (recall.occurrences, recall.recognised, recall.false) == (6, 4, 1)
    assert recall.recall == pytest.approx(4 / 6)
    assert recall.interval[0] < recall.recall < recall.interval[1]
    assert recall.absent == ["Torino"]
    assert [count.term for count in recall.least_recognised()] == ["Maria", "Maria Rossi"]


def test_without_an_occurrence_there_is_no_recall() -> None:
    recall = count_terms(["Torino"], scored([("il gatto", "il gatto")]), ["it"])
    assert math.isnan(recall.recall)
    assert recall.summary()["recall"] is None


def test_languages_without_spaces_are_searched_by_characters() -> None:
    score = scored([("私は東京に行きます", "私は東京に行きます"), ("東京", "京都")], "ja")
    assert count_terms(["東京"], score, ["ja", "ja"]).terms == [TermCount("東京", 2, 1, 0)]


words = st.lists(st.sampled_from(["uno", "due", "tre", "gatto"]), max_size=8).map(" ".join)


@given(st.lists(st.tuples(words, words), min_size=1, max_size=6), st.lists(words.filter(bool), min_size=1, unique=True))
def test_counts_are_consistent(pairs: list[tuple[str, str]], terms: list[str]) -> None:
    """Occurrences by counting; recognised at most those; all of them, and nothing false, in a perfect output."""
    score = scored(pairs)
    languages = ["it"] * len(pairs)
    perfect = count_terms(terms, scored([(reference, reference) for reference, _ in pairs]), languages)
    for count, best in zip(count_terms(terms, score, languages).terms, perfect.terms, strict=True):
        found = sum(f" {r} "[at:].startswith(f" {count.term} ") for r, _ in pairs for at in range(len(r) + 1))
        assert 0 <= count.recognised <= count.occurrences == found == best.occurrences == best.recognised
        assert best.false == 0


def test_a_glossary_is_read_by_line(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("\ufeff# people\nMaria  Rossi\n\nTorino\nTorino\n", encoding="utf-8")
    assert read_glossary(str(file)) == ["Maria Rossi", "Torino"]
    file.write_text("# nobody\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"names\.txt has no words"):
        read_glossary(str(file))
    with pytest.raises(UserError, match=r"missing\.txt"):
        read_glossary(str(tmp_path / "missing.txt"))


def test_rates_by_group_add_up_to_the_whole() -> None:
    score = scored([("uno due", "uno due"), ("uno due", "uno"), ("tre", "due"), ("tre quattro", "tre quattro")])
    clips = [{"language": "it", "source": name} for name in ("calls.csv", "calls.csv", "calls.csv", "field.csv")]
    groups = by_group(score, clips, "source")
    assert list(groups) == ["calls.csv", "field.csv"]
    assert sum(group.total().errors for group in groups.values()) == score.total().errors == 2
    assert mean_rate(groups) == pytest.approx((2 / 5 + 0) / 2)
    assert group_summary(groups)["groups"]["calls.csv"]["leading_rate"] == pytest.approx(2 / 5)
    assert by_group(score, clips, "language") == {}


def test_sources_of_one_name_keep_their_paths() -> None:
    assert source_names(["a/test.csv", "b/calls.csv"]) == ["test.csv", "calls.csv"]
    assert source_names(["a/test.csv", "b/test.csv"]) == ["a/test.csv", "b/test.csv"]
