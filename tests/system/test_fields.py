"""Bounds in annotations: what they let through, and the one line that refuses the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest

from whispertune.errors import RecipeError
from whispertune.run.flags import all_fields, parse_fields
from whispertune.run.help_text import help_text
from whispertune.system.fields import FLAT, Bounds, Options, PositiveInt, Share


@dataclass(frozen=True, kw_only=True)
class Part(Options):
    """A part."""

    share: Share = 0.5
    """Share of something or other."""
    low: int = 1
    high: int = 2

    def check(self) -> None:
        self.require_order("low", "high")


@dataclass(frozen=True, kw_only=True)
class Whole(Options):
    """All of it."""

    count: PositiveInt = 1
    rate: Annotated[float | Literal["auto", "none"], Bounds(gt=0)] = "auto"
    limit: Annotated[int | None, Bounds(ge=2, lt=9)] = None
    factors: Annotated[tuple[float, ...], Bounds(ge=0.5, le=2)] = (1.0,)
    free: float = 0.0
    section: Part = field(default_factory=Part)
    inner: Part = field(default_factory=lambda: Part(share=0.25, high=7), metadata=FLAT)


@dataclass(frozen=True, kw_only=True)
class Narrower(Part):
    """A part with another default."""

    share: Share = 0.1


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"count": 0}, "count is 0; it must be at least 1"),
        ({"rate": 0.0}, "rate is 0.0; it must be above 0, or auto or none"),
        ({"rate": math.inf}, "rate is inf; it must be above 0 and finite, or auto or none"),
        ({"limit": 1}, "limit is 1; it must be at least 2 and below 9, or null"),
        ({"limit": 9}, "limit is 9; it must be at least 2 and below 9, or null"),
        ({"factors": (1.0, 2.5)}, "factors is [1.0, 2.5]; each must be between 0.5 and 2"),
        ({"factors": ()}, "factors is empty; it takes at least one number"),
    ],
)
def test_one_line_names_field_value_and_bounds(values: dict[str, object], line: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Whole(**values)  # type: ignore[arg-type]
    assert str(caught.value) == line
    assert caught.value.field == next(iter(values))


def test_what_lies_on_a_bound_or_is_no_number_passes() -> None:
    Whole(count=1, rate="none", limit=2, factors=(0.5, 2.0), free=math.nan)
    Part(share=0.0, low=2, high=2)
    Part(share=1.0)


def parse(*flags: str, **fields: object) -> Whole:
    return parse_fields(Whole, fields, flags, command="c", where="r.yaml")


def test_sections_and_files_stand_before_the_field() -> None:
    for fields, flags, line in (
        ({"section.share": 2}, [], "r.yaml: section.share is 2.0; it must be between 0 and 1"),
        ({}, ["--section.share=2"], "section.share is 2.0; it must be between 0 and 1"),
        ({}, ["--share=2"], "share is 2.0; it must be between 0 and 1"),
        # What a file gives is at fault together with a default, or with a flag.
        ({"section.high": 0}, [], "r.yaml: section.low is 1; it must not exceed high (0)"),
        ({"high": 3}, ["--low=4"], "r.yaml: low is 4; it must not exceed high (3)"),
    ):
        with pytest.raises(RecipeError) as caught:
            parse(*flags, **fields)
        assert str(caught.value) == line


def test_flat_sections_keep_their_own_defaults() -> None:
    found = parse("--low=5", "--section.low=2")
    assert (found.inner, found.section) == (Part(share=0.25, low=5, high=7), Part(low=2))


def test_a_field_that_is_declared_again_keeps_its_help() -> None:
    share = all_fields(Narrower)["share"]
    assert (share.default, share.help) == (0.1, "Share of something or other.")
    assert "--share NUMBER  (default: 0.1)" in help_text(Narrower, "", "")
