"""The key of a store of encoder states: a hash of everything that they depend on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from functools import lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import soundfile
import soxr
import torch

from whispertune.augment import drop_chunk, drop_frequency, noise, pipeline, spec_augment, speed
from whispertune.augment.options import AugmentOptions
from whispertune.data.audio import av_decoder, containers, levels, recording, sound_files
from whispertune.data.audio import waveforms as audio
from whispertune.data.remote import RemotePath, content_sha256
from whispertune.dataset import windows
from whispertune.dataset.windows import Window
from whispertune.features import frames
from whispertune.features import log_mel as features
from whispertune.model import attention, layers, padded_attention, whisper
from whispertune.model import packed_lengths as rows
from whispertune.model.whisper import Encoder
from whispertune.states import computed as states
from whispertune.states.files import FORMAT
from whispertune.states.stored import StateLayout

COMPUTING: tuple[ModuleType, ...] = (
    audio, sound_files, levels, recording, containers, av_decoder, windows, features, frames, states, whisper, layers,
    attention, padded_attention, rows,
)  # fmt: skip
"""Modules that compute states; their source is part of the key, in place of version numbers."""
AUGMENTING: tuple[ModuleType, ...] = (pipeline, speed, noise, drop_frequency, drop_chunk, spec_augment)
SOURCE = {
    module: hashlib.sha256(Path(module.__file__ or "").read_bytes()).hexdigest()
    for module in (*COMPUTING, *AUGMENTING)
}  # fmt: skip
"""Read at import, as an upgrade may replace the files during a run."""


MOST_FILES = 1 << 16
"""Files whose size and time, or hash, is remembered; the rows of one usually follow each other."""


def encoder_digest(encoder: Encoder) -> str:
    """sha256 of the encoder's heads and tensors: names, types, shapes and bits."""
    digest = hashlib.sha256(f"{encoder.num_heads} heads\n".encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _file(path: Path, *, content: bool) -> list[Any]:
    """A file by path, size and modification time (of a URL: by itself), or by its content."""
    if content:
        return [content_sha256(path)]
    if isinstance(path, RemotePath):
        return [str(path)]
    found = path.stat()
    return [os.path.abspath(path), found.st_size, found.st_mtime_ns]  # noqa: PTH100 - resolve() follows links


def _av_version() -> str | None:
    try:
        return version("av")
    except PackageNotFoundError:
        return None


def store_key(
    encoder: str,
    chosen: Sequence[Window],
    layout: StateLayout,
    *,
    n_mels: int,
    device: torch.device,
    content: bool = False,
    augment: AugmentOptions | None = None,
    noises: Sequence[Path] = (),
    seed: int = 0,
    view: int = 0,
) -> str:
    """sha256 (64 hexadecimal digits) of everything that the bits of these windows' states depend on.

    encoder: its digest. content: hash audio files instead of trusting path, size and modification time. With `augment`
    it is the key of one view, which also depends on seed, view, the ids that seed the draws, and the noise files.

    Raises:
        OSError: if an audio file is missing.
    """
    file = lru_cache(maxsize=MOST_FILES)(partial(_file, content=content))
    described = {
        "format": FORMAT,
        "versions": [
            torch.__version__,
            np.__version__,
            soxr.__version__,
            soundfile.__libsndfile_version__,
            _av_version(),
        ],
        "source": [SOURCE[module] for module in COMPUTING],
        "encoder": encoder,
        "n_mels": n_mels,
        "device": device.type,
        "precision": layout.precision.name,
        "frames": dataclasses.asdict(layout.frames),
    }
    if augment is not None:
        options = dataclasses.asdict(augment)
        for name in ("keep_original", "views"):  # they decide how views are used, not their content
            del options[name]
        described |= {
            "augment": options,
            "augmenting": [SOURCE[module] for module in AUGMENTING],
            "draws": [seed, view],
            "noise": [_file(path, content=content) for path in dict.fromkeys(noises)],
        }
    # Ids and paths that are not UTF-8 hold lone surrogates, which JSON escapes.
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    digest.update(np.asarray(layout.first_rows, np.int64).tobytes())  # where batches begin
    for window, num_samples in zip(chosen, layout.num_samples, strict=True):  # one by one, as there may be millions
        spans = [[file(u.audio), u.within, u.channel, u.start, u.end] for u in window.utterances]
        ids = [] if augment is None else [window.id, *(u.id for u in window.utterances)]
        digest.update(json.dumps([num_samples, spans, [window.lead, *window.pauses], ids]).encode())
    return digest.hexdigest()
