"""A tiny model, a few real clips, and the command line to run on them."""

from __future__ import annotations

import csv
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "checkpoints"))
import checkpoint_samples

from whispertune.checkpoints.generation import complete_generation, complete_preprocessor
from whispertune.checkpoints.huggingface import save_huggingface
from whispertune.checkpoints.layout import Checkpoint, expected_shapes
from whispertune.checkpoints.tokenizer_files import build_tokenizer, complete_tokenizer
from whispertune.cli import main

EXAMPLE = Path(__file__).parents[2] / "examples" / "italian-prompts"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny products are slowed down by threads, and the machine may be busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _no_traceback_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WHISPERTUNE_TRACEBACK", raising=False)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Whisper folder of random weights, with as many tokens as a multilingual one must have (99 languages)."""
    folder = tmp_path_factory.mktemp("tiny-model")
    alphabet = checkpoint_samples.byte_alphabet()
    unused = [f"unused{number}" for number in range(50_257 - len(alphabet))]
    vocab = {token: number for number, token in enumerate([*alphabet, *unused, "<|endoftext|>"])}
    shift = len(vocab) - len(checkpoint_samples.VOCAB)
    specials = {name: number + shift for name, number in checkpoint_samples.SPECIALS.items()}
    config = replace(checkpoint_samples.CONFIG, vocab_size=51_865)
    tokenizer, ids = complete_tokenizer(build_tokenizer(vocab, [], specials), config.vocab_size, "tiny")
    generation = complete_generation({"is_multilingual": True}, config, ids, "tiny")
    generator = torch.Generator().manual_seed(0)
    checkpoint = Checkpoint(
        config=config,
        weights={n: 0.05 * torch.randn(shape, generator=generator) for n, shape in expected_shapes(config).items()},
        tokenizer_json=tokenizer,
        generation=generation,
        preprocessor=complete_preprocessor({}, config, "tiny"),
        source="tiny",
        digest="",
        pad_token_id=generation["pad_token_id"],
    )
    save_huggingface(folder, checkpoint, checkpoint.weights, language=None, model_card=None)
    return folder


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
        }
        given = [f"--{name}={value}" for name, value in needed.items() if name not in without]
        return ["train", *given, *flags]

    def evaluate(self, *flags: str) -> list[str]:
        data = write_manifest(self.folder / "data.csv", self.valid_rows)
        given = [f"--model={self.model}", f"--data={data}", "--language=it", "--precision=fp32", "--beam-size=1"]
        return ["evaluate", *given, *flags]


@pytest.fixture
def workspace(tmp_path: Path, tiny_model: Path) -> Workspace:
    return Workspace(tmp_path, tiny_model)


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


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command line in this process."""

    def run(arguments: Sequence[str]) -> Outcome:
        capsys.readouterr()
        status = main(list(arguments))
        captured = capsys.readouterr()
        return Outcome(status, captured.out, captured.err)

    return run


@pytest.fixture
def refused(command: Command) -> Callable[..., str]:
    """Run a command line that must end in one error line with these parts, exit status 2."""

    def run(arguments: Sequence[str], *parts: str) -> str:
        outcome = command(arguments)
        assert outcome.status == 2, outcome.err
        for part in parts:
            assert part in outcome.error, outcome.error
        return outcome.error

    return run


@pytest.fixture(scope="session")
def finished_run(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A run that has been trained to its end; to be copied before anything is done to it."""
    workspace = Workspace(tmp_path_factory.mktemp("finished"), tiny_model)
    assert main(workspace.train()) == 0
    return workspace


@pytest.fixture
def copied_run(finished_run: Workspace, tmp_path: Path) -> Workspace:
    copy = Workspace(finished_run.folder, finished_run.model)
    shutil.copytree(finished_run.run, tmp_path / "run")
    copy.folder = tmp_path
    return copy
