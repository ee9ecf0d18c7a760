import unicodedata

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from whisper_normalizer.basic import BasicTextNormalizer

from whispertune.errors import RecipeError
from whispertune.text.languages import LANGUAGES
from whispertune.text.normalizer import UNHEARD, basic_normalize, leads_with_cer, normalizer_for


def has_marks(text: str) -> bool:
    return any(unicodedata.category(c)[0] == "M" for c in unicodedata.normalize("NFKC", text.lower()))


PUNCTUATED = st.text(alphabet=st.sampled_from("abcÈ é'’.,!?-<>[]()「」你½ß\u00a0\n\t$+ﬁＡ"))


@settings(deadline=None)
@given(text=st.text() | PUNCTUATED)
def test_without_marks_it_is_whispers_basic_normaliser(text: str) -> None:
    assume(not has_marks(text) and UNHEARD.isdisjoint(text))
    assert basic_normalize(text) == BasicTextNormalizer()(text)


@pytest.mark.parametrize("char", sorted(UNHEARD))
def test_what_nobody_hears_is_no_error(char: str) -> None:
    assert basic_normalize(f"ສະບາຍ{char}ດີ") == "ສະບາຍດີ"
    assert normalizer_for("it")(char) == ""
    assert basic_normalize("क्\u200dष") == "क्\u200dष"  # a joiner, part of how the word is written


@settings(deadline=None)
@given(text=PUNCTUATED)
def test_without_marks_it_is_also_that_of_transformers(text: str) -> None:
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer as Theirs

    assume(not has_marks(text))
    assert basic_normalize(text) == Theirs()(text)


@settings(deadline=None)
@given(text=st.text())
def test_normalised_text_has_single_spaces_inside_and_none_outside(text: str) -> None:
    for language in ("it", "hi"):
        normalized = normalizer_for(language)(text)
        assert normalized == " ".join(normalized.split())


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("hi", "मैं हिन्दी में बोलता हूँ।", "मैं हिन्दी में बोलता हूँ"),
        ("ta", "நான் தமிழ் பேசுகிறேன்!", "நான் தமிழ் பேசுகிறேன்"),
        ("bn", "আমি বাংলা বলি।", "আমি বাংলা বলি"),
        ("th", "ฉันพูดภาษาไทยได้", "ฉันพูดภาษาไทยได้"),
        ("ar", "مَرْحَبًا بِكُمْ، أَهْلًا.", "مَرْحَبًا بِكُمْ أَهْلًا"),
    ],
)
def test_marks_stay_on_their_letters(language: str, text: str, expected: str) -> None:
    assert normalizer_for(language)(text) == unicodedata.normalize("NFKC", expected)
    assert BasicTextNormalizer()(text).split() != expected.split()  # Whisper's own cuts them


def test_a_hindi_sentence_keeps_its_five_words() -> None:
    assert len(normalizer_for("hi")("मैं हिन्दी में बोलता हूँ।").split()) == 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ciao ❤️ a tutti", "ciao a tutti"),  # a heart and a variation selector
        ("1️⃣ uno", "1 uno"),  # the keycap's ring
        ("a ◌́ b", "a b"),  # a mark on a symbol that goes
        ("\u0301a", "a"),
        ("İstanbul'da", "istanbul da"),
        ("e\u0301 e\u0300", "é è"),  # NFKC composes
        ("邊󠄀", "邊"),
    ],
)
def test_a_mark_does_not_outlive_its_base(text: str, expected: str) -> None:
    assert normalizer_for("it")(text) == expected


def test_punctuation_alone_becomes_empty() -> None:
    for language in ("it", "en", "hi", "zh"):
        assert normalizer_for(language)(" -- ?! ") == ""


def test_the_english_normaliser_serves_english_alone() -> None:
    text = "Mr. Colour won't pay twenty-one"
    for english in ("en", "English", "en-GB"):
        assert normalizer_for(english)(text) == "mister color will not pay 21"
    for language in set(LANGUAGES) - {"en"}:
        assert normalizer_for(language)(text) == "mr colour won t pay twenty one"


def test_a_language_without_a_token_is_normalised_as_most_are() -> None:
    assert normalizer_for("sc")("Mr. Colour won't pay") == "mr colour won t pay"
    assert not leads_with_cer("sc")


def test_an_unknown_language_is_the_users_error() -> None:
    with pytest.raises(RecipeError, match="unknown language"):
        normalizer_for("Klingon")


def test_languages_without_spaces_lead_with_cer() -> None:
    assert {code for code in LANGUAGES if leads_with_cer(code)} == {"zh", "ja", "th", "lo", "my", "yue"}
    assert leads_with_cer("zh-TW")
    assert leads_with_cer("Burmese")
