"""The flags of `whispertune split`."""

from __future__ import annotations

from dataclasses import dataclass, field

from whispertune.data.options import ReadingOptions
from whispertune.errors import RecipeError
from whispertune.run.help_text import help_text
from whispertune.run.options import LanguageOptions
from whispertune.split.wishes import SIDES, TEST, VALID, By, Texts, Wish, parse_wish
from whispertune.system.fields import FLAT, Seed

USAGE = """whispertune split F… --output DIR [--valid 0.1] [--test 0.1]
                         [--by speaker|recording|text] [--field value …]"""

DESCRIPTION = """Divide a corpus into train, valid and test, so that scores on valid and test can be trusted.

F is anything that train reads; several are joined. Utterances of one recording (--by speaker: of one speaker) and those
with the same or nearly the same text form a group, which stays on one side. Each side gets its share of every language
and of every F. Valid and test take whole groups in an order drawn by --seed, so that each comes within half a group of
what was asked for, if there are enough groups. The command says what it did, and what it could not do.

It writes DIR/train.jsonl, valid.jsonl and test.jsonl with all columns, split.json with the figures, and excluded.jsonl
with the utterances that had to be left out, and why.

Run the same command again when there are more recordings: with the same --by, --seed, --texts and shares, every
utterance keeps the side that it has in DIR, and only new groups are drawn. An utterance that
belongs to two sides (a speaker of train says a sentence of test) is left out. In a new DIR the same rows and options
give the same split; with other rows some groups may change sides, as the shares must hold."""


@dataclass(frozen=True, kw_only=True)
class SplitOptions(LanguageOptions):
    """How to divide, and where to write."""

    output: str
    """Folder for the manifests."""

    valid: str = "0.1"
    """Size of valid, on which the best checkpoint is chosen: a share of the utterances (0.1 or 10%), a duration (0.5h,
    30min), or 0 for none."""

    test: str = "0.1"
    """Size of test, which is scored once, at the end; given in the same ways."""

    by: By = "recording"
    """What must not be on two sides. `speaker`: speakers, recordings and texts, so that scores hold for new speakers.
    `recording`: recordings and texts. `text`: texts alone, for a corpus of one or two recordings; utterances of a
    recording may then be on two sides, if they do not overlap."""

    texts: Texts = "auto"
    """What to do with texts that are repeated (nearly) word for word. `together` keeps them on one side. `apart` leaves
    them out of train if they are in valid or test, except texts of fewer than 20 letters, such as "good morning".
    `free` does not compare texts. `auto` is `together`, or `apart` if `together` would tie so many recordings together
    that the sides cannot be filled."""

    seed: Seed = 0
    """Seed of the order in which groups are drawn."""

    overwrite: bool = False
    """Replace files in DIR even if they were changed since, or written by something else. Files that are read are never
    replaced."""

    reading: ReadingOptions = field(default_factory=ReadingOptions, metadata=FLAT)

    def check(self) -> None:
        super().check()
        wishes = self.wishes
        if not wishes:
            raise RecipeError("is 0 and test is 0, so that there is nothing to divide", field="valid")
        if sum(wish.share for wish in wishes.values()) >= 1:
            problem = f"is {self.valid} and test is {self.test}, which leaves nothing to train on"
            raise RecipeError(problem, field="valid", others=("test",))
        if self.by == "text" and self.texts in ("apart", "free"):
            raise RecipeError(f"is {self.texts}, but --by text keeps texts together; leave it out", field="texts")

    @property
    def wishes(self) -> dict[int, Wish]:
        """What is asked of each side that is wished for."""
        given = ((side, parse_wish(getattr(self, SIDES[side]), SIDES[side])) for side in (VALID, TEST))
        return {side: wish for side, wish in given if wish.is_any}


def usage() -> str:
    """The text of --help."""
    return help_text(SplitOptions, USAGE, DESCRIPTION)
