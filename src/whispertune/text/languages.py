"""Whisper's languages: codes, names in English and their own, aliases, and which are written without spaces."""

from __future__ import annotations

import difflib
import re
import unicodedata
from functools import cache

from whispertune.errors import RecipeError

LANGUAGES: dict[str, str] = {
    "en": "English",
    "zh": "Chinese",
    "de": "German",
    "es": "Spanish",
    "ru": "Russian",
    "ko": "Korean",
    "fr": "French",
    "ja": "Japanese",
    "pt": "Portuguese",
    "tr": "Turkish",
    "pl": "Polish",
    "ca": "Catalan",
    "nl": "Dutch",
    "ar": "Arabic",
    "sv": "Swedish",
    "it": "Italian",
    "id": "Indonesian",
    "hi": "Hindi",
    "fi": "Finnish",
    "vi": "Vietnamese",
    "he": "Hebrew",
    "uk": "Ukrainian",
    "el": "Greek",
    "ms": "Malay",
    "cs": "Czech",
    "ro": "Romanian",
    "da": "Danish",
    "hu": "Hungarian",
    "ta": "Tamil",
    "no": "Norwegian",
    "th": "Thai",
    "ur": "Urdu",
    "hr": "Croatian",
    "bg": "Bulgarian",
    "lt": "Lithuanian",
    "la": "Latin",
    "mi": "Maori",
    "ml": "Malayalam",
    "cy": "Welsh",
    "sk": "Slovak",
    "te": "Telugu",
    "fa": "Persian",
    "lv": "Latvian",
    "bn": "Bengali",
    "sr": "Serbian",
    "az": "Azerbaijani",
    "sl": "Slovenian",
    "kn": "Kannada",
    "et": "Estonian",
    "mk": "Macedonian",
    "br": "Breton",
    "eu": "Basque",
    "is": "Icelandic",
    "hy": "Armenian",
    "ne": "Nepali",
    "mn": "Mongolian",
    "bs": "Bosnian",
    "kk": "Kazakh",
    "sq": "Albanian",
    "sw": "Swahili",
    "gl": "Galician",
    "mr": "Marathi",
    "pa": "Punjabi",
    "si": "Sinhala",
    "km": "Khmer",
    "sn": "Shona",
    "yo": "Yoruba",
    "so": "Somali",
    "af": "Afrikaans",
    "oc": "Occitan",
    "ka": "Georgian",
    "be": "Belarusian",
    "tg": "Tajik",
    "sd": "Sindhi",
    "gu": "Gujarati",
    "am": "Amharic",
    "yi": "Yiddish",
    "lo": "Lao",
    "uz": "Uzbek",
    "fo": "Faroese",
    "ht": "Haitian Creole",
    "ps": "Pashto",
    "tk": "Turkmen",
    "nn": "Nynorsk",
    "mt": "Maltese",
    "sa": "Sanskrit",
    "lb": "Luxembourgish",
    "my": "Burmese",
    "bo": "Tibetan",
    "tl": "Tagalog",
    "mg": "Malagasy",
    "as": "Assamese",
    "tt": "Tatar",
    "haw": "Hawaiian",
    "ln": "Lingala",
    "ha": "Hausa",
    "ba": "Bashkir",
    "jw": "Javanese",
    "su": "Sundanese",
    "yue": "Cantonese",  # large-v3 only
}
"""Code -> English name: the 99 languages of every multilingual Whisper, and large-v3's Cantonese."""

_ALIASES: dict[str, str] = {
    # other names
    "myanmar": "my",
    "valencian": "ca",
    "flemish": "nl",
    "haitian": "ht",
    "letzeburgesch": "lb",
    "pushto": "ps",
    "panjabi": "pa",
    "moldavian": "ro",
    "moldovan": "ro",
    "sinhalese": "si",
    "castilian": "es",
    "mandarin": "zh",
    "farsi": "fa",
    "filipino": "tl",
    "bokmål": "no",
    "bokmal": "no",
    "norwegian bokmål": "no",
    "norwegian nynorsk": "nn",
    "bangla": "bn",
    "modern greek": "el",
    # other codes: superseded ISO 639-1, and ISO 639-3 found in manifests
    "jv": "jw",
    "iw": "he",
    "in": "id",
    "ji": "yi",
    "mo": "ro",
    "nb": "no",
    "fil": "tl",
    "cmn": "zh",
    "arb": "ar",
    "pes": "fa",
    "swh": "sw",
    "zh-yue": "yue",
}

