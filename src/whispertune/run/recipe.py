"""One run as data: the fields of a recipe, from YAML and the command line, validated."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from whispertune.augment.options import AugmentOptions
from whispertune.data.options import DataOptions
from whispertune.dataset.options import WindowOptions
from whispertune.decoding.options import SearchOptions
from whispertune.errors import RecipeError
from whispertune.evaluation.options import ValidationOptions
from whispertune.features.options import FrameOptions
from whispertune.model.options import LossOptions
from whispertune.run.yaml_fields import flatten
from whispertune.states.options import StateOptions
from whispertune.system.options import PrecisionName, ProcessOptions
from whispertune.training.options import (
    BatchOptions,
    CheckpointOptions,
    OptimizerOptions,
    ScheduleOptions,
    parse_freeze,
)

FREE_TO_CHANGE = (
    "output", "data.workers", "data.max_excluded", "checkpoint.every_minutes", "checkpoint.every_steps",
    "states.folder", "states.max_gb", "states.verify", "processes.timeout_minutes", "processes.shard",
)  # fmt: skip
"""Fields that decide no result (`processes.shard` but for rounding): a run may be resumed with other values."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a run."""

    model: str
    """What to fine-tune: a folder, an OpenAI .pt (with a tokenizer.json beside it, or openai-whisper installed), a Hub
    id (openai/whisper-base), a run, or packaged:whisper-base."""

    train: str
    """The training utterances: a manifest (CSV, TSV, JSONL), a corpus in another known format, or several as
    'A [language=it weight=2] + B' (see docs/data.md)."""

    valid: str
    """The utterances that choose the checkpoint, written as train is, and none of them in it; a corpus that comes in
    splits (Common Voice) is named again."""

    output: str
    """Run folder; if it holds this very run already, it is resumed."""

    test: str | None = None
    """The utterances that are scored once, at the end."""

    language: str | None = None
    """Language spoken (it, Italian, …), where a row names none."""

    language_token: str | None = None
    """A language of Whisper's whose token stands for `language`: for one that Whisper does not know (--language sc
    --language_token it). The saved model knows its language by either name."""

    task: Literal["transcribe", "translate"] = "transcribe"
    """What to learn, where a row names none."""

    epochs: int = 4
    """Passes over the training utterances."""

    max_steps: int | None = None
    """Stop after so many optimiser updates, whatever `epochs` says."""

    seed: int = 0
    """Of shuffling, stitching and augmentation."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""

    precision: PrecisionName = "auto"
    """Of matrix products and stored states; parameters stay fp32. auto: bf16 where the hardware multiplies it fast,
    else fp16 on a GPU, fp32 on a CPU. tf32: fp32 with products rounded by the GPU."""

    batch_size: int = 8
    """Utterances in a micro-batch of one process, before keep_original copies."""

    accumulation: int = 2
    """Micro-batches of each process in an optimiser update."""

    freeze: str = "encoder"
    """What does not learn: encoder, none, encoder:N (first N layers), decoder:N (all below decoder layer N);
    with `,embeddings` behind it the token embeddings neither."""

    recompute: bool = False
    """Activation checkpointing: keep no activations inside the layers for the backward pass but compute them again
    there. Less memory, mostly where the encoder learns, for about a third more time; the same updates."""

    batch: BatchOptions = field(default_factory=BatchOptions)
    schedule: ScheduleOptions = field(default_factory=ScheduleOptions)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    loss: LossOptions = field(default_factory=LossOptions)
    frames: FrameOptions = field(default_factory=FrameOptions)
    windows: WindowOptions = field(default_factory=WindowOptions)
    states: StateOptions = field(default_factory=StateOptions)
    augment: AugmentOptions = field(default_factory=AugmentOptions)
    validation: ValidationOptions = field(default_factory=ValidationOptions)
    search: SearchOptions = field(default_factory=SearchOptions)
    checkpoint: CheckpointOptions = field(default_factory=CheckpointOptions)
    data: DataOptions = field(default_factory=DataOptions)
    processes: ProcessOptions = field(default_factory=ProcessOptions)

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulation"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.max_steps is not None and self.max_steps < 1:
            raise RecipeError(f"max_steps is {self.max_steps}; it must be at least 1")
        if self.language_token is not None and self.language is None:
            raise RecipeError("language_token is given without language: name the language that borrows it")
        if self.seed < 0:
            raise RecipeError(f"seed is {self.seed}; it must be at least 0")
        parse_freeze(self.freeze)
        if self.states.store in ("memory", "disk") and self.augment.enabled and self.augment.views == "fresh":
            raise RecipeError(
                f"states.store is {self.states.store}, but augment.views is fresh: augmented states change in every "
                "epoch; take auto or off, or give a number of views"
            )


def from_recipes_folder(fields: Mapping[str, Any], recipe: Path) -> dict[str, Any]:
    """The fields of a recipe file with its relative paths found: from the working folder or, where nothing lies there,
    from the folder of the recipe. What is found in neither stays as it is.
    """

    def found(path: str) -> str:
        beside = str(recipe.parent / path)
        # A name may hold a range of shards, so that only the folder can be looked for.
        here, there = (path, beside) if "{" not in path else (str(Path(path).parent), str(Path(beside).parent))
        relative = path and not path.startswith(("~", "hub:", "packaged:")) and not Path(path).is_absolute()
        return beside if relative and not exists(here) and exists(there) else path

    moved = dict(fields)
    for name in ("model", "augment.noise.folder"):
        if isinstance(moved.get(name), str):
            moved[name] = found(moved[name])
    for name in ("train", "valid", "test"):
        if isinstance(moved.get(name), str) and not exists(moved[name]):
            parts = [SOURCE.fullmatch(part) for part in moved[name].split(" + ")]
            moved[name] = " + ".join(found(part[1]) + (part[2] or "") for part in parts if part is not None)
    return moved


def exists(path: str) -> bool:
    """Whether there is such a file; no name is too long to ask."""
    return os.path.exists(path)  # noqa: PTH110 - Path.exists raises OSError for a name that no file can have


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
