"""One run as data: the fields of a recipe, from YAML and the command line, validated."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml

from whispertune.augment.options import AugmentOptions
from whispertune.data.options import TrainingDataOptions
from whispertune.data.remote import is_remote
from whispertune.dataset.options import WindowOptions
from whispertune.decoding.options import SearchOptions, require_used_glossary
from whispertune.errors import RecipeError
from whispertune.evaluation.options import ValidationOptions
from whispertune.features.options import FrameOptions
from whispertune.model.options import LoraOptions, LossOptions
from whispertune.run.options import CardOptions, ModelOptions
from whispertune.run.yaml_fields import flatten
from whispertune.states.options import StateOptions
from whispertune.system.fields import Bounds, PositiveInt, Seed
from whispertune.system.options import DeviceOptions, ProcessOptions
from whispertune.text.options import TextOptions
from whispertune.training.options import (
    AverageOptions,
    BatchOptions,
    CheckpointOptions,
    OptimizerOptions,
    ScheduleOptions,
    parse_freeze,
)

FREE_TO_CHANGE = (
    "output", "data.workers", "data.max_excluded", "checkpoint.every_minutes", "checkpoint.every_steps",
    "checkpoint.dtype", "states.folder", "states.max_gb", "states.verify", "processes.timeout_minutes",
    "processes.shard", "report", "log", "card.license", "card.data_license", "deterministic", "base",
)  # fmt: skip
"""Fields that decide no result (`processes.shard`, `deterministic`, `checkpoint.dtype` but for rounding; of `base` the
content is compared, as that of the model): a run may be resumed with other values."""


TEST_NAME = re.compile("[A-Za-z0-9_-]{1,40}")
"""The name of a further test set, which also names its folder in RUN/test."""


@dataclass(frozen=True, kw_only=True)
class Recipe(DeviceOptions, ModelOptions):
    """Model, data and training."""

    train: str
    """Training data: a manifest (CSV, TSV, JSONL), a corpus in another known format, or several of them as
    'A [language=it weight=2] + B' (see docs/data.md)."""

    valid: str
    """Validation data, which chooses the checkpoint: in the same form as train, with none of its recordings in it. For
    a corpus that comes in splits (Common Voice), name the corpus again."""

    output: str
    """Run folder. If it holds this very run already, the run is resumed."""

    test: str | None = None
    """Test data, scored once at the end."""

    also_test: tuple[str, ...] = ()
    """Further test sets, each as NAME=F: what the model may have forgotten ('english=F [language=en]'), or another
    domain. The untouched and the fine-tuned model are scored on each (greedy, dense), and compared by a paired test."""

    language: str | None = None
    """Language spoken (it, Italian, …), for rows that name none."""

    epochs: PositiveInt = 4
    """Number of passes over the training data."""

    max_steps: Annotated[int | None, Bounds(ge=1)] = None
    """Stop after this many optimizer updates, whatever `epochs` says."""

    seed: Seed = 0
    """Random seed for shuffling, stitching and augmentation."""

    seeds: str | None = None
    """Train once with each of these seeds (0,1,2): --output then holds a run for each (seed-0, …), and a page that
    compares them, with mean and standard deviation."""

    batch_size: PositiveInt = 8
    """Utterances per micro-batch and process, before the copies of augment.keep_original."""

    accumulation: PositiveInt = 2
    """Micro-batches per process in an optimizer update."""

    freeze: str = "encoder"
    """What to freeze: encoder, none, encoder:N (its convolutions and first N layers) or decoder:N (the encoder, and
    position embeddings and layers below N of the decoder); -N means all but the last N layers. `auto` freezes the lower
    third of the encoder: more accurate than a frozen encoder, and two epochs of it take a little longer than four.
    Append `,embeddings` to freeze the token embeddings, too."""

    recompute: bool = False
    """Activation checkpointing: recompute activations inside the layers in the backward pass instead of keeping them.
    It takes less memory, mostly where the encoder is trained, for about a third more time; the updates are the same."""

    deterministic: bool = False
    """Compute the same bits each time on a GPU of one kind, which may take longer. On a CPU they always are the same
    for the same number of threads."""

    report: bool = True
    """Write RUN/report.html at the end of the run, as `whispertune report RUN` does."""

    log: str | None = None
    """Further loggers, separated by commas: tensorboard (event files in RUN/tensorboard), wandb, mlflow. Each needs the
    extra of its name; wandb and mlflow are set up by their own environment variables."""

    batch: BatchOptions = field(default_factory=BatchOptions)
    lora: LoraOptions = field(default_factory=LoraOptions)
    schedule: ScheduleOptions = field(default_factory=ScheduleOptions)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    loss: LossOptions = field(default_factory=LossOptions)
    frames: FrameOptions = field(default_factory=FrameOptions)
    windows: WindowOptions = field(default_factory=WindowOptions)
    states: StateOptions = field(default_factory=StateOptions)
    augment: AugmentOptions = field(default_factory=AugmentOptions)
    validation: ValidationOptions = field(default_factory=ValidationOptions)
    search: SearchOptions = field(default_factory=SearchOptions)
    average: AverageOptions = field(default_factory=AverageOptions)
    checkpoint: CheckpointOptions = field(default_factory=CheckpointOptions)
    data: TrainingDataOptions = field(default_factory=TrainingDataOptions)
    text: TextOptions = field(default_factory=TextOptions)
    processes: ProcessOptions = field(default_factory=ProcessOptions)
    card: CardOptions = field(default_factory=CardOptions)

    @property
    def also_tests(self) -> dict[str, str]:
        """The further test sets by name."""
        return {name.strip(): data.strip() for name, _, data in (entry.partition("=") for entry in self.also_test)}

    @property
    def what_learns(self) -> str:
        """The parameters that learn, for people to read."""
        lora = self.lora
        if not lora.rank:
            return f"freeze: {self.freeze}"
        return f"LoRA of rank {lora.rank}, alpha {lora.resolved_alpha:g}, targets {lora.targets}, where {lora.where}"

    @property
    def loggers(self) -> list[str]:
        """The names in `log`."""
        return [name.strip() for name in (self.log or "").split(",") if name.strip()]

    @property
    def each_seed(self) -> list[int]:
        """The seeds of `seeds`."""
        return [int(part) for part in (self.seeds or "").split(",") if part.strip()]

    def check(self) -> None:
        super().check()
        frozen, _, decoder_layers, _ = parse_freeze(self.freeze)
        learns = self.lora.where == "both" if self.lora.rank else frozen != "encoder" and decoder_layers is None
        if self.schedule.encoder_scale != 1 and not learns:
            remedy = "--lora.where both" if self.lora.rank else "--freeze auto"
            problem = f"is {self.schedule.encoder_scale:g}, but nothing of the encoder learns; add {remedy}"
            raise RecipeError(problem, field="schedule.encoder_scale", others=("freeze", "lora.where"))
        require_used_glossary(self.search, "search.glossary")
        if unknown := set(self.loggers) - {"tensorboard", "wandb", "mlflow"}:
            problem = f"is {self.log!r}; {min(unknown)!r} is not among tensorboard, wandb and mlflow"
            raise RecipeError(problem, field="log")
        if self.seeds is not None:
            parts = [part.strip() for part in self.seeds.split(",")]
            if not all(re.fullmatch("[0-9]{1,18}", part) for part in parts) or len(set(map(int, parts))) < len(parts):
                raise RecipeError(f"is {self.seeds!r}; it takes different whole numbers, such as 0,1,2", field="seeds")
            if self.seed != Recipe.seed:
                raise RecipeError(f"is {self.seed}, but seeds is given as well; leave one out", field="seed")
        if self.lora.rank and self.freeze != Recipe.freeze:
            problem = (
                f"is {self.freeze!r}, but with lora.rank nothing learns but the adapter; leave freeze out (lora.where "
                "and lora.targets say what the adapter is for)"
            )
            raise RecipeError(problem, field="freeze", others=("lora.rank",))
        if self.lora.rank and self.processes.shard:
            problem = "is true, but with lora.rank there is hardly anything to shard; leave it out"
            raise RecipeError(problem, field="processes.shard", others=("lora.rank",))
        if self.average.mix and self.lora.rank:
            problem = "is given, but goes with no adapter: with lora.rank, lower lora.alpha instead"
            raise RecipeError(problem, field="average.mix", others=("lora.rank",))
        if (self.average.mix or self.average.epochs > 1) and self.processes.shard:
            raise RecipeError("is true, which average.* cannot go with; leave one out", field="processes.shard")
        if self.batch.auto and self.processes.shard:
            problem = "is true, but processes that shard a model cannot try sizes one by one; leave one out"
            raise RecipeError(problem, field="batch.auto", others=("processes.shard",))
        if self.optimizer.name == "adamw8bit" and self.processes.shard:
            problem = "is adamw8bit, whose moments processes.shard cannot divide; leave one out"
            raise RecipeError(problem, field="optimizer.name", others=("processes.shard",))
        for entry in self.also_test:
            name, _, data = (part.strip() for part in entry.partition("="))
            if not TEST_NAME.fullmatch(name) or name in ("train", "valid", "test") or not data:
                problem = (
                    f"is {entry!r}; write NAME=F, such as english=F, with a name of letters, digits, - and _ that is "
                    "not train, valid or test"
                )
                raise RecipeError(problem, field="also_test")
        if len(self.also_tests) < len(self.also_test):
            raise RecipeError("gives one name to two test sets; rename one", field="also_test")
        if self.states.store in ("memory", "disk") and self.augment.enabled and self.augment.views == "fresh":
            problem = (
                f"is {self.states.store}, but augment.views is fresh: augmented states change in every epoch; take "
                "auto or off, or give a number of views"
            )
            raise RecipeError(problem, field="states.store", others=("augment.views",))


def from_recipes_folder(fields: Mapping[str, Any], recipe: Path) -> dict[str, Any]:
    """The fields of a recipe file with its relative paths found: from the working folder or, where nothing lies there,
    from the folder of the recipe. What is found in neither stays as it is.
    """

    def found(path: str) -> str:
        beside = str(recipe.parent / path)
        # A name may hold a range of shards, so that only the folder can be looked for.
        here, there = (path, beside) if "{" not in path else (str(Path(path).parent), str(Path(beside).parent))
        relative = path and not path.startswith(ELSEWHERE) and not is_remote(path) and not Path(path).is_absolute()
        return beside if relative and not exists(here) and exists(there) else path

    moved = dict(fields)
    for name in ("model", "base", "augment.noise.folder", "data.exclude", "text.replacements", "search.glossary"):
        if isinstance(moved.get(name), str):
            moved[name] = found(moved[name])

    def found_sources(described: str) -> str:
        if exists(described):
            return described
        parts = [SOURCE.fullmatch(part) for part in described.split(" + ")]
        return " + ".join(found(part[1]) + (part[2] or "") for part in parts if part is not None)

    for name in ("train", "valid", "test"):
        if isinstance(moved.get(name), str):
            moved[name] = found_sources(moved[name])
    also = moved.get("also_test")
    if isinstance(also, list | tuple) and all(isinstance(entry, str) and "=" in entry for entry in also):
        named = (entry.partition("=") for entry in also)
        moved["also_test"] = [f"{name}={found_sources(data.strip())}" for name, _, data in named]
    return moved


def exists(path: str) -> bool:
    """Whether there is such a file; no name is too long to ask."""
    return os.path.exists(path)  # noqa: PTH110 - Path.exists raises OSError for a name that no file can have


ELSEWHERE = ("~", "hub:", "packaged:")
SOURCE = re.compile(r"(.*?)(\s*\[[^\[\]]*=[^\[\]]*\]\s*)?", re.DOTALL)
"""A source and its options."""


def to_mapping(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data, as `recipe.yaml` holds it."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(entry) for key, entry in value.items()}
        return [plain(entry) for entry in value] if isinstance(value, list | tuple) else value

    mapping: dict[str, Any] = plain(dataclasses.asdict(recipe))
    return mapping


def to_yaml(recipe: Recipe) -> str:
    """The recipe as YAML."""
    return yaml.safe_dump(to_mapping(recipe), sort_keys=False, allow_unicode=True)


def differing_fields(ours: Recipe, theirs: Recipe, *, ignored: Sequence[str] = ()) -> list[str]:
    """Dotted fields in which two recipes differ, as `field (ours, theirs)`."""
    a, b = flatten(to_mapping(ours)), flatten(to_mapping(theirs))
    return [
        f"{name} ({a.get(name)}, {b.get(name)})" for name in a | b if name not in ignored and a.get(name) != b.get(name)
    ]
