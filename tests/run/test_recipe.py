"""The recipe as data, and the recipes that come with whispertune."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml

from whispertune.errors import RecipeError
from whispertune.run.flags import parse_fields
from whispertune.run.recipe import Recipe, differing_fields, from_recipes_folder, to_mapping, to_yaml
from whispertune.run.yaml_fields import load_yaml

RECIPES = Path(__file__).parents[2] / "recipes"


def recipe(**fields: object) -> Recipe:
    given = {"model": "m", "train": "t", "valid": "v", "output": "o", **fields}
    return parse_fields(Recipe, given, [], command="train")


def shipped(name: str) -> Recipe:
    fields = load_yaml(RECIPES / f"{name}.yaml")
    needed = {"train": "t", "valid": "v", "output": "o"}
    flags = [f"--{field}={value}" for field, value in needed.items() if field not in fields]
    return parse_fields(Recipe, fields, flags, command="train")


def test_reference_is_the_fields_usual_fine_tuning() -> None:
    reference = shipped("reference")
    assert reference.freeze == "encoder"
    assert (reference.batch_size, reference.accumulation) == (8, 2)
    schedule = reference.schedule
    assert (schedule.name, schedule.scale, schedule.peak_lr, schedule.warmup_steps) == ("noam", "peak", 1e-5, 500)
    assert (reference.optimizer.weight_decay, reference.optimizer.max_grad_norm) == (0.01, 2.0)
    assert reference.search.beam_size == 8
    assert reference.frames.selection == "dense"  # as everybody else computes it
    assert reference.windows.stitched_share == 0
    # Data and language are the user's: no run is to test on, or learn, what nobody asked for.
    assert not {"train", "valid", "test", "language", "output"} & set(load_yaml(RECIPES / "reference.yaml"))
    assert not reference.augment.enabled


def test_demo_needs_nothing_but_this_repository() -> None:
    demo = shipped("demo")
    assert demo.model.startswith("packaged:")
    for manifest in (demo.train, demo.valid):
        assert (RECIPES.parent / manifest).is_file()


def test_mapping_is_plain_data_in_the_order_of_the_fields() -> None:
    mapping = to_mapping(recipe())
    assert list(mapping) == [field.name for field in dataclasses.fields(Recipe)]
    assert mapping["augment"]["speed"]["factors"] == [0.95, 1.0, 1.05]
    assert yaml.safe_load(to_yaml(recipe())) == mapping


def test_differing_fields() -> None:
    ours = recipe(epochs=2, **{"schedule.name": "wsd", "data.workers": 1})
    theirs = recipe(**{"augment.speed.factors": [1.1], "data.workers": 5})
    assert differing_fields(ours, theirs, ignored=["data.workers"]) == [
        "epochs (2, 4)",
        "schedule.name (wsd, noam)",
        "augment.speed.factors ([0.95, 1.0, 1.05], [1.1])",
    ]
    assert differing_fields(ours, ours) == []


def test_recipes_are_checked_when_made_in_python_too() -> None:
    with pytest.raises(RecipeError, match="epochs is 0"):
        Recipe(model="m", train="t", valid="v", output="o", epochs=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe().epochs = 3  # type: ignore[misc]


def test_relative_paths_are_tried_from_the_recipes_folder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder goes first; options of a source, ranges of shards and names of models stay."""
    beside, here = tmp_path / "beside", tmp_path / "here"
    for folder in (beside, here):
        (folder / "data").mkdir(parents=True)
        (folder / "both.csv").touch()
    (beside / "data" / "train.csv").touch()
    monkeypatch.chdir(here)
    fields = {
        "model": "openai/whisper-base", "train": "data/train.csv [language=it weight=2] + both.csv + hub:some/data",
        "valid": "nowhere.csv", "test": "shards/s-{000..001}.tar", "epochs": 2,
    }  # fmt: skip
    (beside / "shards").mkdir()
    found = from_recipes_folder(fields, beside / "recipe.yaml")
    assert found == {
        **fields,
        "train": f"{beside}/data/train.csv [language=it weight=2] + both.csv + hub:some/data",
        "test": f"{beside}/shards/s-{{000..001}}.tar",
    }
