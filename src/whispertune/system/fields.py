"""Fields of options: their bounds stand in their annotations and are checked in one place."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from whispertune.errors import RecipeError


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """Of a number or, in a list, of each: greater or equal, greater than, less or equal, less than."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def hold(self, value: float) -> bool:
        """Whether a number is finite and lies within."""
        lower = math.isfinite(value) and (self.ge is None or value >= self.ge) and (self.gt is None or value > self.gt)
        return lower and (self.le is None or value <= self.le) and (self.lt is None or value < self.lt)

    def __str__(self) -> str:
        if self.ge is not None and self.le is not None:
            return f"between {self.ge:g} and {self.le:g}"
        named = (("at least", self.ge), ("above", self.gt), ("at most", self.le), ("below", self.lt))
        return " and ".join(f"{word} {bound:g}" for word, bound in named if bound is not None)


PositiveInt = Annotated[int, Bounds(ge=1)]
Share = Annotated[float, Bounds(ge=0, le=1)]
Seed = Annotated[int, Bounds(ge=0)]
FLAT = {"flat": True}
"""Metadata of a section whose fields are flags of the command itself: --beam_size, not --search.beam_size."""


class Options:
    """Base of all options, which are frozen dataclasses."""

    def __post_init__(self) -> None:
        options: type = type(self)
        for name, bounds, others in _bounded(options):
            value = getattr(self, name)
            several = isinstance(value, tuple)
            numbers: Iterable[Any] = value if several else (value,)
            if several and not value:
                raise RecipeError("is empty; it takes at least one number", field=name)
            for number in numbers:
                if isinstance(number, int | float) and not bounds.hold(number):
                    shown, each = (list(value), "each") if several else (value, "it")
                    finite = "" if math.isfinite(number) else " and finite"
                    raise RecipeError(f"is {shown}; {each} must be {bounds}{finite}{others}", field=name)
        self.check()

    def check(self) -> None:
        """Refuse fields that do not go together.

        Raises:
            RecipeError: naming them.
        """

    def require_order(self, low: str, high: str) -> None:
        """Refuse a lower limit above the upper one."""
        if getattr(self, low) > getattr(self, high):
            problem = f"is {getattr(self, low)}; it must not exceed {high} ({getattr(self, high)})"
            raise RecipeError(problem, field=low, others=(high,))


@cache
def _bounded(options: type) -> list[tuple[str, Bounds, str]]:
    """Fields that have bounds; these; and what the field takes beside numbers: `, or auto`."""
    found = []
    for name, hint in get_type_hints(options, include_extras=True).items():
        if get_origin(hint) is Annotated:
            others = [word for kind in get_args(get_args(hint)[0]) for word in _words(kind)]
            bounds = next(entry for entry in hint.__metadata__ if isinstance(entry, Bounds))
            found.append((name, bounds, f", or {' or '.join(others)}" if others else ""))
    return found


def _words(kind: Any) -> tuple[str, ...]:
    return ("null",) if kind is NoneType else get_args(kind) if get_origin(kind) is Literal else ()
