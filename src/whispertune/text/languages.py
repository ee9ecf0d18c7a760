"""Whisper's languages: codes, English names and aliases, and which are written without spaces."""

from __future__ import annotations

import difflib
import re

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
    # other codes: superseded ISO 639-1, and ISO 639-3 that manifests are seen to use
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

_NAMES_AND_CODES: dict[str, str] = {
    **{code: code for code in LANGUAGES},
    **{name.lower(): code for code, name in LANGUAGES.items()},
    **_ALIASES,
}

# Where openai-whisper splits words at every character (`Tokenizer.split_to_word_tokens`).
WRITTEN_WITHOUT_SPACES = frozenset({"zh", "ja", "th", "lo", "my", "yue"})


def language_code(name_or_code: str) -> str:
    """Whisper's code of a language: `it` from `it`, `Italian`, `italian`, `it-IT` or `it_IT`.

    Raises RecipeError, naming the nearest known ones, for a language that Whisper has no token for.
    """
    text = " ".join(name_or_code.lower().split())
    tag = text.replace("_", "-")
    for candidate in (text, tag, tag.split("-")[0] if re.fullmatch(r"[a-z]{2,3}(-[a-z0-9]+)+", tag) else ""):
        if candidate in _NAMES_AND_CODES:
            return _NAMES_AND_CODES[candidate]
    nearest = difflib.get_close_matches(text, _NAMES_AND_CODES, n=3, cutoff=0.5)
    codes = dict.fromkeys(_NAMES_AND_CODES[name] for name in nearest)
    known = " or ".join(f"'{code}' ({LANGUAGES[code]})" for code in codes)
    raise RecipeError(
        f"unknown language '{name_or_code}': "
        + (f"did you mean {known}?" if known else "")
        + ("" if known else "give a code or an English name such as 'it' or 'Italian'")
    )


def spoken_language(name_or_code: str, token: str | None = None) -> str:
    """Whisper's code of a language; with `token`, the language whose token is borrowed, also any other two or three
    letters (ISO 639), which are then only a name for texts that are normalised as most languages are.

    Raises RecipeError for a language that Whisper has no token for, or a token that is none of its languages.
    """
    if token is None:
        return language_code(name_or_code)
    language_code(token)
    try:
        return language_code(name_or_code)
    except RecipeError:
        code = name_or_code.strip().lower()
        if is_language_code(code):
            return code
        raise


def is_language_code(code: str) -> bool:
    """Whether it has the form of an ISO 639 code."""
    return re.fullmatch("[a-z]{2,3}", code) is not None
