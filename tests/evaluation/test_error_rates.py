import jiwer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whispertune.errors import RecipeError
from whispertune.evaluation.error_rates import (
    CorpusScore,
    ErrorCounts,
    alignment,
    count_characters,
    count_words,
    score_corpus,
    total,
)


def score(references: list[str], hypotheses: list[str], language: str = "it") -> CorpusScore:
    ids = [str(i) for i in range(len(references))]
    return score_corpus(ids, references, hypotheses, [language] * len(ids))


def test_a_corpus_by_hand() -> None:
    result = score(["Il gatto dorme.", "sì", "uno due"], ["il cane dorme", "sì sì", "due"])
    # normalised: 1 substitution of 3, 1 insertion of 1, 1 deletion of 2
    assert [u.words.errors for u in result.utterances] == [1, 1, 1]
    assert result.wer == 3 / 6
    # raw: 'Il' and 'dorme.' differ as well
    assert result.utterances[0].words_raw.substitutions == 3
    assert result.wer_raw == 5 / 6
    # characters: gatto -> cane is 4 edits of 14; ' sì' of 2; 'uno ' of 7
    assert [u.characters.errors for u in result.utterances] == [4, 3, 4]
    assert [u.characters.num_reference for u in result.utterances] == [14, 2, 7]
    assert result.cer == 11 / 23
    # ... and raw 'Il' and the full stop
    assert result.cer_raw == 13 / 24
    first = result.utterances[0]
    assert (first.id, first.reference, first.hypothesis) == ("0", "Il gatto dorme.", "il cane dorme")
    assert (first.reference_normalized, first.hypothesis_normalized) == ("il gatto dorme", "il cane dorme")


@pytest.mark.parametrize(
    ("languages", "name", "rate"), [("it it", "WER", 2 / 2), ("zh zh", "CER", 2 / 8), ("it zh", "MER", 2 / 5)]
)
def test_what_a_model_is_chosen_by(languages: str, name: str, rate: float) -> None:
    """Words; characters where there are no spaces; each language's own where both are there."""
    result = score_corpus(["a", "b"], ["今天天气"] * 2, ["今天天冷"] * 2, languages.split())
    assert (result.leading_name, result.leading) == (name, rate)
    assert score([], []).leading_name == "WER"


def test_the_corpus_rate_is_no_mean_of_utterance_rates() -> None:
    assert score(["a", "b c d e f g h i j"], ["x", "b c d e f g h i j"]).wer == 1 / 10


WORDS = st.lists(st.sampled_from(["a", "b", "cc", "dé"]), min_size=1, max_size=8).map(" ".join)


@settings(deadline=None)
@given(pairs=st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=6))
def test_non_empty_corpora_score_as_jiwer_has_it(pairs: list[tuple[str, str]]) -> None:
    references, hypotheses = [r for r, _ in pairs], [h for _, h in pairs]
    result = score(references, hypotheses)
    assert result.wer == result.wer_raw == pytest.approx(jiwer.wer(references, hypotheses))
    assert result.cer == result.cer_raw == pytest.approx(jiwer.cer(references, hypotheses))


@settings(deadline=None)
@given(reference=st.text(), hypothesis=st.text())
def test_counts_hold_together_on_any_text(reference: str, hypothesis: str) -> None:
    for counts, n, m in (
        (count_words(reference, hypothesis), len(reference.split()), len(hypothesis.split())),
        (
            count_characters(reference, hypothesis),
            len(" ".join(reference.split())),
            len(" ".join(hypothesis.split())),
        ),
    ):
        assert counts.num_reference == n
        assert n - counts.deletions + counts.insertions == m
        assert abs(n - m) <= counts.errors <= max(n, m)
    assert count_words(reference, reference).errors == 0


def test_white_space_alone_is_no_error() -> None:
    assert count_words(" a\tb\n", "a  b") == ErrorCounts(num_reference=2)
    assert count_characters(" a\tb\n", "a  b") == ErrorCounts(num_reference=3)


def test_empty_references_and_hypotheses_count() -> None:
    result = score(["", "a b", "", "..."], ["c d", "", "", "e"])
    assert [u.words.insertions for u in result.utterances] == [2, 0, 0, 1]
    assert [u.words.deletions for u in result.utterances] == [0, 2, 0, 0]
    assert result.wer == 5 / 2
    assert score([""], ["a b"]).wer == 2.0  # no reference word at all: still counted
    assert score([""], [""]).wer == 0.0
    assert score([], []).wer == score([], []).cer == 0.0


def test_each_utterance_has_its_own_languages_normaliser() -> None:
    texts = ["twenty-one colours"] * 2
    result = score_corpus(["a", "b"], texts, ["21 colors"] * 2, ["English", "it"])
    assert [u.words.errors for u in result.utterances] == [0, 3]
    assert [u.words.num_reference for u in result.utterances] == [2, 3]


def test_hindi_words_stay_whole() -> None:
    result = score(["मैं हिन्दी में बोलता हूँ।"], ["मैं हिन्दी में बोलती हूँ"], "hi")
    assert result.utterances[0].words == ErrorCounts(substitutions=1, num_reference=5)


def test_characters_of_languages_without_spaces_are_counted_without_them() -> None:
    result = score(["你好,世界。"], ["你好世界"], "zh")
    assert result.utterances[0].characters == ErrorCounts(num_reference=4)
    assert result.cer_raw == 2 / 6
    assert score(["il gatto"], ["ilgatto"]).cer == 1 / 8


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="shorter"):
        score_corpus(["a", "b"], ["x", "y"], ["x"], ["it", "it"])
    with pytest.raises(RecipeError, match="unknown language"):
        score(["a"], ["a"], "Klingon")


def test_counts_add_up() -> None:
    one = ErrorCounts(substitutions=1, insertions=2, deletions=3, num_reference=12)
    assert one + one == total([one, one]) == ErrorCounts(substitutions=2, insertions=4, deletions=6, num_reference=24)
    assert (one.errors, one.rate) == (6, 0.5)
    assert total([]) == ErrorCounts()


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("il gatto dorme", "il cane dorme qui", "il [gatto → cane] dorme [+ qui]"),
        ("non dorme", "dorme", "[- non] dorme"),
        ("a b", "a b", "a b"),
        ("", "a b", "[+ a b]"),
        ("a", "", "[- a]"),
        ("", "", ""),
    ],
)
def test_alignment_for_people(reference: str, hypothesis: str, expected: str) -> None:
    assert alignment(reference, hypothesis) == expected
