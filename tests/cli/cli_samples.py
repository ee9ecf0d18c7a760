"""A few real clips in a folder of the test's own, and what a command line came to."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "italian-prompts"


def example_rows(split: str, count: int) -> list[dict[str, str]]:
    """Rows of the shortest texts of an example manifest, with absolute paths."""
    with (EXAMPLE / f"{split}.csv").open(newline="", encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: len(row["text"]))
    return [{**row, "audio": str(EXAMPLE / row["audio"])} for row in rows[:count]]


def write_manifest(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def _names(flags: Sequence[str]) -> set[str]:
    return {flag[2:].partition("=")[0].replace("-", "_") for flag in flags if flag.startswith("--")}


@dataclass
class Workspace:
    """Manifests of a few clips in a folder of the test's own."""

    folder: Path
    model: Path
    train_rows: list[dict[str, str]] = field(default_factory=lambda: example_rows("train", 8))
    valid_rows: list[dict[str, str]] = field(default_factory=lambda: example_rows("valid", 3))

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def train(self, *flags: str, without: Sequence[str] = ()) -> list[str]:
        """`train` arguments: these flags, and what else a quick run needs."""
        train = write_manifest(self.folder / "train.csv", self.train_rows)
        valid = write_manifest(self.folder / "valid.csv", self.valid_rows)
        needed = {
            "model": self.model,
            "train": train,
            "valid": valid,
            "output": self.run,
            "language": "it",
            "epochs": 1,
            "precision": "fp32",
            "batch_size": 4,
            "data.workers": 1,
            "report": "false",
        }
        given = [f"--{name}={value}" for name, value in needed.items() if name not in (*without, *_names(flags))]
        return ["train", *given, *flags]

    def evaluate(self, *flags: str) -> list[str]:
        data = write_manifest(self.folder / "data.csv", self.valid_rows)
        needed = {"model": self.model, "data": data, "language": "it", "precision": "fp32", "beam_size": 1}
        given = [f"--{name}={value}" for name, value in needed.items() if name not in _names(flags)]
        return ["evaluate", *given, *flags]


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of the error."""
        (line,) = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert self.err.splitlines()[-1] == line
        assert "Traceback" not in self.err
        return line


Command = Callable[[Sequence[str]], Outcome]
