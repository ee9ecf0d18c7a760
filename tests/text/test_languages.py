import unicodedata

import pytest

from whispertune.errors import RecipeError
from whispertune.text import languages
from whispertune.text.languages import LANGUAGES, language_code, language_name, spoken_language


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


def test_names_in_the_language_itself_are_understood() -> None:
    names = {
        "español": "es", "espanol": "es", "Castellano": "es", "Français": "fr", "DEUTSCH": "de", "русский": "ru",
        "中文": "zh", "日本語": "ja", "한국어": "ko", "Ελληνικά": "el", "हिन्दी": "hi", "Türkçe": "tr", 
        "Kiswahili": "sw", "\u02bbŌlelo Hawai\u02bbi": "haw", "o\u2018zbek": "uz", "íslenska": "is", "မြန်မာ": "my", 
        "粵語": "yue", "Tiếng Việt": "vi",
    }  # fmt: skip
    for name, code in names.items():
        assert language_code(name) == code
        assert language_code(unicodedata.normalize("NFD", name)) == code
    natives = [
        (name, entry.split()[0])
        for entry in languages._NATIVE.replace("\n", " ").split(";")
        for name in entry.strip().partition(" ")[2].split(",")
    ]
    assert len({languages._key(name) for name, _ in natives}) == len(natives)  # none stands for two languages
    for name, code in natives:
        assert language_code(name) == code


def test_iso_639_3_codes_are_understood() -> None:
    """Against ISO 639-3's own pairs of codes."""
    pairs = """
        afr af amh am ara ar arb ar asm as aze az azj az bak ba bel be ben bn bod bo bos bs bre br bul bg cat ca
        ces cs cmn zh cym cy dan da deu de ekk et ell el eng en est et eus eu fao fo fas fa fin fi fra fr glg gl
        guj gu hat ht hau ha heb he hin hi hrv hr hun hu hye hy ind id isl is ita it jav jw jpn ja kan kn kat ka
        kaz kk khm km kor ko lao lo lat la lav lv lin ln lit lt ltz lb lvs lv mal ml mar mr mkd mk mlg mg mlt mt
        mon mn mri mi msa ms mya my nep ne nld nl nno nn nob no nor no npi ne oci oc pan pa pes fa plt mg pol pl
        por pt pus ps ron ro rus ru san sa sin si slk sk slv sl sna sn snd sd som so spa es sqi sq als sq srp sr
        sun su swa sw swe sv swh sw tam ta tat tt tel te tgk tg tgl tl tha th tuk tk tur tr ukr uk urd ur uzb uz
        uzn uz vie vi yid yi ydd yi yor yo zho zh zsm ms ger de fre fr dut nl gre el per fa rum ro cze cs wel cy
        ice is mac mk may ms geo ka arm hy alb sq baq eu tib bo
    """.split()  # noqa: SIM905
    for given, code in zip(pairs[::2], pairs[1::2], strict=True):
        assert language_code(given) == code, given
        assert language_code(f"{given.upper()}-Latn-XX") == code


def test_an_unknown_language_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"unknown language 'Italien': did you mean 'it' \(Italian\)"):
        language_code("Italien")


@pytest.mark.parametrize(
    ("given", "name", "code"),
    [
        ("Nahuatl", "Nahuatl", "nah"),
        ("zap", "Zapotec", "zap"),
        ("Zapotec", "Zapotec", "zap"),
        ("srd", "Sardinian", "sc"),
        ("QU", "Quechua", "qu"),
        ("gsw-CH", "Swiss German", "gsw"),
        ("arz", "Egyptian Arabic", "arz"),  # no other code of Arabic: a language of its own
    ],
)
def test_a_language_that_whisper_lacks_is_told_how_to_borrow(given: str, name: str, code: str) -> None:
    with pytest.raises(RecipeError) as caught:
        language_code(given)
    assert f"unknown language '{given}': Whisper has no token for {name}" in str(caught.value)
    assert f"--language {code} --language_token" in str(caught.value)
    assert "did you mean" not in str(caught.value)
    assert spoken_language(given, "es") == code
    assert language_name(code) == name


@pytest.mark.parametrize("given", ["", "xx", "Nahuatll", "qqq", "Spoken", "talk", "m\0", "Klingonese of the north"])
def test_an_unknown_name_is_told_of_the_token_too_and_of_no_far_one(given: str) -> None:
    with pytest.raises(RecipeError, match="--language_token") as caught:
        language_code(given)
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize("given", ["", "-", "klingon-xx-yy", "xx", "not-a-language", "<|it|>"])
def test_what_is_no_language_is_refused_in_one_line(given: str) -> None:
    with pytest.raises(RecipeError) as caught:
        language_code(given)
    assert "\n" not in str(caught.value)


def test_a_language_that_whisper_does_not_know_needs_a_token_to_borrow() -> None:
    assert spoken_language("sc", "it") == "sc"
    assert spoken_language("Italian", "es") == "it"
    assert spoken_language("Sardinian", "it") == "sc"
    assert spoken_language("xx", "it") == "xx"  # no language of ISO 639, but someone's own code
    for given, token in (("sc", None), ("sc", "xx"), ("Sardinisch", "it")):
        with pytest.raises(RecipeError, match="unknown language"):
            spoken_language(given, token)
