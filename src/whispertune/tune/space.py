"""The space that is searched: settings, the values each may take, and the recipe that drawn values make."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, get_args

from whispertune.errors import RecipeError
from whispertune.run.flags import all_fields, parse_fields
from whispertune.run.recipe import FREE_TO_CHANGE, Recipe, to_mapping
from whispertune.run.yaml_fields import flatten
from whispertune.training.schedule import LORA_PEAK_LR, auto_peak_lr

RATE = "schedule.peak_lr"
SIGNIFICANT_DIGITS = 3
"""Of a number drawn from a range, so that recipes stay readable."""
NUMBER = r"[-+]?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
RANGE = re.compile(rf"({NUMBER})(x?)\s*\.\.\s*({NUMBER})(x?)(\s+log)?")
FIXED = {
    "model",
    "train",
    "valid",
    "test",
    "also_test",
    "seed",
    "seeds",
    "language",
    "language_token",
    "task",
    "device",
}
FIXED_SECTIONS = ("data.", "text.references", "validation.", "search.", "states.", "checkpoint.", "card.", "processes.")
"""Fields that a search cannot compare: data, how they are scored, where and how long states are kept."""
SYNTAX = "write FIELD=VALUE|VALUE|… or FIELD=LOW..HIGH [log]; see whispertune tune --help"


class Draws(Protocol):
    """What values are drawn with: a trial of Optuna."""

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> Any: ...
    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...
    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...


@dataclass(frozen=True, slots=True)
class Range:
    """A setting that takes a number. times_auto: the number is multiplied by the rate that `auto` takes."""

    name: str
    low: float
    high: float
    log: bool
    whole: bool
    times_auto: bool

    def draw(self, draws: Draws) -> float:
        if self.whole:
            return draws.suggest_int(self.name, int(self.low), int(self.high), log=self.log)
        return draws.suggest_float(self.name, self.low, self.high, log=self.log)

    def as_text(self, drawn: float) -> str:
        """A drawn number as a recipe has it."""
        return str(drawn) if self.whole else f"{drawn:.{SIGNIFICANT_DIGITS}g}{'x' if self.times_auto else ''}"

    @property
    def extremes(self) -> list[str]:
        """The ends of the range."""
        return [self.as_text(int(end) if self.whole else end) for end in (self.low, self.high)]

    def fields(self, drawn: str) -> dict[str, Any]:
        return {self.name: drawn}


@dataclass(frozen=True, slots=True)
class Choice:
    """A setting that takes one of several values. A value may set other fields instead: lora.rank=32&lora.alpha=64."""

    name: str
    values: tuple[str, ...]

    def draw(self, draws: Draws) -> str:
        return str(draws.suggest_categorical(self.name, list(self.values)))

    def as_text(self, drawn: str) -> str:
        """A value as it was written."""
        return drawn

    @property
    def extremes(self) -> list[str]:
        """All values."""
        return list(self.values)

    def _sets(self, value: str) -> dict[str, str]:
        parts = (part.rpartition("=") for part in value.split("&"))
        return {name.strip() or self.name: given.strip() for name, _, given in parts}

    @property
    def names(self) -> set[str]:
        """The fields that any value sets."""
        return {self.name}.union(*map(self._sets, self.values))

    def fields(self, drawn: str) -> dict[str, Any]:
        """What a value sets; those that only the others set take their defaults."""
        known = all_fields(Recipe)
        return {name: known[name].default for name in self.names if name in known} | self._sets(drawn)


Setting = Range | Choice


def default_space(recipe: Recipe) -> list[str]:
    """A small space around a recipe, as texts."""
    epochs = dict.fromkeys([max(1, recipe.epochs // 2), recipe.epochs, 2 * recipe.epochs])
    return [
        f"{RATE}=0.5x..4x log",
        "schedule.name=noam|linear",
        "freeze=encoder|auto|lora.rank=32",
        "loss.label_smoothing=0|0.1",
        "augment.speed.probability=0|1&augment.views=3|augment.spec_augment.probability=1&augment.views=3",
        "windows.stitched_share=0|0.15",
        f"epochs={'|'.join(map(str, epochs))}",
    ]


class Space:
    """A recipe, and the settings in which trials differ from it."""

    def __init__(self, recipe: Recipe, texts: Sequence[str], width: int) -> None:
        """texts: as in --space; none for the default space, without the values that this recipe refuses. width: of the
        model.

        Raises:
            RecipeError: if a text cannot be parsed, or the recipe refuses one of its values.
        """
        self.recipe, self._width = recipe, width
        self._mapping = flatten(to_mapping(recipe))
        self.texts = [text.strip() for text in texts] or self._usable(default_space(recipe))
        self.settings = [parse_setting(text) for text in self.texts]
        taken: set[str] = set()
        for setting, text in zip(self.settings, self.texts, strict=True):
            names = setting.names if isinstance(setting, Choice) else {setting.name}
            if repeated := sorted(names & taken):
                raise RecipeError(f"--space {text}: another --space sets {repeated[0]} as well; leave one out")
            taken |= names
            for name in sorted(names):
                if name in FIXED or name in FREE_TO_CHANGE or name.startswith(FIXED_SECTIONS):
                    raise RecipeError(f"--space {text}: {name} must be the same in all trials; leave it out")
            for value in setting.extremes:
                self.with_values({setting.name: value})

    def _usable(self, texts: Sequence[str]) -> list[str]:
        """The texts without values that the recipe refuses, and without settings that leave nothing to choose."""
        found = []
        for text in texts:
            setting = parse_setting(text)
            usable = [value for value in setting.extremes if self._accepts(setting, value)]
            if isinstance(setting, Choice) and len(usable) > 1:
                found.append(f"{setting.name}={'|'.join(usable)}")
            elif isinstance(setting, Range) and len(usable) == len(setting.extremes):
                found.append(text)
        return found

    def _accepts(self, setting: Setting, value: str) -> bool:
        try:
            self._with_fields(setting.fields(value))
        except RecipeError:
            return False
        return True

    def draw(self, draws: Draws) -> dict[str, Any]:
        """A value for each setting, by its name; those that a trial has drawn before stay the same."""
        return {setting.name: setting.draw(draws) for setting in self.settings}

    def with_drawn(self, drawn: Mapping[str, Any]) -> Recipe:
        """`with_values` of what `draw` gives."""
        named = {setting.name: setting for setting in self.settings}
        return self.with_values({name: named[name].as_text(value) for name, value in drawn.items()})

    def with_values(self, values: Mapping[str, str]) -> Recipe:
        """The recipe with drawn values.

        Raises:
            RecipeError: if they do not go together.
        """
        fields: dict[str, Any] = {}
        for setting in self.settings:
            if setting.name in values:
                fields |= setting.fields(values[setting.name])
        return self._with_fields(fields)

    def _with_fields(self, fields: Mapping[str, Any]) -> Recipe:
        given = self._mapping | dict(fields)
        rate = str(given[RATE])
        if rate.endswith("x"):
            auto = auto_peak_lr(self._width) if str(given["lora.rank"]) == "0" else LORA_PEAK_LR
            given[RATE] = float(f"{float(rate[:-1]) * auto:.{SIGNIFICANT_DIGITS}g}")
        return parse_fields(Recipe, given, [], command="tune", where="--space")

    def described(self, recipe: Recipe) -> str:
        """The settings in which another recipe differs from this one, for people: `freeze=auto, epochs=2`."""
        theirs = flatten(to_mapping(recipe))
        return ", ".join(
            f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in theirs.items()
            if name != "output" and value != self._mapping.get(name)
        )


def parse_setting(text: str) -> Setting:
    """A setting from `FIELD=VALUE|VALUE|…` or `FIELD=LOW..HIGH [log]`.

    Raises:
        RecipeError: if it is neither.
    """
    name, equals, values = text.partition("=")
    name, values = name.strip().replace("-", "_"), values.strip()
    if not equals or not name or not values:
        raise RecipeError(f"--space {text}: {SYNTAX}")
    field = all_fields(Recipe).get(name)
    if match := RANGE.fullmatch(values):
        low, high, log = float(match[1]), float(match[3]), match[5] is not None
        kinds = () if field is None else (field.annotation, *get_args(field.annotation))
        if match[2] != match[4] or (match[2] and name != RATE):
            raise RecipeError(f"--space {text}: x stands for the rate that auto takes: {RATE}=0.5x..4x log")
        whole = int in kinds and float not in kinds
        if not low < high or (log and low <= 0) or (whole and not (low.is_integer() and high.is_integer())):
            numbers = "whole numbers" if whole else "numbers"
            above = " above 0" if log else ""
            raise RecipeError(f"--space {text}: LOW..HIGH takes two {numbers}{above}, the lower one first")
        return Range(name, low, high, log, whole, bool(match[2]))
    choices = tuple(dict.fromkeys(value.strip() for value in values.split("|")))
    if len(choices) < 2 or not all(choices):
        raise RecipeError(f"--space {text}: leaves nothing to choose; {SYNTAX}")
    return Choice(name, choices)