_NATIVE = """
zh 中文, 汉语, 漢語, 普通话, 國語; de deutsch; es español, castellano; ru русский, русский язык; ko 한국어;
fr français; ja 日本語; pt português; tr türkçe; pl polski, język polski; ca català, valencià;
nl nederlands, vlaams; ar العربية, عربي; sv svenska; it italiano; id bahasa indonesia;
hi हिन्दी, हिंदी; fi suomi; vi tiếng việt; he עברית; uk українська; el ελληνικά;
ms bahasa melayu, bahasa malaysia; cs čeština, český; ro română; da dansk; hu magyar; ta தமிழ்;
no norsk, norsk bokmål; th ไทย, ภาษาไทย; ur اردو; hr hrvatski; bg български; lt lietuvių;
la latina, lingua latina; mi māori, te reo māori; ml മലയാളം; cy cymraeg; sk slovenčina; te తెలుగు;
fa فارسی; lv latviešu; bn বাংলা; sr српски, srpski; az azərbaycan, azərbaycan dili; sl slovenščina;
kn ಕನ್ನಡ; et eesti; mk македонски; br brezhoneg; eu euskara; is íslenska; hy հայերեն; ne नेपाली;
mn монгол; bs bosanski; kk қазақ, қазақ тілі; sq shqip; sw kiswahili; gl galego; mr मराठी;
pa ਪੰਜਾਬੀ, پنجابی; si සිංහල; km ខ្មែរ, ភាសាខ្មែរ; sn chishona; yo yorùbá, èdè yorùbá;
so soomaali, af soomaali; oc lenga d'òc; ka ქართული; be беларуская; tg тоҷикӣ; sd سنڌي; gu ગુજરાતી;
am አማርኛ; yi ייִדיש, יידיש; lo ລາວ, ພາສາລາວ; uz o'zbek, o'zbekcha; fo føroyskt; ht kreyòl ayisyen;
ps پښتو; tk türkmen, türkmen dili; nn nynorsk, norsk nynorsk; mt malti;
sa संस्कृतम्, संस्कृत, संस्कृत भाषा; lb lëtzebuergesch; my မြန်မာ, မြန်မာဘာသာ; bo བོད་སྐད་, བོད་སྐད;
tl wikang filipino; as অসমীয়া; tt татар, татарча; haw 'ōlelo hawai'i; ln lingála;
ba башҡорт, башҡортса, башҡорт теле; jw basa jawa, jawa; su basa sunda; yue 粵語, 粤语, 廣東話, 广东话
"""
"""Names of each language in itself, if they differ from the English one."""


def _key(name: str) -> str:
    """Normalise a name for lookup: lower case, single spaces, plain apostrophes, no Latin accents."""
    text = unicodedata.normalize("NFD", re.sub("[\u2018\u2019\u02bb\u02bc`]", "'", " ".join(name.casefold().split())))
    return unicodedata.normalize("NFC", "".join(char for char in text if not "\u0300" <= char <= "\u036f"))


_NAMES_AND_CODES: dict[str, str] = {
    **{code: code for code in LANGUAGES},
    **{_key(name): code for code, name in LANGUAGES.items()},
    **{_key(alias): code for alias, code in _ALIASES.items()},
    **{
        _key(name): entry.split()[0]
        for entry in _NATIVE.replace("\n", " ").split(";")
        for name in entry.strip().partition(" ")[2].split(",")
    },
}

# openai-whisper splits words at every character in these (`Tokenizer.split_to_word_tokens`).
WRITTEN_WITHOUT_SPACES = frozenset({"zh", "ja", "th", "lo", "my", "yue"})


