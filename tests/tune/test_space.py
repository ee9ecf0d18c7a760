"""The space of a search: what is written, what is refused, and the recipes that come of it."""

from __future__ import annotations

from typing import Any

import pytest

from whispertune.errors import RecipeError
from whispertune.run.flags import parse_fields
from whispertune.run.recipe import Recipe
from whispertune.tune.options import TuneOptions, without_section
from whispertune.tune.space import Choice, Range, Space, parse_setting

FIELDS = {"model": "m", "train": "t", "valid": "v", "output": "o"}


def recipe_of(**fields: Any) -> Recipe:
    given = {name.replace("__", "."): value for name, value in fields.items()}
    return parse_fields(Recipe, FIELDS | given, [], command="tune")


def space_of(*texts: str, **fields: Any) -> Space:
    return Space(recipe_of(**fields), texts, 512)


def test_settings() -> None:
    assert parse_setting("epochs=2..6") == Range("epochs", 2, 6, False, True, False)
    assert parse_setting("schedule.peak_lr=0.5x..4x log") == Range("schedule.peak_lr", 0.5, 4, True, False, True)
    assert parse_setting("optimizer.weight-decay = 1e-3 .. 0.1 log").name == "optimizer.weight_decay"
    assert parse_setting("freeze=encoder|auto | lora.rank=32") == Choice("freeze", ("encoder", "auto", "lora.rank=32"))


def test_recipes() -> None:
    space = space_of("schedule.peak_lr=0.5x..4x log", "freeze=encoder|auto|lora.rank=8&lora.alpha=8", "epochs=1..3")
    auto = space.with_values({"schedule.peak_lr": "2x", "freeze": "auto", "epochs": "2"})
    assert (auto.schedule.peak_lr, auto.freeze, auto.lora.rank, auto.epochs) == (6e-5, "auto", 0, 2)
    lora = space.with_drawn({"schedule.peak_lr": 2.0, "freeze": "lora.rank=8&lora.alpha=8", "epochs": 3})
    assert (lora.schedule.peak_lr, lora.freeze, lora.lora.rank, lora.lora.alpha) == (1e-3, "encoder", 8, 8.0)
    assert space.described(auto) == "epochs=2, freeze=auto, schedule.peak_lr=6e-05"
    assert space.described(space.recipe) == ""
    augmented = space_of("augment.speed.probability=0|1")
    assert augmented.described(augmented.with_values({"augment.speed.probability": "1.0"})) == (
        "augment.speed.probability=1"
    )


@pytest.mark.parametrize(
    ("fields", "missing"),
    [
        ({}, ()),
        ({"schedule__scale": "d_model"}, ("schedule.peak_lr", "linear")),
        ({"lora__rank": 8, "lora__alpha": 4}, ("freeze=encoder",)),
        ({"processes__shard": "true"}, ("lora.rank",)),
    ],
)
def test_the_default_space_suits_the_recipe(fields: dict[str, Any], missing: tuple[str, ...]) -> None:
    texts = space_of(**fields).texts
    assert len(texts) >= 5
    assert "epochs=2|4|8" in texts
    for word in missing:
        assert not any(word in text for text in texts)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["epochs"], "--space epochs: write FIELD=VALUE"),
        (["epochs=4"], "leaves nothing to choose"),
        (["epochs=4||5"], "leaves nothing to choose"),
        (["epochs=6..2"], "takes two whole numbers, the lower one first"),
        (["epochs=1.5..2"], "takes two whole numbers"),
        (["optimizer.weight_decay=0..1 log"], "takes two numbers above 0"),
        (["optimizer.weight_decay=1x..2x"], "x stands for the rate that auto takes"),
        (["epoch=1|2"], "unknown field 'epoch'; did you mean 'epochs'"),
        (["epochs=1|many"], "epochs is 'many'; it takes a whole number"),
        (["loss.label_smoothing=0..2"], "loss.label_smoothing is 2.0; it must be"),
        (["freeze=encoder|lora.ranks=2"], "unknown field 'lora.ranks'"),
        (["freeze=encoder|frosty"], "freeze is 'frosty'"),
        (["freeze=encoder|lora.rank=2", "lora.rank=2|4"], "another --space sets lora.rank as well"),
        (["valid=a.csv|b.csv"], "valid must be the same in all trials"),
        (["validation.patience=1|2"], "validation.patience must be the same in all trials"),
        (["seed=1|2"], "seed must be the same in all trials"),
    ],
)
def test_what_is_refused(texts: list[str], message: str) -> None:
    with pytest.raises(RecipeError) as refused:
        space_of(*texts)
    assert message in str(refused.value)


def test_a_section_of_the_recipe() -> None:
    fields = without_section(
        {"tune.trials": 5, "tune.space.loss.label_smoothing": [0, 0.1], "tune.space.epochs": "1..3", "epochs": 2}
    )
    options = parse_fields(TuneOptions, FIELDS | fields, ["--trials=7"], command="tune")
    assert (options.trials, options.recipe.epochs) == (7, 2)
    assert options.space == ("loss.label_smoothing=0|0.1", "epochs=1..3")
    assert without_section({"tune.space": ["epochs=1..3"]}) == {"space": ["epochs=1..3"]}
    with pytest.raises(RecipeError, match=r"both as a list and as a mapping"):
        without_section({"tune.space": ["epochs=1..3"], "tune.space.epochs": "1..3"})
    with pytest.raises(RecipeError, match=r"the section `tune` is for `whispertune tune`"):
        parse_fields(Recipe, FIELDS | {"tune.trials": 5}, [], command="train")
    with pytest.raises(RecipeError, match=r"seeds is given, but tune compares settings with one seed"):
        parse_fields(TuneOptions, FIELDS | {"seeds": "1,2"}, [], command="tune")
