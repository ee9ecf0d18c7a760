"""From transcripts to targets, and which transcripts can be one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Protocol

from whispertune.data.timed_text import TIME, TOKEN
from whispertune.data.utterances import Utterance
from whispertune.dataset.windows import Window
from whispertune.errors import RecipeError
from whispertune.text.languages import LANGUAGES
from whispertune.text.normalizer import normalizer_for
from whispertune.text.rules import TextRules
from whispertune.text.targets import Target, make_target
from whispertune.text.tokenizer import NUM_TIMESTAMPS, SECONDS_PER_TIMESTAMP, Tokenizer

MOST_PROMPT_TOKENS = 5
"""Start, language, task, no timestamps, and the space before the text."""

BLOCK_ROWS = 64
"""Texts that are checked together; few, as a bracket in one sends the whole block down the slow path."""

BRACKET = re.compile(r"[\[<(]")
LETTER = re.compile(r"[^\W_]")
LONG_WORD = re.compile(r"[^\W\d_]{4,}")


class HasText(Protocol):
    """The fields of an utterance that are used here."""

    @property
    def text(self) -> str: ...
    @property
    def language(self) -> str | None: ...
    @property
    def task(self) -> str | None: ...
    @property
    def prompt(self) -> str | None: ...


@dataclass(frozen=True, slots=True)
class TextSettings:
    """How transcripts become targets."""

    tokenizer: Tokenizer
    language: str | None
    task: str
    prompt_loss: bool = False
    language_token: str | None = None
    """The Whisper language whose token is used for `language`, which Whisper does not have."""
    rules: TextRules | None = None
    """How texts are rewritten before they become targets (`rewritten`)."""
    known_prompts: set[tuple[str, str]] = field(default_factory=set, compare=False, repr=False)
    """Cache of (language, task) pairs that this model has."""
    known_codes: dict[str, str] = field(default_factory=dict, compare=False, repr=False)
    """Cache of language codes by the names that rows use."""

    @property
    def max_tokens(self) -> int:
        """Most tokens of text and prompt that the model's decoder accepts."""
        return self.tokenizer.max_tokens

    def surely_fits(self, text: str) -> bool:
        """Whether the text fits without tokenising it, as a token has at least one byte; True for most texts."""
        return len(text.encode("utf-8", "replace")) < self.max_tokens - MOST_PROMPT_TOKENS

    def language_of(self, utterance: Utterance) -> str:
        """Code of the row's language, else of the run's; `en` for an English-only model if neither is given.

        Raises:
            RecipeError: if it is unknown, or none is given.
        """
        return self.language_code_of(utterance.language)

    def language_code_of(self, named: str | None) -> str:
        """The same, given the language that a row names."""
        named = named or self.language
        if named is None:
            if not self.tokenizer.multilingual:
                return "en"
            raise RecipeError("no language given: add --language, or a language column")
        code = self.known_codes.get(named)
        if code is None:
            code = self.known_codes[named] = self.tokenizer.spoken_language(named, self.language_token)
        return code

    def written_in(self, language: str, task: str | None) -> str:
        """Code of the language of the text for speech in `language`: English if it is translated."""
        return "en" if (task or self.task) == "translate" else language

    def token_for(self, language: str) -> str:
        """Code of the language whose token is used for this one: its own, or the one that it borrows."""
        if self.language_token and self.language and language == self.language_code_of(None):
            return self.tokenizer.token_language(self.language_token)
        return self.tokenizer.aliases.get(language, language)

    def token_language(self, utterance: Utterance) -> str:
        """Code of the language whose token is used for the row."""
        return self.token_for(self.language_of(utterance))

    def rewrite(self, text: str, written: str) -> str:
        """A text by the rules; tokens such as <|laugh|>, which users add, stay. written: its language."""
        rules = self.rules
        if rules is None:
            return text
        if "<|" not in text:
            return rules(text, written).strip()
        places = [(match.start(), match.end()) for match in TOKEN.finditer(text)]
        bounds = [0, *(place for both in places for place in both), len(text)]
        parts = [text[begin:end] for begin, end in pairwise(bounds)]
        return "".join(part if i % 2 else rules(part, written) for i, part in enumerate(parts)).strip()

    def rewritten(self, row: Utterance) -> Utterance:
        """The row with its text as the rules write it; the same row if they change nothing."""
        if self.rules is None:
            return row
        written = self.written_in(self.language_of(row), row.task)
        segments = tuple(part._replace(text=self.rewrite(part.text, written)) for part in row.segments)
        text = " ".join(part.text for part in segments if part.text) if segments else self.rewrite(row.text, written)
        return row if text == row.text else replace(row, text=text, segments=segments, transcript=row.text)

    def unusable(self, row: HasText, *, keep_empty: bool = False) -> str | None:
        """Why a transcript can't be a target; None if it can. keep_empty: accept one without any text.

        Raises:
            RecipeError: if language or task is unknown, or no language is given.
        """
        language = self.language_code_of(row.language)
        written = self.written_in(language, row.task)
        words = self.rewrite(row.text, written)
        for what, content in (("text", row.text), ("prompt", row.prompt or "")):
            if (token := special_token(content, self.tokenizer)) is not None:
                return f"special token {token!r} in the {what}; {remedy_of(token)}"
        if not (row.text == "" and keep_empty) and not leaves_something(words, written):
            reason = "text is empty after normalisation" if row.text.strip() else "empty text"
            return f"{reason}: {row.text[:40]!r}"
        if row.prompt is None and self.surely_fits(words):
            self.require_prompt(language, row.task or self.task)
            return None
        prompt = self._prompt(language, row.task, row.prompt)
        num_tokens = len(prompt) + len(self._text_ids(words, written))
        return (
            f"text and prompt are {num_tokens} tokens; {'Whisper' if self.max_tokens == 448 else 'this model'} takes "
            f"{self.max_tokens}"
            if num_tokens > self.max_tokens
            else None
        )

    def is_usable(self, row: HasText, *, keep_empty: bool = False) -> bool:
        """Whether a transcript can be a target and its language and task are known."""
        try:
            return self.unusable(row, keep_empty=keep_empty) is None
        except RecipeError:
            return False

    def surely_usable(self, words: str, language: str) -> bool:
        """Whether a text without a prompt is certain to be a valid target, without tokenising it."""
        return self.surely_fits(words) and "<|" not in words and leaves_something(words, language)

    def surely_usable_rows(self, words: Sequence[str], languages: Sequence[str | None]) -> list[bool]:
        """`surely_usable` for many transcripts, faster than one by one; False where the language is None."""
        if self.rules is not None:
            words = [
                text if code is None else self.rewrite(text, code) for text, code in zip(words, languages, strict=True)
            ]
        found: list[bool] = []
        short = (self.max_tokens - MOST_PROMPT_TOKENS) // 4  # a character has at most 4 bytes, hence at most 4 tokens
        for begin in range(0, len(words), BLOCK_ROWS):
            block, codes = words[begin : begin + BLOCK_ROWS], languages[begin : begin + BLOCK_ROWS]
            named, joined = [code for code in codes if code is not None], "\n".join(block)
            if (
                len(named) == len(block)
                and "en" not in named
                and BRACKET.search(joined) is None
                and unicodedata.is_normalized("NFKC", joined)
            ):  # normalisation then keeps letters and digits, as in leaves_something
                found += [
                    (len(text) < short and LETTER.search(text) is not None) or self.surely_usable(text, code)
                    for text, code in zip(block, named, strict=True)
                ]
            else:
                found += [
                    code is not None and self.surely_usable(text, code) for text, code in zip(block, codes, strict=True)
                ]
        return found

    def require_prompt(self, language: str, task: str) -> None:
        """Raises RecipeError for a language or task that the model does not have."""
        if (language, task) not in self.known_prompts:
            self._prompt(language, task, None)
            self.known_prompts.add((language, task))

    def prompt(self, window: Window, *, timestamps: bool = False) -> list[int]:
        """Prompt tokens of a window; a row's own prompt takes precedence over a previous text."""
        first = window.utterances[0]
        previous = first.prompt if len(window.utterances) == 1 and first.prompt else window.previous_text
        return self._prompt(self.language_of(first), first.task, previous, timestamps=timestamps)

    def _prompt(self, language: str, task: str | None, previous: str | None, *, timestamps: bool = False) -> list[int]:
        return self.tokenizer.prompt_tokens(self.token_for(language), task or self.task, timestamps, previous)

    def _text_ids(self, text: str, language: str) -> list[int]:
        return self.tokenizer.text_ids(text, language if language in LANGUAGES else None)

    def target(self, window: Window, num_samples: Sequence[int] | None = None) -> Target:
        """Decoder input and labels of a window, at most `max_tokens` each; a previous text is cut at its start to fit.

        num_samples: of each utterance after augmentation, if the window has timestamps; the number of tokens does not
        depend on them. Timestamps that do not fit (hundreds of tokens within 30 s) are omitted.
        """
        first = window.utterances[0]
        language = self.written_in(self.language_of(first), first.task)
        ids = self._timed_ids(window, language, num_samples) if window.timestamps else []
        timestamps = 0 < len(ids) <= self.max_tokens - MOST_PROMPT_TOKENS
        if not timestamps:
            ids = self._text_ids(window.text, language)
        prompt = self.prompt(window, timestamps=timestamps)
        start, excess = prompt.index(self.tokenizer.sot), len(prompt) + len(ids) - self.max_tokens
        if start and excess > 0:  # the prompt is <|startofprev|>, text, <|startoftranscript|> …
            prompt = [prompt[0], *prompt[1 + excess :]] if excess < start - 1 else prompt[start:]
        return make_target(prompt, ids, self.tokenizer.eot, sot=self.tokenizer.sot, prompt_loss=self.prompt_loss)

    def _timed_ids(self, window: Window, language: str, num_samples: Sequence[int] | None) -> list[int]:
        segments = window.segments(num_samples)
        texts = (self._text_ids(segment.text, language) for segment in segments)
        timed = [(segment.start, segment.end, ids) for segment, ids in zip(segments, texts, strict=True)]
        return timed_ids(timed, self.tokenizer.timestamp_begin)


