"""The one check that all options share."""

from __future__ import annotations

from whispertune.errors import RecipeError


def require_between(field: str, value: float, low: float, high: float) -> None:
    """Raise RecipeError naming the recipe's `field` unless low <= value <= high (NaN fails, too)."""
    if not low <= value <= high:
        raise RecipeError(f"is {value}; it must lie between {low:g} and {high:g}", field=f"augment.{field}")
