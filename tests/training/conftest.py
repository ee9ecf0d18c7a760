from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from whispertune.run import stages

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "model")]  # random_whisper.py
from process_samples import Launcher
from training_samples import Runner, Samples, make_samples


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    return make_samples(tmp_path_factory.mktemp("samples"))


@pytest.fixture(scope="session")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    runner = Runner(tmp_path_factory.mktemp("runner") / "log")
    yield runner
    runner.close()


@pytest.fixture(scope="session")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    launcher = Launcher(tmp_path_factory.mktemp("launcher") / "logs")
    yield launcher
    launcher.close()


@pytest.fixture(autouse=True)
def _few_windows_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison of thinned with dense windows, before each run, on 2 clips instead of 16."""
    monkeypatch.setattr(stages, "CHECKED_WINDOWS", 2)


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    """Tiny products are slowed down by threads, and the machine may be busy; before any run that others are compared
    with, since the last bits of a sum depend on the number of threads.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
