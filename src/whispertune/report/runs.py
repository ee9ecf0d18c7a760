"""Reading a run folder: its recipe, its metrics, and the transcripts before and after training."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from whispertune.checkpoints.checksums import read_about
from whispertune.data.readers.hub_data import PREFIX
from whispertune.data.segments import merge_segments
from whispertune.data.sources import parse_sources, read_rows
from whispertune.data.utterances import Utterance, Utterances
from whispertune.errors import RunFolderError, UserError
from whispertune.run.flags import parse_fields
from whispertune.run.recipe import Recipe, from_recipes_folder
from whispertune.run.run_folder import RunFolder
from whispertune.run.yaml_fields import load_yaml
from whispertune.training.resume import read_progress

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Scored:
    """A model's outputs for a split: the row of metrics.jsonl, and the rows of its hypotheses if they were kept.

    damaged: how many lines of the hypotheses cannot be used.
    """

    metrics: Row
    rows: list[Row] = field(default_factory=list)
    damaged: int = 0


@dataclass(frozen=True)
class Pair:
    """The pretrained and the fine-tuned model on a split, decoded in the same way."""

    split: str
    search: str
    frames: str
    before: Scored
    after: Scored

    @property
    def leading(self) -> str:
        """WER, CER or MER: the rate that a model is chosen by."""
        return str(self.after.metrics["leading"])

    @cached_property
    def matched(self) -> list[tuple[Row, Row]]:
        """The rows of the utterances that both decoded; empty if their transcripts were not kept."""
        before = {row["id"]: row for row in self.before.rows}
        return [(before[row["id"]], row) for row in self.after.rows if row["id"] in before]


@dataclass(frozen=True)
class Run:
    """One run. fields: of its recipe, dotted. updates, valid, tests (of all test sets): rows of metrics.jsonl. damaged:
    how many of its lines cannot be read. finished: None if the training state was removed."""

    folder: RunFolder
    name: str
    recipe: Recipe
    fields: dict[str, Any]
    environment: dict[str, Any]
    updates: list[Row]
    valid: list[Row]
    tests: list[Row]
    excluded: list[Row]
    damaged: int
    finished: bool | None
    stages: list[Row] = field(default_factory=list)

    @cached_property
    def baseline(self) -> Row | None:
        """The pretrained model's row for valid."""
        return next((row for row in self.valid if row.get("model") == "baseline"), None)

    @cached_property
    def chosen(self) -> Row | None:
        """The row of the model in best/ or, where that is unknown, the lowest rate; of equal ones the newest."""
        trained = [row for row in self.valid if row.get("model") != "baseline"]
        about = read_about(self.folder.best)
        for row in reversed(trained):
            if (row["step"], row.get("model")) == (about.get("step"), about.get("model")):
                return row
        return min(reversed(trained), key=lambda row: row["leading_rate"], default=None)

    @property
    def chosen_step(self) -> int | None:
        """The update of the best validation."""
        return None if self.chosen is None else int(self.chosen["step"])

    @cached_property
    def kept_pretrained(self) -> bool:
        """Whether best/ holds the pretrained model because training made it significantly worse."""
        return bool(self.finished) and read_about(self.folder.best).get("step") == 0

    @cached_property
    def pairs(self) -> list[Pair]:
        """Before and after: on further test sets, on valid, and by each search on test, the most important one last."""
        pairs = [pair for name in self.recipe.also_tests for pair in self._tested(name)]
        if self.baseline is not None and self.chosen is not None:
            before, after = (
                Scored(row, *_read_hypotheses(self.folder.validation(row["step"], row["model"])))
                for row in (self.baseline, self.chosen)
            )
            pairs.append(Pair("valid", "greedy", str(after.metrics.get("frames", "")), before, after))
        return pairs + self._tested("test")

    def _tested(self, split: str) -> list[Pair]:
        """Before and after on one test set, by each search."""
        pairs = []
        rows = [row for row in self.tests if row["split"] == split]
        of_best = [row for row in rows if row.get("model") == "best"]
        widest = max((row["beam_size"] for row in of_best), default=0)
        for row in of_best:
            beam = row["beam_size"]
            pretrained = next((r for r in rows if r.get("model") == "baseline" and r["beam_size"] == beam), None)
            if pretrained is None:
                continue
            files = (self.folder.baseline_hypotheses(split), self.folder.hypotheses(split)) if beam == widest else ()
            outputs = [_read_hypotheses(file) for file in files] or [([], 0), ([], 0)]
            before, after = (Scored(one, *found) for one, found in zip((pretrained, row), outputs, strict=True))
            pairs.append(Pair(split, "greedy" if beam == 1 else f"beam {beam}", str(row["frames"]), before, after))
        return pairs

    @property
    def transcripts(self) -> Pair | None:
        """The pair whose transcripts are shown: the last one of which they were kept."""
        return next((pair for pair in reversed(self.pairs) if pair.matched), None)

    def described(self, split: str) -> str | None:
        """What a split was read from, as in the recipe."""
        found: str | None = self.recipe.also_tests.get(split) or getattr(self.recipe, split, None)
        return found

    def utterances(self, split: str) -> Mapping[str, Utterance]:
        """The rows of a split by id; empty if its corpus cannot be read any more, or only from the Hub."""
        described, options = self.described(split), self.recipe.data
        try:
            if described is None or any(source.path.startswith(PREFIX) for source in parse_sources(described)):
                return {}
            part = split if split in ("train", "valid") else "test"
            rows: Sequence[Utterance] = (found := read_rows(part, described, options.reading))
            if options.merge_segments:
                rows = merge_segments(found, options.merge_segments, lambda row: bool(row.text))
        except (UserError, OSError):
            return {}
        return _ById(rows)


