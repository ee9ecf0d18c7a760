"""For all tests: a cache folder of its own for each, never the user's; and what hypothesis draws.

Its examples are the same in every run. `pytest --examples 5000 TEST` draws so many new ones.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

sys.path.append(str(Path(__file__).parent / "checkpoints"))
import checkpoint_samples

from whispertune.checkpoints.tokenizer_files import build_tokenizer, complete_tokenizer
from whispertune.dataset.transcripts import TextSettings
from whispertune.states import cache, placement
from whispertune.text.tokenizer import Tokenizer

settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--examples", type=int, help="new examples for each test that hypothesis draws for")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if (number := config.getoption("--examples")) is None:
        return
    for item in items:
        test = getattr(item, "obj", None)
        if chosen := getattr(test, "_hypothesis_internal_use_settings", None):
            test._hypothesis_internal_use_settings = settings(chosen, max_examples=number, derandomize=False)


@pytest.fixture(scope="session", autouse=True)
def _no_cache_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For fixtures that live longer than a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def state_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where this test's runs put their stores, on a disk with room, however full that of the machine is."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    for module in (cache, placement):
        monkeypatch.setattr(module, "free_bytes", lambda path: 10**12)
    yield folder / "whispertune" / "states"
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """Multilingual, a token a byte."""
    alphabet = checkpoint_samples.byte_alphabet()
    unused = [f"unused{number}" for number in range(50_257 - len(alphabet))]
    vocab = {token: number for number, token in enumerate([*alphabet, *unused, "<|endoftext|>"])}
    shift = len(vocab) - len(checkpoint_samples.VOCAB)
    specials = {name: number + shift for name, number in checkpoint_samples.SPECIALS.items()}
    text, _ = complete_tokenizer(build_tokenizer(vocab, [], specials), 51_865, "tiny")
    return Tokenizer.from_json(text, 51_865)


@pytest.fixture(scope="session")
def text(tokenizer: Tokenizer) -> TextSettings:
    return TextSettings(tokenizer, "it", "transcribe")
