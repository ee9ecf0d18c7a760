"""The Italian example clips, and the packaged models, for the parity tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from whispertune.data.audio.waveforms import load_waveform
from whispertune.data.readers.manifest import read_manifest
from whispertune.data.utterances import Utterance
from whispertune.decoding.loading import ReadyModel, load_model
from whispertune.errors import CheckpointError
from whispertune.features.options import DENSE, FrameOptions
from whispertune.states.computed import EncoderStates, WindowFeatures, encode, window_features
from whispertune.text.targets import Target, make_target

EXAMPLES = Path(__file__).parents[2] / "examples" / "italian-prompts"
FEW = ["agent-loggedoff", "queue-quantity1", "dir-last", "vm-invalidpassword", "digits_h-17", "letters_zed"]
"""Valid clips of 0.6 to 3.1 s, well and badly recognised."""


@dataclass(frozen=True)
class Clips:
    """Utterances and their waveforms."""

    utterances: list[Utterance]
    waveforms: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.utterances)

    def only(self, indices: Sequence[int]) -> Clips:
        return Clips([self.utterances[i] for i in indices], [self.waveforms[i] for i in indices])

    def features(self, index: int, frames: FrameOptions) -> WindowFeatures:
        return window_features(self.waveforms[index], 80, frames)

    @torch.inference_mode()
    def states(self, ready: ReadyModel, frames: FrameOptions = DENSE) -> EncoderStates:
        return encode(ready.whisper.encoder, [self.features(i, frames) for i in range(len(self))])

    def targets(self, ready: ReadyModel, language: str | None = "it") -> list[Target]:
        tokenizer = ready.tokenizer
        prompt = tokenizer.prompt_tokens(language)
        return [
            make_target(prompt, tokenizer.text_ids(u.text, language), tokenizer.eot, sot=tokenizer.sot)
            for u in self.utterances
        ]


def read_clips(*splits: str) -> Clips:
    utterances = [u for split in splits for u in read_manifest(EXAMPLES / f"{split}.csv")]
    return Clips(utterances, [load_waveform(u.audio) for u in utterances])


def load_or_skip(model: str) -> ReadyModel:
    try:
        return load_model(model, torch.device("cpu"))
    except CheckpointError as error:
        if "is not installed" in str(error):
            pytest.skip(str(error))
        raise
