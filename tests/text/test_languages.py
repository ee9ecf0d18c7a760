import pytest

from whispertune.errors import RecipeError
from whispertune.text.languages import LANGUAGES, language_code, spoken_language


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ("it", "it"),
        ("Italian", "it"),
        ("italian", "it"),
        (" ITALIAN ", "it"),
        ("it-IT", "it"),
        ("it_IT", "it"),
        ("zh-CN", "zh"),
        ("zh-Hant-TW", "zh"),
        ("Mandarin", "zh"),
        ("Cantonese", "yue"),
        ("yue", "yue"),
        ("Haitian  Creole", "ht"),
        ("Haitian", "ht"),
        ("Burmese", "my"),
        ("myanmar", "my"),
        ("jv", "jw"),
        ("nb-NO", "no"),
        ("nn-NO", "nn"),
        ("haw", "haw"),
        ("es-419", "es"),
    ],
)
def test_codes_names_regions_and_aliases_are_understood(given: str, code: str) -> None:
    assert language_code(given) == code


def test_every_language_is_found_by_code_and_by_name() -> None:
    assert len(LANGUAGES) == 100
    for code, name in LANGUAGES.items():
        assert language_code(code) == language_code(name) == code


def test_an_unknown_language_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"unknown language 'Italien': did you mean 'it' \(Italian\)"):
        language_code("Italien")


@pytest.mark.parametrize("given", ["", "-", "klingon-xx-yy", "xx", "not-a-language", "<|it|>"])
def test_what_is_no_language_is_refused_in_one_line(given: str) -> None:
    with pytest.raises(RecipeError) as caught:
        language_code(given)
    assert "\n" not in str(caught.value)


def test_a_language_that_whisper_does_not_know_needs_a_token_to_borrow() -> None:
    assert spoken_language("sc", "it") == "sc"
    assert spoken_language("Italian", "es") == "it"
    for given, token in (("sc", None), ("sc", "xx"), ("Sardinian", "it")):
        with pytest.raises(RecipeError, match="unknown language"):
            spoken_language(given, token)
