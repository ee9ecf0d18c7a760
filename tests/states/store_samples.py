"""A tiny encoder, a few waveforms, and their states in files."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from whispertune.features.options import FrameOptions
from whispertune.states.computed import WindowFeatures, window_features
from whispertune.states.files import StateFolder
from whispertune.states.stored import StateLayout, StoredStates
from whispertune.system.precision import Precision

sys.path.append(str(Path(__file__).parents[1] / "model"))
from random_whisper import random_whisper

FP32 = Precision("fp32")
ENCODER = random_whisper().encoder
WIDTH = 32
# Kept frames are 175 and more: short edges make small stores.
FRAMES = FrameOptions(edge=2, margin=1, stride=200)
LENGTHS = [40_000, 5_000, 90_000, 300, 33_000, 5_000, 60_000]
WAVEFORMS = [
    (0.1 * np.random.default_rng(seed).standard_normal(n)).astype(np.float32) for seed, n in enumerate(LENGTHS)
]
KEY = "0123456789abcdef" * 4


def features(index: int, frames: FrameOptions = FRAMES) -> WindowFeatures:
    return window_features(WAVEFORMS[index], 80, frames)


def layout(precision: Precision = FP32, frames: FrameOptions = FRAMES) -> StateLayout:
    return StateLayout(LENGTHS, frames, WIDTH, precision)


def on_disk(folder: Path, precision: Precision = FP32, key: str = KEY) -> StoredStates:
    shape = layout(precision)
    return StoredStates(shape, StateFolder(folder / key, key, shape.batch_bytes))


def fill(store: StoredStates) -> list[int]:
    """Encode what is missing; the batches that were."""
    batches = store.missing()
    windows = sum(store.fill(batches, ENCODER, features, workers=2))
    assert windows == sum(len(store.layout.batches[number]) for number in batches)
    return batches


def in_memory(precision: Precision = FP32) -> torch.Tensor:
    """All states, never written anywhere."""
    store = StoredStates(layout(precision))
    fill(store)
    return everything(store)


def everything(store: StoredStates) -> torch.Tensor:
    return store.fetch(range(len(LENGTHS))).states
