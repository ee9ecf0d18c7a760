"""A tiny model, a few real clips, and the command line to run on them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "checkpoints")]
import checkpoint_samples
from cli_samples import Command, Outcome, Workspace

from whispertune.checkpoints.generation import complete_generation, complete_preprocessor
from whispertune.checkpoints.huggingface import save_huggingface
from whispertune.checkpoints.layout import Checkpoint, expected_shapes
from whispertune.checkpoints.tokenizer_files import build_tokenizer, complete_tokenizer
from whispertune.cli import main


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


@pytest.fixture
def workspace(tmp_path: Path, tiny_model: Path) -> Workspace:
    return Workspace(tmp_path, tiny_model)


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
