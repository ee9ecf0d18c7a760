"""The fields of `whispertune tune`: those of a recipe, and those of the search."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from whispertune.errors import RecipeError
from whispertune.run.recipe import Recipe
from whispertune.system.fields import Bounds, PositiveInt

SECTION = "tune."
"""Prefix of the search's fields in a recipe."""


@dataclass(frozen=True, kw_only=True)
class TuneOptions(Recipe):
    """The search, and the recipe that it starts from."""

    output: str
    """Folder of the search. If it holds this very search already, the search goes on."""

    trials: PositiveInt = 20
    """Number of trials, of all processes together that share the search. The first one is the recipe as it is."""

    minutes: Annotated[float | None, Bounds(gt=0)] = None
    """Time that the command may take, in minutes: the search stops early enough to confirm the winner within it. The
    first trial and the confirmation are always completed, even if they take longer."""

    space: tuple[str, ...] = ()
    """Settings to search, one flag for each: FIELD=VALUE|VALUE|… or FIELD=LOW..HIGH [log]. By default a space that is
    shown at the start."""

    def check(self) -> None:
        super().check()
        if self.seeds is not None:
            problem = "is given, but tune compares settings with one seed and confirms the winner on two more; use seed"
            raise RecipeError(problem, field="seeds")

    @property
    def recipe(self) -> Recipe:
        """The recipe alone."""
        return Recipe(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Recipe)})


def without_section(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted fields of a recipe, those of its section `tune` under the names of flags.

    There `space` is a list of texts as in --space, or a mapping of fields to `LOW..HIGH [log]` or to a list of values.
    """
    found: dict[str, Any] = {}
    space: list[str] = []
    for name, value in fields.items():
        field = str(name).removeprefix(SECTION)
        if field.startswith("space.") and field != name:
            values = value if isinstance(value, list) else [value]
            space.append(f"{field.removeprefix('space.')}={'|'.join(map(_as_text, values))}")
        elif field in found or (field != name and field in fields):
            raise RecipeError("is given twice; leave one out", field=field)
        else:
            found[field] = value
    if space and "space" in found:
        raise RecipeError("is given both as a list and as a mapping; leave one out", field="tune.space")
    return found | ({"space": space} if space else {})


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)