def language_code(name_or_code: str) -> str:
    """Whisper's code of a language: `it` from `it`, `ita`, `Italian`, `italiano`, `it-IT` or `it_IT`.

    Raises RecipeError for a language without a token in Whisper, with how to borrow one, and for an unknown name, with
    similar ones.
    """
    if (code := _whispers_code(name_or_code)) is not None:
        return code
    if (other := _other_language(name_or_code)) is not None:
        code, name = other
        raise RecipeError(
            f"unknown language '{name_or_code}': Whisper has no token for {name}; borrow that of a similar language, "
            f"such as: --language {code} --language_token es (whispertune check F --language {code} --model M measures "
            "which one is best)"
        )
    nearest = difflib.get_close_matches(_key(name_or_code), [n for n in _NAMES_AND_CODES if len(n) > 3], 3, cutoff=0.75)
    codes = dict.fromkeys(_NAMES_AND_CODES[name] for name in nearest)
    known = " or ".join(f"'{code}' ({LANGUAGES[code]})" for code in codes)
    raise RecipeError(
        f"unknown language '{name_or_code}': "
        + (f"did you mean {known}?" if known else "give an ISO 639 code or a name such as 'it' or 'Italian';")
        + " a language that Whisper lacks borrows the token of another with --language_token"
    )


def spoken_language(name_or_code: str, token: str | None = None) -> str:
    """Code of a language: one of Whisper's or, if `token` names a language whose token it borrows, any ISO 639 language
    and any other two or three letters (texts are then normalised as most languages are).

    Raises RecipeError for a language without a token in Whisper, or a `token` that is not one of its languages.
    """
    if token is None:
        return language_code(name_or_code)
    language_code(token)
    return borrowing_language(name_or_code)


def borrowing_language(name_or_code: str) -> str:
    """Code of a language that has a token or borrows one. Raises RecipeError if it is not a language."""
    if (code := _whispers_code(name_or_code)) is not None:
        return code
    if (other := _other_language(name_or_code)) is not None:
        return other[0]
    code = name_or_code.strip().lower()
    return code if re.fullmatch("[a-z]{2,3}", code) else language_code(name_or_code)


def is_registered(name_or_code: str) -> bool:
    """Whether ISO 639 has this language, by its code or English name."""
    return _whispers_code(name_or_code) is not None or _other_language(name_or_code) is not None


def language_name(code: str) -> str:
    """English name of a language by its code; the code itself if there is none."""
    if code in LANGUAGES:
        return LANGUAGES[code]
    other = _other_language(code)
    return code if other is None else other[1]


def _whispers_code(name_or_code: str) -> str | None:
    """By name, by code, or by another code of the same language (`spa`, `cmn`, `es-MX`)."""
    text = _key(name_or_code)
    tag = text.replace("_", "-")
    subtag = tag.split("-")[0] if re.fullmatch(r"[a-z]{2,3}(-[a-z0-9]+)*", tag) else ""
    for candidate in (text, tag, subtag):
        if candidate in _NAMES_AND_CODES:
            return _NAMES_AND_CODES[candidate]
    return _NAMES_AND_CODES.get(_shortest(subtag)) if subtag else None


def _other_language(name_or_code: str) -> tuple[str, str] | None:
    """Code and English name of a language that Whisper does not have, from its code or English name."""
    text = _key(name_or_code)
    names, codes = _registry()
    tag = text.replace("_", "-").split("-")[0]
    code = _shortest(tag) if is_language_code(tag) else codes.get(text, "")
    return (code, names[code]) if code in names else None


def _shortest(code: str) -> str:
    """The usual form of an ISO 639 code: `es` for `spa`, `zh` for `cmn`; an unknown code is returned unchanged."""
    import langcodes  # here, as most commands do not need it
    from langcodes.tag_parser import LanguageTagError

    try:
        return langcodes.standardize_tag(code, macro=True).split("-")[0]
    except LanguageTagError:
        return code


@cache
def _registry() -> tuple[dict[str, str], dict[str, str]]:
    """Code -> English name, and name -> code, of the 8,000 languages in langcodes' IANA registry."""
    from langcodes.registry_parser import parse_registry

    names: dict[str, str] = {}
    codes: dict[str, str] = {}
    for entry in parse_registry():  # type: ignore[no-untyped-call]
        code = entry.get("Subtag")
        if entry["Type"] == "language" and isinstance(code, str) and is_language_code(code):
            names[code] = entry["Description"][0].removesuffix(" languages")
            for name in entry["Description"]:
                codes.setdefault(_key(name.removesuffix(" languages")), code)
    return names, codes


def is_language_code(code: str) -> bool:
    """Whether it has the form of an ISO 639 code, possibly with a variety after it (`nah-x-huasteca`)."""
    return re.fullmatch("[a-z]{2,3}([-_][a-z0-9]+)*", code) is not None