def timed_ids(segments: Sequence[tuple[float, float, Sequence[int]]], timestamp_begin: int) -> list[int]:
    """Concatenate `[<|start|>, text…, <|end|>]` for segments (start and end in seconds, ids of the text).

    timestamp_begin: the id of <|0.00|>. Times are rounded to 0.02 s, kept within 30 s, and never decrease; every
    segment lasts at least 0.02 s, except at the very end of the window: these are the rules of Whisper's own decoding.
    """
    ids: list[int] = []
    earliest, latest = 0, NUM_TIMESTAMPS - 1
    for start, end, text in segments:
        first = min(max(round(start / SECONDS_PER_TIMESTAMP), earliest), latest)
        earliest = min(max(round(end / SECONDS_PER_TIMESTAMP), first + 1), latest)
        ids += [timestamp_begin + first, *text, timestamp_begin + earliest]
    return ids


def special_token(text: str, tokenizer: Tokenizer | None) -> str | None:
    """The first special token in a text, which would be tokenised as plain letters; tokens added by users are fine."""
    for token in TOKEN.findall(text) if "<|" in text else ():
        ids = [] if tokenizer is None else tokenizer.encode(token)
        if tokenizer is None or len(ids) != 1 or ids[0] not in tokenizer.added_text:
            return str(token)
    return None


def remedy_of(token: str) -> str:
    """Remedy for a special token in a text or a prompt."""
    if TIME.fullmatch(token):
        return "write all text between rising times within 30 s, as <|0.00|>Sì.<|1.20|>, or remove them"
    return "remove it; whispertune adds language, task and end tokens itself"


def leaves_something(text: str, language: str) -> bool:
    """Whether a text is not empty after normalisation; for most texts this is known without normalising them."""
    if BRACKET.search(text) is None:
        if language != "en" and LETTER.search(text) and unicodedata.is_normalized("NFKC", text):
            return True  # letters and digits stay (NFKC turns some into bare marks)
        if len(text) >= 40 and len(LONG_WORD.findall(text)) >= 3:
            return True  # the English normaliser drops fillers (hm, uh) and rewrites numbers
    return bool(normalizer_for(language)(text).strip())
