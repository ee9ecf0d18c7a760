"""Whisper's tokenizer: text to ids and back, and the prompt the decoder starts from.

Ids are looked up by name, never written as constants: English-only models, multilingual ones and
large-v3 each shift them. Layout of a vocabulary, by rising id:

    text | <|endoftext|> <|startoftranscript|> <|en|> … <|translate|> <|transcribe|> <|startoflm|>
    <|startofprev|> <|nospeech|> <|notimestamps|> | <|0.00|> <|0.02|> … <|30.00|>

Many tokenizer.json files do not list the timestamps: their ids are arithmetic.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import tokenizers

from whispertune.errors import CheckpointError, RecipeError
from whispertune.text.languages import LANGUAGES, WRITTEN_WITHOUT_SPACES, language_code

SECONDS_PER_TIMESTAMP = 0.02
NUM_TIMESTAMPS = 1501  # 0.00 to 30.00 s
MAX_PREVIOUS_TOKENS = 223  # openai-whisper: half of the 448 decoder positions, less <|startofprev|>
MULTILINGUAL_VOCAB_SIZE = 51865  # openai-whisper's rule: multilingual from this size on
OPENAI_VOCAB_SIZES = (51864, 51865, 51866)  # English-only, multilingual, large-v3


class Tokenizer:
    """A Whisper model's tokenizer.

    `text` is the content of a `tokenizer.json`. `vocab_size` is the model's (rows of its token
    embedding); without one it is the tokenizer's own, timestamps included. Size decides whether a model
    is multilingual, not names: an English-only tokenizer.json may list the language tokens too.

    Raises CheckpointError if the text is no Whisper tokenizer, or not that of a model of this size.
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
    languages: dict[str, int]  # code -> id of its token; empty for an English-only model

    def __init__(self, text: str, vocab_size: int | None = None) -> None:
        try:
            content = json.loads(text)
            added = {token["content"]: int(token["id"]) for token in content["added_tokens"]}
            # Without its added tokens the tokenizer can't turn '<|endoftext|>' in a transcript into the
            # special token; nor does it put a prompt of its own around the text.
            content |= {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
            self._text = tokenizers.Tokenizer.from_str(json.dumps(content))
        except Exception as error:  # `tokenizers` raises bare Exceptions
            raise CheckpointError(f"tokenizer.json cannot be read as a tokenizer: {error}") from error
        if "<|nocaptions|>" in added:  # the older name of the same token
            added.setdefault("<|nospeech|>", added["<|nocaptions|>"])

        names = {
            "eot": "<|endoftext|>",
            "sot": "<|startoftranscript|>",
            "translate": "<|translate|>",
            "transcribe": "<|transcribe|>",
            "sot_lm": "<|startoflm|>",
            "sot_prev": "<|startofprev|>",
            "no_speech": "<|nospeech|>",
            "no_timestamps": "<|notimestamps|>",
        }
        if missing := [name for name in names.values() if name not in added]:
            raise CheckpointError(
                f"tokenizer.json is not a Whisper tokenizer: it lacks {', '.join(missing)}; "
                "take the one that came with the model"
            )
        for attribute, name in names.items():
            setattr(self, attribute, added[name])
        self.json = text
        self.timestamp_begin = added.get("<|0.00|>", self.no_timestamps + 1)

        own_size = self.timestamp_begin + NUM_TIMESTAMPS
        self.vocab_size = own_size if vocab_size is None else vocab_size
        # A larger vocabulary may be padded or extended; one of OpenAI's sizes goes with its own tokenizer.
        if self.vocab_size < own_size or (self.vocab_size in OPENAI_VOCAB_SIZES and self.vocab_size != own_size):
            raise CheckpointError(
                f"tokenizer.json has {own_size} tokens (timestamps included), the model {self.vocab_size}: "
                "it belongs to another Whisper; take the one that came with the model"
            )
        # By the tokenizer's own size, which is the model's unless that is padded.
        self.multilingual = own_size >= MULTILINGUAL_VOCAB_SIZE
        listed = {m[1]: i for name, i in added.items() if (m := re.fullmatch(r"<\|([a-z]{2,3})\|>", name))}
        self.languages = listed if self.multilingual else {}

    @classmethod
    def from_json(cls, text: str, vocab_size: int | None = None) -> Tokenizer:
        """The tokenizer from the content of a `tokenizer.json`; see the class."""
        return cls(text, vocab_size)

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
        """Ids of the text alone: no prompt, no end; what looks like a special token stays text."""
        return list(self._text.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens and timestamps dropped; a broken character becomes U+FFFD."""
        return str(self._text.decode([i for i in ids if i < self.eot], skip_special_tokens=False))

    def text_ids(self, text: str, language: str | None = None) -> list[int]:
        """A transcript's ids as Whisper itself would emit them: with a leading space; [] if blank.

        Whisper's output begins with a space (' Tutti'), except in languages written without spaces.
        Those follow openai-whisper's list; measured with whisper-base, forced to each language on
        Italian clips: no space in Chinese, Japanese and Thai; a space in Khmer and Tibetan, whose
        script it does not write any more than that of Lao and Burmese, and in all others tried.
        (Hugging Face's fine-tuning encodes the bare text, which unlearns the space.)
        """
        text = text.strip()
        if not text:
            return []
        spaceless = language is not None and self._code(language) in WRITTEN_WITHOUT_SPACES
        return self.encode(text if spaceless else " " + text)

    def prompt_tokens(
        self,
        language: str | None,
        task: str = "transcribe",
        timestamps: bool = False,
        previous_text: str | None = None,
    ) -> list[int]:
        """What the decoder is given before the text.

        [sot, language, task, no_timestamps]; English-only models: [sot, no_timestamps]; no_timestamps is
        absent where the text is to have timestamps. Before it, with a previous text: [sot_prev, *its last
        223 tokens]. Raises RecipeError for a task or language that this model does not have.
        """
        if task not in ("transcribe", "translate"):
            raise RecipeError(f"unknown task '{task}': it is 'transcribe' or 'translate'")
        prompt = [self.sot]
        if self.multilingual:
            if language is None:
                raise RecipeError("a multilingual model needs the language of the speech: give --language")
            prompt.append(self._language_token(language))
            prompt.append(self.transcribe if task == "transcribe" else self.translate)
        elif language is not None and language_code(language) != "en":
            raise RecipeError(f"this model knows English only, not '{language}': take a multilingual one")
        elif task == "translate":
            raise RecipeError("this model knows English only and cannot translate: take a multilingual one")
        if not timestamps:
            prompt.append(self.no_timestamps)
        written = "en" if task == "translate" else language
        previous = self.text_ids(previous_text or "", written)[-MAX_PREVIOUS_TOKENS:]
        return [self.sot_prev, *previous, *prompt] if previous else prompt

    def timestamp(self, seconds: float) -> int:
        """Id of the timestamp nearest to `seconds` (0 to 30) from the start of the window."""
        index = round(seconds / SECONDS_PER_TIMESTAMP)
        if not 0 <= index < NUM_TIMESTAMPS:
            raise ValueError(f"a timestamp lies in 0 to 30 s, not at {seconds} s")
        return self.timestamp_begin + index

    def _code(self, language: str) -> str:
        # A token of the model's own comes first: someone may have added a language to their model.
        return language if language in self.languages else language_code(language)

    def _language_token(self, language: str) -> int:
        code = self._code(language)
        if code not in self.languages:
            name = LANGUAGES[code]
            raise RecipeError(
                f"this model has no token for {name} ('{code}'): "
                f"choose one of its {len(self.languages)} languages or another model"
                + (", such as large-v3" if code == "yue" else "")
            )
        return self.languages[code]
