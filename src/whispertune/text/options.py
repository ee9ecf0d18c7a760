"""How the training text is written, as fields of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from whispertune.errors import RecipeError
from whispertune.system.fields import Options

UnicodeForm = Literal["keep", "NFC", "NFD", "NFKC", "NFKD"]


@dataclass(frozen=True, kw_only=True)
class TextOptions(Options):
    """Rules for the text that the model is trained to write.

    They are applied in this order: unicode, replacements, quotes, punctuation, case.
    """

    unicode: UnicodeForm = "keep"
    """Unicode normalisation form. NFC composes accents (é as one character), NFD decomposes them; NFKC and NFKD also
    replace characters by their compatible ones (ﬁ by fi, ² by 2). The normalised error rates use NFKC in any case."""

    replacements: str | None = None
    """TSV file of replacements, without a header: what is written, a tab, what to write instead (nothing removes it). A
    single character is replaced everywhere; longer entries only as whole words, except in languages written without
    spaces. The longest entry that matches counts, and nothing is replaced twice. Case matters."""

    quotes: Literal["keep", "unify"] = "keep"
    """`unify` writes all apostrophes and single quotes as ' and all double quotes as "."""

    punctuation: Literal["keep", "drop"] = "keep"
    """`drop` removes punctuation, except apostrophes, hyphens and middle dots within words (l'acqua), marks between
    digits (3,5) and % & @ # / §. A replacement can remove these too."""

    case: Literal["keep", "lower"] = "keep"
    """`lower` writes everything in lower case (in Turkish and Azerbaijani, I without a dot stays so)."""

    digits: Literal["keep", "flag"] = "keep"
    """`flag` counts the transcripts with digits and lists them in RUN/text_changes.jsonl, because a number that is
    written in digits in one row and in words in the next teaches the model neither. They are not changed."""

    references: bool = False
    """Apply the rules to the transcripts of valid and test, too. Otherwise hypotheses are scored against the
    transcripts as they are; case and punctuation do not count in the normalised error rates in either case."""

    @property
    def changes_text(self) -> bool:
        """Whether a rule may change a text."""
        kept = {self.unicode, self.quotes, self.punctuation, self.case} == {"keep"}
        return not kept or self.replacements is not None

    def check(self) -> None:
        if self.references and not self.changes_text:
            raise RecipeError(
                "is true, but no rule of text.* changes anything; give one, such as text.case lower", field="references"
            )
