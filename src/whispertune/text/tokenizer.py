"""Whisper's tokenizer: text to ids and back, and the prompt of the decoder.

Ids are looked up by name, never written as constants: English-only models, multilingual ones and
large-v3 each shift them. Layout of a vocabulary, by increasing id:

    text | <|endoftext|> <|startoftranscript|> <|en|> … <|translate|> <|transcribe|> <|startoflm|>
    <|startofprev|> <|nospeech|> <|notimestamps|> | <|0.00|> <|0.02|> … <|30.00|> | text and languages that users added

Many tokenizer.json files do not list the timestamps; their ids are computed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from whispertune.errors import CheckpointError, RecipeError
from whispertune.text.languages import LANGUAGES, WRITTEN_WITHOUT_SPACES, borrowing_language, language_code
from whispertune.text.targets import MAX_TOKENS

SECONDS_PER_TIMESTAMP = 0.02
NUM_TIMESTAMPS = 1501  # 0.00 to 30.00 s
MULTILINGUAL_VOCAB_SIZE = 51865  # openai-whisper's rule: multilingual from this size on
OPENAI_VOCAB_SIZES = (51864, 51865, 51866)  # English-only, multilingual, large-v3


_LANGUAGE = re.compile(r"<\|([a-z]{2,3})\|>")
_TIMESTAMP = re.compile(r"<\|\d+\.\d\d\|>")
_NAMES = {
    "eot": "<|endoftext|>",
    "sot": "<|startoftranscript|>",
    "translate": "<|translate|>",
    "transcribe": "<|transcribe|>",
    "sot_lm": "<|startoflm|>",
    "sot_prev": "<|startofprev|>",
    "no_speech": "<|nospeech|>",
    "no_timestamps": "<|notimestamps|>",
}


class Tokenizer:
    """A Whisper model's tokenizer.

    `text` is the content of a `tokenizer.json`. `vocab_size` is the model's (rows of its token
    embedding); by default the tokenizer's own, timestamps included. The size decides whether a model is multilingual,
    as an English-only tokenizer.json may also list the language tokens. `lang_to_id` holds additional language tokens
    (`<|sc|>`) that are not listed like Whisper's; `aliases` are languages that borrow another's token, by code
    (`zap`: `es`). `positions` is the number of the decoder's positions.

    Tokens that a user added and that are not special (`add_tokens` of transformers) are text: encoded and decoded as
    transformers does. Raises CheckpointError if `text` is not a Whisper tokenizer, or does not fit `vocab_size`.
    """

    json: str
    eot: int
    sot: int
    transcribe: int
    translate: int
    sot_lm: int
    sot_prev: int
    no_speech: int
    no_timestamps: int
    timestamp_begin: int
    vocab_size: int
    multilingual: bool
    has_timestamps: bool  # False if the vocabulary was cut after <|notimestamps|>
    added_text: tuple[int, ...]  # ids of text tokens that a user added, above <|endoftext|>
    languages: dict[str, int]  # code -> id of its token; empty for an English-only model
    aliases: dict[str, str]  # code of a language without a token -> that of the one whose token it borrows
    max_tokens: int  # most tokens for the decoder, prompt included: Whisper's 448, or fewer
    max_previous: int  # most tokens of previous text: half of these minus <|startofprev|>, as in openai-whisper

    def __init__(
        self,
        text: str,
        vocab_size: int | None = None,
        *,
        lang_to_id: Mapping[str, int] | None = None,
        aliases: Mapping[str, str] | None = None,
        positions: int = MAX_TOKENS,
    ) -> None:
        self.max_tokens = min(MAX_TOKENS, positions)
        self.max_previous = self.max_tokens // 2 - 1
        try:
            content = json.loads(text)
            listed = content["added_tokens"]
            added = {token["content"]: int(token["id"]) for token in listed}
            own = [token for token in listed if _is_text(token, lang_to_id or {})]
            # Without its special tokens the tokenizer can't turn '<|endoftext|>' in a transcript into the
            # special token; nor does it put a prompt of its own around the text.
            content |= {"added_tokens": own, "post_processor": None, "truncation": None, "padding": None}
            self._text = tokenizers.Tokenizer.from_str(json.dumps(content))
            # It renumbers them, as the special tokens are missing.
            numbers = {added[token["content"]]: int(self._text.token_to_id(token["content"]) or 0) for token in own}
        except Exception as error:  # `tokenizers` raises bare Exceptions
            raise CheckpointError(f"tokenizer.json cannot be read as a tokenizer: {error}") from error
        if "<|nocaptions|>" in added:  # the older name of the same token
            added.setdefault("<|nospeech|>", added["<|nocaptions|>"])

        if missing := [name for name in _NAMES.values() if name not in added]:
            raise CheckpointError(
                f"tokenizer.json is not a Whisper tokenizer: it lacks {', '.join(missing)}; "
                "use the one that came with the model"
            )
        for attribute, name in _NAMES.items():
            setattr(self, attribute, added[name])
        self.json = text
        self.timestamp_begin = added.get("<|0.00|>", self.no_timestamps + 1)
        self._inner = {number: inner for number, inner in numbers.items() if number != inner}
        self._outer = {inner: number for number, inner in self._inner.items()}
        self.added_text = tuple(sorted(number for number in numbers if number > self.eot))
        self._is_text = frozenset(self.added_text)
        self.has_timestamps, self.vocab_size = self._fit(added, vocab_size)
        # By Whisper's original size, whatever was added or cut off since.
        self.multilingual = self.timestamp_begin + NUM_TIMESTAMPS >= MULTILINGUAL_VOCAB_SIZE
        self.languages = _languages(added, lang_to_id or {}, self.vocab_size) if self.multilingual else {}
        self.aliases = {code: token for code, token in (aliases or {}).items() if token in self.languages}

    def _fit(self, added: Mapping[str, int], vocab_size: int | None) -> tuple[bool, int]:
        """Whether the model has timestamps, and its vocabulary size; raises if that does not fit the tokens."""
        own_size = self.timestamp_begin + NUM_TIMESTAMPS
        others = {name: number for name, number in added.items() if not _TIMESTAMP.fullmatch(name)}
        # If the vocabulary was cut before tokens were added, these may have ids in the range of the timestamps.
        taken = [name for name, number in others.items() if self.timestamp_begin <= number < own_size]
        last = max(others.values()) + 1
        if vocab_size is None:
            return not taken, last if taken else max(own_size, last)
        cut = last <= vocab_size < own_size and (vocab_size == last or vocab_size % 8 == 0)  # padded for GPUs
        # A larger vocabulary may be padded or extended, but OpenAI's sizes belong to their own tokenizers.
        foreign = vocab_size in OPENAI_VOCAB_SIZES and vocab_size not in (own_size, last)
        if (vocab_size < own_size and not cut) or foreign:
            raise CheckpointError(
                f"tokenizer.json has {max(own_size, last)} tokens (timestamps included), the model {vocab_size}: "
                "it belongs to another Whisper; use the one that came with the model"
            )
        if taken and not cut:
            raise CheckpointError(
                f"tokenizer.json gives {taken[0]!r:.60} the id {added[taken[0]]}, which is a timestamp's in this "
                f"model: it was added to a tokenizer without timestamps; give it an id from {own_size} on"
            )
        if homeless := [name for name, number in others.items() if number >= vocab_size and number in self._is_text]:
            raise CheckpointError(
                f"tokenizer.json has {homeless[0]!r:.60} with the id {added[homeless[0]]}, but the model has "
                f"{vocab_size} tokens: resize it with model.resize_token_embeddings(len(tokenizer)), save and train it"
            )
        return not cut, vocab_size

    @classmethod
    def from_json(
        cls,
        text: str,
        vocab_size: int | None = None,
        *,
        lang_to_id: Mapping[str, int] | None = None,
        aliases: Mapping[str, str] | None = None,
        positions: int = MAX_TOKENS,
    ) -> Tokenizer:
        """The tokenizer from the content of a `tokenizer.json`; see the class."""
        return cls(text, vocab_size, lang_to_id=lang_to_id, aliases=aliases, positions=positions)

    @classmethod
    def from_file(cls, path: Path, vocab_size: int | None = None) -> Tokenizer:
        """The tokenizer from a `tokenizer.json`; raises CheckpointError, naming the file."""
        try:
            return cls(path.read_text(encoding="utf-8"), vocab_size)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
        except (UnicodeDecodeError, CheckpointError) as error:
            raise CheckpointError(f"{path}: {error}") from error

    def encode(self, text: str) -> list[int]:
        """Ids of the text, without prompt and end of text; anything like a special token is encoded as plain text."""
        ids = self._text.encode(text, add_special_tokens=False).ids
        return [self._outer.get(i, i) for i in ids] if self._outer else list(ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens and timestamps dropped; a broken character becomes U+FFFD."""
        kept = [self._inner.get(i, i) for i in self.text_of(ids)]
        return str(self._text.decode(kept, skip_special_tokens=False))

    def text_of(self, ids: Iterable[int]) -> list[int]:
        """The ids that are text, without special tokens and timestamps."""
        return [i for i in ids if i < self.eot or i in self._is_text]

    def text_ids(self, text: str, language: str | None = None) -> list[int]:
        """A transcript's ids as Whisper itself would predict them: with a leading space; [] if blank.

        Whisper's output begins with a space (' Tutti'), except in languages written without spaces.
        The list is openai-whisper's. Measured with whisper-base, forced to each language on Italian clips:
        no space in Chinese, Japanese and Thai; a space in all others tried, Khmer and Tibetan included.
        (Hugging Face's fine-tuning examples encode the bare text, which unlearns the space.)
        """
        text = text.strip()
        if not text:
            return []
        spaceless = language is not None and self._written(language) in WRITTEN_WITHOUT_SPACES
        return self.encode(text if spaceless else " " + text)

    def prompt_tokens(
        self,
        language: str | None,
        task: str = "transcribe",
        timestamps: bool = False,
        previous_text: str | None = None,
    ) -> list[int]:
        """The decoder's prompt.

        [sot, language, task, no_timestamps]; English-only models: [sot, no_timestamps]. With `timestamps`,
        no_timestamps is omitted. A previous text goes before it as [sot_prev, *its last `max_previous` tokens].
        Raises RecipeError for a task, language or timestamps that this model does not have.
        """
        if task not in ("transcribe", "translate"):
            raise RecipeError(f"unknown task '{task}': use 'transcribe' or 'translate'")
        prompt = [self.sot]
        if self.multilingual:
            if language is None:
                raise RecipeError("a multilingual model needs the language of the speech: give --language")
            prompt.append(self._language_token(language))
            prompt.append(self.transcribe if task == "transcribe" else self.translate)
        elif language is not None and language_code(language) != "en":
            raise RecipeError(f"this model is English-only and does not have '{language}': use a multilingual one")
        elif task == "translate":
            raise RecipeError("this model is English-only and cannot translate: use a multilingual one")
        if timestamps:
            self.require_timestamps()
        else:
            prompt.append(self.no_timestamps)
        written = "en" if task == "translate" else language
        previous = self.text_ids(previous_text or "", written)[-self.max_previous :]
        return [self.sot_prev, *previous, *prompt] if previous else prompt

    def timestamp(self, seconds: float) -> int:
        """Id of the timestamp nearest to `seconds` (0 to 30) from the start of the window."""
        index = round(seconds / SECONDS_PER_TIMESTAMP)
        if not 0 <= index < NUM_TIMESTAMPS:
            raise ValueError(f"a timestamp lies in 0 to 30 s, not at {seconds} s")
        return self.timestamp_begin + index

    def _written(self, language: str) -> str:
        """Code of the language of a text; a language that borrows a token keeps its own code."""
        return language if language in self.languages or language in self.aliases else language_code(language)

    def require_timestamps(self) -> None:
        """Raise RecipeError if the model has no timestamps."""
        if not self.has_timestamps:
            raise RecipeError(
                f"this model's {self.vocab_size} tokens do not include timestamps (they were cut off when it was "
                "resized to its tokenizer): it can only be trained and transcribe without timestamps"
            )

    def spoken_language(self, name_or_code: str, token: str | None = None) -> str:
        """Code of a language in this model: its own languages and aliases take precedence over Whisper's names.

        token: the language whose token is borrowed. Raises RecipeError as `languages.spoken_language` does.
        """
        named = name_or_code.strip()
        if named in self.languages or named in self.aliases:
            return named
        if token is None:
            return language_code(name_or_code)
        self.token_language(token)  # raises if it is not a language
        return borrowing_language(name_or_code)

    def token_language(self, language: str) -> str:
        """Code of the language whose token is used for this one: its own, or the one that it borrows."""
        language = language.strip()
        if language in self.languages:
            return language
        return self.aliases[language] if language in self.aliases else language_code(language)

    def _language_token(self, language: str) -> int:
        code = self.token_language(language)
        if code not in self.languages:
            name = LANGUAGES[code]
            raise RecipeError(
                f"this model has no token for {name} ('{code}'): "
                f"choose one of its {len(self.languages)} languages or another model"
                + (", such as large-v3" if code == "yue" else "")
            )
        return self.languages[code]


def _is_text(token: Mapping[str, Any], lang_to_id: Mapping[str, int]) -> bool:
    """Whether an entry of `added_tokens` is text that a user added, not a token of Whisper's or a special token."""
    name = token["content"]
    whispers = name in (*_NAMES.values(), "<|nocaptions|>") or _LANGUAGE.fullmatch(name) or _TIMESTAMP.fullmatch(name)
    return bool(name) and not whispers and name not in lang_to_id and not token.get("special")


def _languages(added: Mapping[str, int], lang_to_id: Mapping[str, int], vocab_size: int) -> dict[str, int]:
    """Code -> id of the listed languages, and of those in `lang_to_id` whose ids no other token has."""
    listed = {m[1]: number for name, number in added.items() if (m := _LANGUAGE.fullmatch(name))}
    names = {number: name for name, number in added.items()}
    for name, number in lang_to_id.items():
        if added.get(name, number) == number and names.get(number, name) == name:
            listed.setdefault(name.strip("<|>"), number)
    return {code: number for code, number in listed.items() if number < vocab_size}
