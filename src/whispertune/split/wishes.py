"""How much a side of a split is to hold: a share of the utterances, or a duration."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from whispertune.errors import RecipeError

By = Literal["speaker", "recording", "text"]
Texts = Literal["auto", "together", "apart", "free"]
SIDES = ("train", "valid", "test")
TRAIN, VALID, TEST = range(3)
UNITS = {"h": 3600.0, "min": 60.0, "s": 1.0}
WISH = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)\s*(%|h|min|s|)")


@dataclass(frozen=True, slots=True)
class Wish:
    """A share of the utterances or, where `seconds` is given, a duration; `text` is what the user wrote."""

    text: str
    share: float = 0.0
    seconds: float | None = None

    @property
    def is_any(self) -> bool:
        """Whether the side is wished for at all."""
        return bool(self.share or self.seconds)


def parse_wish(given: str, side: str) -> Wish:
    """`0.1`, `10%`, `0.5h`, `30min` or `0`.

    Raises:
        RecipeError: for anything else.
    """
    match = WISH.fullmatch(given.strip())
    if match is None or (not match[2] and float(match[1]) >= 1) or (match[2] == "%" and float(match[1]) >= 100):
        problem = f"is {given!r}; it takes a share below 1 (0.1, 10%), a duration (0.5h, 30min) or 0 for none"
        raise RecipeError(problem, field=side)
    number, unit = float(match[1]), match[2]
    if unit in UNITS:
        return Wish(given, seconds=number * UNITS[unit])
    return Wish(given, share=number / 100 if unit else number)
