"""Texts: what is found, and above all what is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whispertune.check.encoding import encoding_damage
from whispertune.check.sketches import NUM_HASHES, SHINGLE
from whispertune.check.text import check_texts
from whispertune.data.utterances import Utterance

SOUND = {
    "it": "Perché l'università è così lontana? «Là», disse; è un po’ tardi…",
    "fr": "« L’été », dit-elle – cœur brisé : où ça ? LIBERTÉ, “café”… à l'hôtel.",
    "de": "„Viel Spaß“, sagte Jürgen – „das ist groß“ … Straße \u201asüß\u2018.",
    "pt": "Amanhã não há pão; “você”, “São João”. NÃO, É A MANHÃ.",
    "ru": "Её ещё нет. Всё-таки «ёлка»… Рёв, Сёла и Вёдра — объём.",
    "cs": "Příliš žluťoučký kůň úpěl ďábelské ódy.",
    "tr": "İstanbul'da güzel bir gün, \u0131ğd\u0131r.",
    "vi": "Tiếng Việt rất khó. Đường đi à? ÃO ƯỚC.",
    "el": "Καλημέρα, τι κάνεις;",
    "hi": "नमस्ते, आप कैसे हैं?",
    "ja": "今日はいい天気ですね。コーヒー。",
    "ar": "مرحبا، كيف حالك؟",
    "ko": "안녕하세요, 반갑습니다.",
    "th": "สวัสดีครับ",
    "am": "ሰላም ነው።",
}


def found(texts: list[str], language: str | None = "it") -> list[tuple[int, str]]:
    rows = [Utterance(id=str(i), audio=Path("a.wav"), text=text) for i, text in enumerate(texts)]
    findings, _ = check_texts([rows], lambda _: language, None)
    return [(finding.row, finding.kind) for finding in findings]


@pytest.mark.parametrize("language", SOUND)
def test_sound_text_has_no_finding(language: str) -> None:
    assert found([SOUND[language]], language) == []
    assert encoding_damage(SOUND[language]) == ""


@pytest.mark.parametrize("codec", ["cp1252", "latin-1", "cp437", "mac_roman"])
@pytest.mark.parametrize("text", ["perché è così", "l'università è lontana", "Ärger über Öl", "señor"])
def test_utf8_read_as_something_else(text: str, codec: str) -> None:
    damaged = "".join(bytes([byte]).decode(codec, "ignore") or chr(byte) for byte in text.encode())
    assert damaged != text
    assert encoding_damage(damaged)
    assert (0, "encoding_damage") in found([damaged])


@pytest.mark.parametrize("language", ["ru", "el", "hi", "ja", "ar"])
def test_other_scripts_read_as_cp1252(language: str) -> None:
    text = SOUND[language]
    damaged = "".join(bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in text.encode())
    assert (0, "encoding_damage") in found([damaged], language)


def test_cyrillic_read_as_cp1251() -> None:
    damaged = "".join(bytes([byte]).decode("cp1251", "ignore") or chr(byte) for byte in "Привет, мир".encode())
    assert (0, "encoding_damage") in found([damaged], "ru")


@pytest.mark.parametrize("text", ["perch\ufffd", "a\ue012b", "tutto\x92 bene", "giÃ fatto"])
def test_lost_characters(text: str) -> None:
    assert (0, "encoding_damage") in found([text])


@pytest.mark.parametrize("text", ["<b>Ciao</b>", "[musica] ciao", "ciao {uh}", "tu &amp; io", "vedi http://a.it/b"])
def test_markup(text: str) -> None:
    assert (0, "markup") in found([text])


@pytest.mark.parametrize("text", ["tre < quattro", "R&B", "www.asterisk.org", "e/o", "a > b"])
def test_what_is_no_markup(text: str) -> None:
    assert (0, "markup") not in found([text])


def test_empty_and_unspoken() -> None:
    assert found(["", "… ?!", "[risate]", "va bene"]) == [
        (0, "empty_text"), (1, "unspoken_text"), (2, "markup"), (2, "unspoken_text"),
    ]  # fmt: skip


def test_scripts() -> None:
    assert found(["Пожалуйста", "ciao Иван come stai"]) == [(0, "other_script"), (1, "foreign_letters")]
    # Without a language: against the script that nearly all letters have.
    texts = ["una frase abbastanza lunga di prova"] * 9 + ["Пожалуйста"]
    assert found(texts, None) == [(9, "other_script")]


def test_digits_and_symbols_are_notes() -> None:
    assert found(["costa 20 €"]) == [(0, "digits"), (0, "symbols")]


def facts_of(texts: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = [Utterance(id=str(i), audio=Path("a.wav"), text=text) for i, text in enumerate(texts)]
    _, facts = check_texts([rows], lambda _: None, None, sketches=True)
    return facts.keys, facts.sketches, facts.letters


@given(st.lists(st.text(st.characters(codec="utf-8", max_codepoint=0xFFFF), max_size=30), min_size=1, max_size=8))
def test_a_key_is_that_of_the_letters_alone_whatever_stands_around(texts: list[str]) -> None:
    ours, sketches, letters = facts_of(texts)
    for i, text in enumerate(texts):
        alone, sketch, _ = facts_of([f" {text} ,.!"])
        assert ours[i] == alone[0]
        assert (sketches[i] == sketch[0]).all()
    assert ((ours == 0) == (letters == 0)).all()


def test_keys_tell_texts_apart() -> None:
    texts = ["ab c", "abc", "ABC!", "acb", "aab", "कि", "का"]
    keys, _, _ = facts_of(texts)
    assert keys[0] == keys[1] == keys[2]
    assert len(set(keys.tolist())) == 5


def test_sketches_estimate_the_share_of_common_runs() -> None:
    generator = np.random.default_rng(0)
    texts = ["".join(generator.choice(list("abcdefghij"), 60)) for _ in range(200)]
    changed = [text[:30] + "zzz" + text[33:] for text in texts]
    _, sketches, _ = facts_of(texts + changed)
    agreeing = (sketches[:200] == sketches[200:]).mean()

    def runs(text: str) -> set[str]:
        return {text[i : i + SHINGLE] for i in range(len(text) - SHINGLE + 1)}

    jaccard = np.mean([len(runs(a) & runs(b)) / len(runs(a) | runs(b)) for a, b in zip(texts, changed, strict=True)])
    assert sketches.shape == (400, NUM_HASHES)
    assert abs(agreeing - jaccard) < 0.05