def repeats(row: Row) -> bool:
    """Whether an output of hypotheses.jsonl repeats itself; older versions only recorded loops that were cut."""
    return bool(row.get("repeats", row.get("looped")))


class _ById(Mapping[str, Utterance]):
    """Rows by id, each created on access."""

    def __init__(self, rows: Sequence[Utterance]) -> None:
        self._rows = rows
        ids = rows.strings(range(len(rows)))[0] if isinstance(rows, Utterances) else [row.id for row in rows]
        self._places = {id_: place for place, id_ in enumerate(ids)}

    def __getitem__(self, id_: str) -> Utterance:
        return self._rows[self._places[id_]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def seed_folders(path: Path) -> list[Path]:
    """The runs in a folder of `train --seeds`, by seed; empty if it is none."""
    found = {
        int(folder.name.removeprefix("seed-")): folder
        for folder in path.glob("seed-*")
        if folder.name.removeprefix("seed-").isdecimal() and RunFolder(folder).recipe.is_file()
    }
    return [] if RunFolder(path).metrics.exists() else [found[seed] for seed in sorted(found)]


def read_run(path: Path) -> Run:
    """Read a run folder, of a finished run or of one in progress.

    Raises:
        UserError: if the folder holds no run, or nothing has been measured yet.
    """
    folder = RunFolder(path)
    if not folder.recipe.is_file():
        raise RunFolderError(f"{path}: no run here (no recipe.yaml); name the --output of a train command")
    fields = from_recipes_folder(load_yaml(folder.recipe), folder.recipe)
    recipe = parse_fields(Recipe, fields, [], command="train", where=str(folder.recipe))
    rows, damaged = _read_rows(folder.metrics)
    updates = [row for row in rows if "split" not in row and "step" in row]
    scored = [row for row in rows if {"split", "leading", "leading_rate", "step"} <= row.keys()]
    if not rows:
        raise RunFolderError(f"{folder.metrics}: nothing has been measured yet; wait until training has started")
    return Run(
        folder, path.resolve().name, recipe, fields, _environment(folder), updates,
        [row for row in scored if row["split"] == "valid"], [row for row in scored if row["split"] != "valid"],
        _read_rows(folder.excluded)[0], damaged, _finished(folder),
        [row for row in _read_rows(folder.stages)[0] if {"stage", "seconds"} <= row.keys()],
    )  # fmt: skip


def _environment(folder: RunFolder) -> dict[str, Any]:
    try:
        found = json.loads(folder.environment.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _finished(folder: RunFolder) -> bool | None:
    try:
        return read_progress(folder.state).finished
    except (UserError, TypeError):
        return None


COUNTED = ("word_errors", "words", "character_errors", "characters")
"""Fields of a hypothesis that every report needs, besides its id and texts."""


def _read_hypotheses(path: Path) -> tuple[list[Row], int]:
    """The rows of a hypotheses file that a report can use, and how many others there are."""
    rows, damaged = _read_rows(path)
    usable = [
        row
        for row in rows
        if all(type(row.get(name)) is str for name in ("id", "reference", "hypothesis"))
        and all(type(row.get(name)) is int for name in COUNTED)
    ]
    return usable, damaged + len(rows) - len(usable)


def _read_rows(path: Path) -> tuple[list[Row], int]:
    """The objects of a JSONL, and how many of its lines are damaged (a running training may be writing one)."""
    rows: list[Row] = []
    damaged = 0
    try:
        content = path.read_bytes()
    except OSError:
        return rows, damaged
    for line in content.split(b"\n"):
        try:
            row = json.loads(line) if line else None
        except (ValueError, RecursionError):
            row = False
        if isinstance(row, dict):
            rows.append(row)
        elif row is not None:
            damaged += 1
    return rows, damaged
