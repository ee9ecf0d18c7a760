"""The two sides of the parity tests: `theirs` (transformers) and `ours`, with the same weights and clips."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from clips import FEW, Clips, load_or_skip, read_clips

from whispertune.checkpoints.huggingface import save_huggingface
from whispertune.decoding.loading import ReadyModel
from whispertune.states.computed import EncoderStates

sys.path.append(str(Path(__file__).parents[1] / "model"))  # random_whisper.py


@pytest.fixture(scope="session")
def base() -> ReadyModel:
    return load_or_skip("packaged:whisper-base")


@pytest.fixture(scope="session")
def base_folder(base: ReadyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """whisper-base as a run would save it to best/."""
    folder = tmp_path_factory.mktemp("parity") / "base"
    save_huggingface(folder, base.checkpoint, base.whisper.state_dict(), language="it", model_card=None)
    return folder


@pytest.fixture(scope="session")
def their_base(base_folder: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.WhisperForConditionalGeneration.from_pretrained(base_folder).eval()


@pytest.fixture(scope="session")
def few() -> Clips:
    clips = read_clips("valid")
    by_id = {u.id: i for i, u in enumerate(clips.utterances)}
    return clips.only([by_id[name] for name in FEW])


@pytest.fixture(scope="session")
def few_states(base: ReadyModel, few: Clips) -> EncoderStates:
    return few.states(base)


@pytest.fixture(scope="session")
def valid() -> Clips:
    return read_clips("valid")


@pytest.fixture(scope="session")
def test() -> Clips:
    return read_clips("test")
