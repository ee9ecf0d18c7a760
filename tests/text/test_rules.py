"""Transcripts rewritten by rules: what changes, what stays, and what cannot be read."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whispertune.errors import RecipeError
from whispertune.text.normalizer import normalizer_for
from whispertune.text.options import TextOptions
from whispertune.text.rules import TextRules, read_rules


def written(text: str, language: str = "it", **options: Any) -> str:
    return TextRules(TextOptions(**options))(text, language).strip()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("L'acqua, però... è fredda!", "L'acqua però è fredda"),
        ("Un'e-mail: «costa 3,5 euro»?", "Un'e-mail costa 3,5 euro"),
        ("Alle 12:30, il 50% (circa).", "Alle 12:30 il 50% circa"),
        ("sì,no", "sì no"),
        ("l’acqua – un po’", "l’acqua un po"),
        ("col·legi", "col·legi"),
        ("Ի՞նչ է\u0589", "Ինչ է"),
        ("བོད་སྐད།", "བོད་སྐད"),
        ("हिन्दी में, ठीक है।", "हिन्दी में ठीक है"),
        ("?!", ""),
    ],
)
def test_punctuation(before: str, after: str) -> None:
    assert written(before, punctuation="drop") == after


def test_lower_case_follows_the_language() -> None:
    assert written("ISTANBUL İzmir", "tr", case="lower") == "\u0131stanbul izmir"
    assert written("ISTANBUL İzmir", case="lower") == "istanbul izmir"
    assert written("ΟΔΟΣ", "el", case="lower") == "οδος"


def test_quotes_and_apostrophes() -> None:
    assert written("“L’acqua” «è» \u02bcn \u02bbokina", quotes="unify") == '"L\'acqua" "è" \'n \u02bbokina'


def test_unicode_forms() -> None:
    assert written("e\u0300", unicode="NFC") == "è"
    assert written("è", unicode="NFD") == "e\u0300"
    assert written("ﬁ m²", unicode="NFKC") == "fi m2"


def rules(folder: Path, rows: str, **options: Any) -> TextRules:
    path = folder / "replacements.tsv"
    path.write_bytes(rows.encode())
    found = read_rules(TextOptions(replacements=str(path), **options))
    assert found is not None
    return found


def test_replacements(tmp_path: Path) -> None:
    replace = rules(tmp_path, "km\tchilometri\r\nkm/h\tchilometri all'ora\r\nş\tș\r\n[rumore]\t\r\nsig.\tsignor\r\n")
    assert replace("50 km/h per 3 km", "it") == "50 chilometri all'ora per 3 chilometri"
    assert replace("kmq akm", "it") == "kmq akm"
    assert replace("Aşa, sig. [rumore] Rossi", "it") == "Așa, signor  Rossi"
    assert replace("三km以上", "zh") == "三chilometri以上"


def test_a_combining_mark_belongs_to_the_word(tmp_path: Path) -> None:
    replace = rules(tmp_path, "क्\tX\nहिन\tY\n")
    assert replace("हिन्दी", "hi") == "हिन्दी"
    assert replace("हिन दी", "hi") == "Y दी"


def test_nothing_is_replaced_twice(tmp_path: Path) -> None:
    assert rules(tmp_path, "a\tb\nb\ta\n")("ab ba", "it") == "ba ab"


def test_replacements_are_found_in_the_form_of_the_text(tmp_path: Path) -> None:
    assert rules(tmp_path, "e\u0300\te\u0301\n", unicode="NFC")("perch\u00e8", "it") == "perch\u00e9"


def test_rows_that_are_one_in_the_form_of_the_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="row 2 replaces '\u00e8' again, as row 1 does"):
        rules(tmp_path, "e\u0300\ta\n\u00e8\tb\n", unicode="NFC")
    assert rules(tmp_path, "e\u0300\ta\n\u00e8\tb\n")("e\u0300 \u00e8", "it") == "a b"


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ("km chilometri\n", "row 1 is 'km chilometri': write what stands in the text, one tab"),
        ("a\tb\n\nc\td\te\n", "row 3"),
        ("a\tb\na\tc\n", "row 2 replaces 'a' again, as row 1 does"),
        ("\n", "it has no rows"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, rows: str, problem: str) -> None:
    with pytest.raises(RecipeError, match=problem):
        rules(tmp_path, rows)


def test_files_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"text.replacements is .*none\.tsv; it cannot be read"):
        read_rules(TextOptions(replacements=str(tmp_path / "none.tsv")))
    (tmp_path / "latin.tsv").write_bytes(b"perch\xe9\tx\n")
    with pytest.raises(RecipeError, match="it is not UTF-8"):
        read_rules(TextOptions(replacements=str(tmp_path / "latin.tsv")))


def test_the_rules_that_applied_are_named() -> None:
    rules = TextRules(TextOptions(case="lower", punctuation="drop", digits="flag"))
    assert rules.applied("Sono 3.", "it") == ("sono 3 ", ["punctuation", "case", "digits"])
    assert rules.applied("sono tre", "it") == ("sono tre", [])


def test_no_rules_by_default() -> None:
    assert read_rules(TextOptions()) is None
    with pytest.raises(RecipeError, match="references is true, but no rule"):
        TextOptions(references=True)


@given(st.text(max_size=40), st.sampled_from(["it", "hi", "tr", "zh"]))
def test_applied_twice_is_applied_once(text: str, language: str) -> None:
    rules = TextRules(TextOptions(unicode="NFC", quotes="unify", punctuation="drop", case="lower"))
    once = rules(text, language)
    assert rules(once, language) == once or unicodedata.normalize("NFC", once) != once


@given(st.lists(st.sampled_from(["sì", "l'acqua", "però", "3,5", "e-mail", "C'è"]), max_size=8))
def test_normalised_words_stay(words: list[str]) -> None:
    """Case and punctuation do not count in a normalised score, whether the rules were applied or not."""
    text = ", ".join(words) + "."
    normalize = normalizer_for("it")
    assert normalize(written(text, punctuation="drop", case="lower", quotes="unify")) == normalize(text)
