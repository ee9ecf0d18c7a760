"""Question marks in place of letters, and real ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_check_text import SOUND, found

from whispertune.check.text import check_texts
from whispertune.data.utterances import Utterance

BEFORE = ["Il numero composto non è attivo.", "Casella di posta?", "Attendere, prego.", "Stai bene."]


def kinds(text: str, language: str | None = "it", others: list[str] = BEFORE) -> set[str]:
    rows = found([text, *others], language)
    return {kind for row, kind in rows if row == 0} - {"other_script"}


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Al segnale acustico, il tempo sar? esattamente..", "it"),
        ("La chiamata non pu? essere completata cos? come composta.", "it"),
        ("La conferenza ? piena.", "it"),
        ("Non identificato, quindi non pu? essere richiamato.", "it"),
        ("Adesso ? pi? tardi di cos?", "it"),
        ("ma?ana por la ma?ana", "es"),
        ("?D?nde est??", "es"),
        ("?Dónde está?", "es"),
        ("Il a ?t? gar?on.", "fr"),
        ("Das ist eine gro?e Stra?e", "de"),
        ("?ber den Wolken", "de"),
        ("perch?", None),
        ("perch?? no", "it"),  # two bytes a letter
        ("Пр?вет, как дела", "ru"),
    ],
)
def test_letters_that_were_lost(text: str, language: str | None) -> None:
    assert "encoding_damage" in kinds(text, language, BEFORE if language in ("it", None) else [])


def test_a_word_of_the_manifest_tells() -> None:
    assert "encoding_damage" in kinds("la tavol? rossa", "it", ["Casella di posta?", "una tavolà rossa"])
    assert kinds("la tavol? rossa", "it", ["Casella di posta?"]) == {"question_mark"}  # a note
    assert kinds("la tavol?", "it", ["Casella di posta?"]) == set()


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Come stai? Bene, grazie.", "it"),
        ("Stai bene?", "it"),
        ("Stai bene? chiese lei.", "it"),
        ("Stai?Bene.", "it"),
        ("bene?stai", "it"),  # two words of the manifest: a space is missing
        ("Sei qui? No? Peccato!", "it"),
        ("Davvero???", "it"),
        ("«Chi è?», disse.", "it"),
        ("¿Cómo estás? muy bien", "es"),
        ("Ça va ? oui, merci.", "fr"),
        ("Où ça ? Là-bas ?", "fr"),
        ("Was? Wie bitte?", "de"),
        ("2?3", "de"),
        ("क्या? हाँ", "hi"),
        ("Что? Где? Когда?", "ru"),
        ("What? No!", None),
    ],
)
def test_real_questions(text: str, language: str | None) -> None:
    others = BEFORE if language == "it" else ["muy bien, cómo estás", "ça va"]
    assert not kinds(text, language, others) & {"encoding_damage"}


def test_lower_case_questions_are_at_most_a_note() -> None:
    assert kinds("va tutto bene? io vado a casa") <= {"question_mark"}
    assert kinds("va tutto bene? io vado a casa", "it", [*BEFORE, "tutto bene"]) == set()


@pytest.mark.parametrize("language", SOUND)
def test_sound_texts(language: str) -> None:
    assert kinds(SOUND[language] + "?", language, []) == set()


def test_what_is_checked_beside_a_manifest_changes_nothing() -> None:
    def rows(texts: list[str]) -> list[Utterance]:
        return [Utterance(id=str(i), audio=Path("a.wav"), text=text) for i, text in enumerate(texts)]

    ours = rows(["la tavol? rossa", "Сколько?"])
    for language in ("it", None):
        alone, _ = check_texts([ours], lambda _: language, None)  # noqa: B023
        beside, _ = check_texts([ours, rows(["una tavolà", "ciao"] * 20)], lambda _: language, None)  # noqa: B023
        assert [f for f in beside if f.row < len(ours)] == alone
